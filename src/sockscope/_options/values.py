"""`SocketOptions`: the options of a socket as one value."""

from __future__ import annotations

import dataclasses
import functools
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from sockscope._core.errors import UnknownOptionError
from sockscope._core.frozen import refuse_changes
from sockscope._options.codec import INT_MAX, Int, bytes_to_text, text_to_bytes, wrong_type
from sockscope._options.codec_struct import FrozenMapping
from sockscope._options.kernel import SocketLike
from sockscope._options.model import Option
from sockscope._options.plan import apply_now
from sockscope._options.report import Report, check_options, read_options
from sockscope._options.table import SETTABLE, OptionFields, nearest

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")
_BY_NAME = {row.name: row for row in SETTABLE}
# Both ways, as in a merge either may come later.
_RIVALS = {
    row.name: row.excludes | {other.name for other in SETTABLE if row.name in other.excludes}
    for row in SETTABLE
}
_NO_PREFERENCE: frozenset[str] = frozenset()
_NO_EXTRA: Mapping[tuple[int, int], int | bytes] = FrozenMapping()


def _conflict(value: Any, other: Any) -> bool:
    """Whether two options that exclude each other, in either order, are stated so that they do."""
    if value is None or other is None:
        return False
    if isinstance(value, bool) and isinstance(other, bool):
        return value and other
    # keepalive=True only says what dead_peer says anyway; any timing of its own differs.
    return value is not True and other is not True


def _check_preferred(value: Any) -> frozenset[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Iterable):
        raise wrong_type("preferred", "a set of option names", value)
    names = frozenset(value)
    for name in names:
        if name not in _BY_NAME:
            hint = nearest(name, _BY_NAME) if isinstance(name, str) else ""
            raise ValueError(f"preferred names no option: {name!r}{hint}")
    return names


_EXTRA_INT = Int(-(2**31), 2**32 - 1)


def _check_extra(value: Any) -> Mapping[tuple[int, int], int | bytes]:
    if not isinstance(value, Mapping):
        raise wrong_type("extra", "a mapping of (level, name) to int or bytes", value)
    return FrozenMapping((_extra_key(key), _extra_value(key, item)) for key, item in value.items())


def _extra_key(key: Any) -> tuple[int, int]:
    if not isinstance(key, tuple) or len(key) != 2:
        raise wrong_type("extra", "keyed by (level, name)", key)
    level, number = (Int(0, INT_MAX).check("extra's level and name", part) for part in key)
    if (level, number) == (socket.SOL_SOCKET, socket.SO_ERROR):
        raise ValueError("extra cannot have SO_ERROR: reading it clears it")
    return level, number


def _extra_value(key: object, value: Any) -> int | bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(f"extra[{key}]", "an int or bytes", value)
    return _EXTRA_INT.check(f"extra[{key}]", value)


def _extra_from(plain: Any) -> Any:
    """``extra`` as a configuration has it."""
    if not isinstance(plain, Mapping):
        return plain
    extra = {}
    for text, value in plain.items():
        level, colon, number = str(text).partition(":")
        if not (colon and level.isdecimal() and number.isdecimal()):
            raise ValueError(f"extra must be keyed by 'level:number', not {text!r}")
        data = text_to_bytes("extra", value) if isinstance(value, str) else value
        extra[int(level), int(number)] = data
    return extra


def _with_hints(cls: type[T]) -> type[T]:
    """Let the constructor of *cls* name the nearest keyword for an unknown one."""
    construct: Callable[..., None] = cls.__init__

    @functools.wraps(construct)
    def __init__(self: T, *args: Any, **values: Any) -> None:
        for name in values:
            if name not in _FIELDS:
                hint = nearest(name, _FIELDS)
                raise TypeError(f"{cls.__name__} has no option {name!r}{hint}")
        construct(self, *args, **values)

    cls.__init__ = __init__  # type: ignore[method-assign,assignment]  # same signature
    return cls


@_with_hints
@refuse_changes
@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class SocketOptions(OptionFields):
    """Socket options by name; None, everywhere the default, leaves the system's or sockscope's.

    Values are checked here, before there is a socket. They are set in the order in which
    they take effect, whatever the order of the arguments. The table of options in the
    reference (or ``python -m sockscope options``) tells each one's type, unit, range and phase.

    Args:
      preferred: names of options whose failure is reported by `check` and not raised.
      extra: options that have no field: ``{(level, number): int or bytes}``.

    Raises:
      TypeError: a value is of the wrong type, or there is no such option; the message names
        the field, and the nearest one that there is.
      ValueError: a value is out of range, or two say the same thing differently.

    Example::

        SocketOptions(keepalive=KeepAlive(idle=30), traffic_class=0xB8, preferred={"busy_poll"})
    """

    preferred: AbstractSet[str] = _NO_PREFERENCE
    extra: Mapping[tuple[int, int], int | bytes] = _NO_EXTRA

    def __post_init__(self) -> None:
        """Check every value, and bring it into its normal form."""
        stated = list(self.stated())
        for option, value in stated:
            checked = option.codec.check(option.name, value)
            if checked is not value:
                object.__setattr__(self, option.name, checked)
        for option, _ in stated:
            for other in option.excludes:
                if _conflict(getattr(self, option.name), getattr(self, other)):
                    raise ValueError(f"{option.name} and {other} cannot both be stated")
        if self.no_checksum and self.gso_segment_size:
            raise ValueError("no_checksum and gso_segment_size cannot both be on")
        object.__setattr__(self, "preferred", _check_preferred(self.preferred))
        object.__setattr__(self, "extra", _check_extra(self.extra))

    def stated(self) -> Iterator[tuple[Option, Any]]:
        """Each option that is not None, with its value, in the order in which they are set.

        Returns:
          An iterator over pairs of a row of the table, whose ``name`` it is, and a value.
        """
        for option in SETTABLE:
            value = getattr(self, option.name)
            if value is not None:
                yield option, value

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            values = tuple((option.name, value) for option, value in self.stated())
            object.__setattr__(self, "_hash", hash((values, self.preferred, self.extra)))
            return self._hash

    def __repr__(self) -> str:
        shown = [f"{option.name}={option.shown(value)!r}" for option, value in self.stated()]
        if self.preferred:
            shown.append(f"preferred={set(self.preferred)!r}")
        if self.extra:
            # An extra option may be a key, too.
            keys = ", ".join(f"{key}: ..." for key in self.extra)
            shown.append(f"extra={{{keys}}}")
        return f"{type(self).__name__}({', '.join(shown)})"

    def __or__(self, other: SocketOptions) -> Self:
        """Both; where both state an option, the right one's counts.

        ``extra`` is merged key by key, ``preferred`` is what either prefers.
        """
        if not isinstance(other, SocketOptions):
            return NotImplemented
        merged: Self = _merged(self, other)
        return merged

    def replace(self, **changes: Any) -> Self:
        """A copy with *changes*.

        Args:
          changes: options by name, as the class takes them; None takes one back.

        Returns:
          Another one: they are immutable.

        Raises:
          TypeError, ValueError: as the class does.
        """
        return dataclasses.replace(self, **changes)

    def diff(self, other: SocketOptions) -> dict[str, tuple[Any, Any]]:
        """Where two differ.

        Args:
          other: the one to compare with.

        Returns:
          The name of each option that differs, with this one's value and *other*'s; None
          stands for what is not stated. Empty if they are equal.
        """
        pairs = {name: (getattr(self, name), getattr(other, name)) for name in _FIELDS}
        return {name: (mine, theirs) for name, (mine, theirs) in pairs.items() if mine != theirs}

    def to_mapping(self) -> dict[str, Any]:
        """What is stated, for JSON or TOML; `from_mapping` takes it back.

        Returns:
          Names, and values of the types that both formats have. Keys are in it in clear
          text, as a configuration has to have them.
        """
        mapping = {option.name: option.codec.plain(value) for option, value in self.stated()}
        if self.preferred:
            mapping["preferred"] = sorted(self.preferred)
        if self.extra:
            mapping["extra"] = {
                f"{level}:{number}": bytes_to_text(value) if isinstance(value, bytes) else value
                for (level, number), value in self.extra.items()
            }
        return mapping

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any]) -> Self:
        """Options from a configuration, as JSON and TOML give it.

        Enumerations are written by name in lower case, bytes as text or ``"hex:..."``,
        ``keepalive`` as a bool or a table, ``linger`` and ``dead_peer`` as seconds,
        ``extra`` as a table of ``"level:number"``.

        Args:
          mapping: names and values, as `to_mapping` gives them.

        Returns:
          The options, checked.

        Raises:
          UnknownOptionError: there is no such option; it is a TypeError and a ValueError.
          TypeError: a value is of the wrong type.
          ValueError: a value is out of range.
        """
        values: dict[str, Any] = {}
        for name, plain in mapping.items():
            if name not in _FIELDS:
                hint = nearest(name, _FIELDS)
                raise UnknownOptionError(None, f"there is no option {name!r}{hint}", option=name)
            option = _BY_NAME.get(name)
            if option is not None:
                values[name] = option.codec.from_plain(name, plain)
            else:
                values[name] = _extra_from(plain) if name == "extra" else plain
        return cls(**values)

    def apply(self, sock: SocketLike) -> None:
        """Set them on *sock*, whatever its state. Not a checkpoint.

        Args:
          sock: a socket of sockscope's, of Trio's or of the standard library's.

        Raises:
          TypeError: *sock* is no socket.
          OptionError: one failed, or came too late to take effect.
          UnsupportedOptionError: the system, or this kind of socket, does not have it.
          ExceptionGroup: several failed; the others are set.
        """
        apply_now(self, sock)

    @classmethod
    def read(cls, sock: SocketLike) -> Self:
        """The options that *sock* has, such that applying them makes another one like it.

        Sizes that Linux doubles are halved. What the system does not tell, or not as it was
        set (keys, say), is left out. Not a checkpoint.

        Args:
          sock: a socket of sockscope's, of Trio's or of the standard library's.

        Returns:
          All that is settable on this kind of socket, stated.

        Raises:
          TypeError: *sock* is no socket.
          OptionError: it cannot be read; the socket is closed, say.
          trio.ClosedResourceError: *sock* is one of sockscope's, and closed.
        """
        return cls(**read_options(sock))

    def check(self, sock: SocketLike) -> Report:
        """What became of each option stated here on *sock*, and why. Not a checkpoint.

        Nothing is set by it, and no failure is raised: it is in the report.

        Args:
          sock: a socket of sockscope's, of Trio's or of the standard library's.

        Returns:
          A mapping from each option's name to its `OptionResult`; ``report.ok`` says
          whether all are in effect.

        Raises:
          TypeError: *sock* is no socket.
          trio.ClosedResourceError: *sock* is one of sockscope's, and closed.
        """
        return check_options(self, sock)


_FIELDS: Mapping[str, Any] = {field.name: field for field in dataclasses.fields(SocketOptions)}


@functools.lru_cache(maxsize=128)
def _merged(left: Any, right: SocketOptions) -> Any:
    """What ``left | right`` is; kept, as a server's hook may merge for each connection."""
    values = {option.name: value for option, value in left.stated()}
    for option, value in right.stated():
        for rival in _RIVALS[option.name]:
            if _conflict(value, values.get(rival)):
                del values[rival]
        values[option.name] = value
    return type(left)(
        **values,
        preferred=left.preferred | right.preferred,
        extra={**left.extra, **right.extra},
    )
