"""Between rows and one socket: where it stands, what it holds, and what a failure means."""

from __future__ import annotations

import enum
import errno
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, cast

from sockscope._core.errors import OptionError, UnsupportedOptionError, words_for
from sockscope._options import kinds
from sockscope._options.codec import BOOL, wrong_type
from sockscope._options.codec_struct import Interface
from sockscope._options.model import Option, Phase, RawSocket, Step

# What a system without the option says; which of the two depends on family and level.
UNSUPPORTED = frozenset({errno.ENOPROTOOPT, errno.EOPNOTSUPP})


NOT_APPLIED = "not applied, or changed since"


class Wrapped(Protocol):
    """A socket of ours: it gives what the options are set on."""

    def _option_target(self) -> RawSocket: ...


SocketLike = RawSocket | Wrapped
"""A socket of sockscope's, of Trio's or of the standard library's."""


def unwrap(sock: SocketLike) -> RawSocket:
    """What of *sock* has getsockopt and setsockopt.

    Raises:
      TypeError: it is no socket.
    """
    target = getattr(sock, "_option_target", None)
    is_class = isinstance(sock, type)
    raw: Any = target() if callable(target) and not is_class else sock
    # A Trio stream has getsockopt, too, but does not say of what.
    if is_class or not (hasattr(raw, "getsockopt") and hasattr(raw, "family")):
        wanted = "a socket of sockscope's, of Trio's or of the standard library's"
        raise wrong_type("sock", wanted, sock)
    return cast("RawSocket", raw)


class Stage(enum.Enum):
    """How far a socket has come."""

    FRESH = "before bind"
    BOUND = "after bind"
    LISTENING = "after listen"
    CONNECTED = "after connect"


def stage_of(sock: RawSocket) -> Stage:
    """Where *sock* stands, as its system calls tell."""
    if _is_listening(sock):
        return Stage.LISTENING
    try:
        sock.getpeername()
        return Stage.CONNECTED
    except OSError:
        pass  # ENOTCONN
    try:
        name = sock.getsockname()
    except OSError:
        return Stage.FRESH  # Windows, before bind
    # Unbound, it is ("0.0.0.0", 0), "::" likewise, or "" for a local one. One of a family
    # that Python has no such form for counts as bound only by what follows.
    if isinstance(name, tuple):
        # A raw socket has its protocol in the place of the port.
        port = 0 if sock.type == socket.SOCK_RAW else name[1]
        return Stage.BOUND if port != 0 or name[0] not in _WILDCARDS else Stage.FRESH
    return Stage.BOUND if name else Stage.FRESH


_WILDCARDS = ("0.0.0.0", "::", "")


def _is_listening(sock: RawSocket) -> bool:
    try:
        return BOOL.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # macOS does not tell


def is_late(option: Option, stage: Stage) -> bool:
    """Whether *option* can no longer take effect."""
    if option.phase is Phase.BIND:
        return stage is not Stage.FRESH
    if option.phase is Phase.HANDSHAKE:
        return stage is Stage.CONNECTED
    return option.phase is Phase.CREATION


def is_dual_stack(sock: RawSocket) -> bool:
    """Whether an IPv6 socket takes IPv4 traffic, too."""
    return not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


def names_interface(option: Option, value: object) -> bool:
    """Whether *value* has to be looked up each time it is set."""
    return isinstance(option.codec, Interface) and isinstance(value, str)


def without_mapped(steps: Sequence[Step], sock: RawSocket, kind: str) -> Sequence[Step]:
    """*steps* for *sock*: without those for IPv4-mapped traffic if it has none."""
    if all(kind in step.target.kinds for step in steps) or is_dual_stack(sock):
        return steps
    return [step for step in steps if kind in step.target.kinds]


def holds(option: Option, value: Any, sock: RawSocket, kind: str) -> bool:
    """Whether the kernel already has *value*, as far as it tells."""
    if option.volatile or not option.is_readable(kind):
        return False
    try:
        return matches(option, value, sock, kind)
    except OSError:
        return False


def matches(option: Option, value: Any, sock: RawSocket, kind: str) -> bool:
    """Whether the kernel has what setting *value* makes, in each option behind it that it tells.

    Raises:
      OSError: as getsockopt(2).
    """
    if option.phase is Phase.CREATION:
        return bool(read_value(option, sock, kind) == value)
    return all(
        step.codec.matches(step.raw, step.target.read(sock, step.codec))
        for step in without_mapped(option.steps(value, kind), sock, kind)
        if step.target.readable
    )


def read_value(option: Option, sock: RawSocket, kind: str) -> Any:
    """What the kernel holds for *option*.

    Raises:
      OSError: as getsockopt(2); ENOPROTOOPT where the system or the kind of socket has none,
        or does not give it back.
    """
    targets = option.targets_for(kind)
    if not option.is_readable(kind):
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
    if option.gather is not None:
        return option.gather(option, sock, kind)
    codec = targets[0].codec or option.codec
    return codec.unpack(targets[0].read(sock, codec))


@contextmanager
def scratch_socket(kind: str) -> Iterator[socket.socket]:
    """A socket of *kind* to try things on; it is closed, and nothing is sent by it."""
    family, type_ = kinds.family_and_type(kind)
    proto = socket.IPPROTO_ICMP if kind in kinds.RAW else 0
    with socket.socket(family, type_, proto) as sock:
        yield sock


def system_default(option: Option, kind: str) -> Any:
    """What a fresh socket of *kind* holds.

    Raises:
      OSError: no such socket can be made, or it has no such option.
    """
    with scratch_socket(kind) as sock:
        return read_value(option, sock, kind)


Label = str | tuple[int, int]


def failed(
    option: Option, label: Label, value: object, exc: OSError, phase: str, verb: str = "set"
) -> OptionError:
    """What to raise for *exc*: the option, its value unless it is secret, and the way out."""
    cls = UnsupportedOptionError if exc.errno in UNSUPPORTED else OptionError
    what = f"{label} to {option.shown(value)!r} {phase}" if verb == "set" else f"{label}"
    hint = ""
    if exc.errno in (errno.EPERM, errno.EACCES) and option.privilege:
        hint = f" (it needs {option.privilege})"
    error = cls(
        exc.errno,
        f"cannot {verb} {what}: {words_for(exc)}{hint}",
        option=label,
        value=option.shown(value),
        phase=phase,
    )
    error.__cause__ = exc
    return error


def unsuited(option: Option, kind: str) -> OSError | None:
    """The error for an *option* that sockets of *kind* do not have; None if they do."""
    if option.targets_for(kind):
        return None
    if option.user:
        return OSError(errno.ENOPROTOOPT, "only streams of sockscope keep it, by Trio's clock")
    return OSError(errno.ENOPROTOOPT, f"{kinds.DESCRIPTIONS[kind]} has no such option")
