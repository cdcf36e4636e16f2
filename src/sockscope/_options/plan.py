"""Options onto a socket: compiled once for a kind of socket, then applied in the right order."""

from __future__ import annotations

import errno
import functools
import os
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import Any, Literal, NamedTuple, Protocol

from sockscope._core.errors import OptionError
from sockscope._options import kinds
from sockscope._options.codec import BufferSize, Bytes, Int
from sockscope._options.composed import MPTCP
from sockscope._options.features import supports
from sockscope._options.kernel import (
    Label,
    SocketLike,
    Stage,
    failed,
    holds,
    is_late,
    names_interface,
    stage_of,
    unsuited,
    unwrap,
    without_mapped,
)
from sockscope._options.model import Option, Phase, RawSocket, Step, Target

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

Role = Literal["active", "passive", "child"]


class Stated(Hashable, Protocol):
    """What a plan needs of `SocketOptions`."""

    @property
    def preferred(self) -> AbstractSet[str]:
        """Names whose failure is not raised."""
        ...

    @property
    def extra(self) -> Mapping[tuple[int, int], int | bytes]:
        """What has no field."""
        ...

    def stated(self) -> Iterable[tuple[Option, Any]]:
        """The options that are not None, in the order in which they are set."""
        ...


class Action(NamedTuple):
    """One option to set on sockets of one kind.

    ``steps`` is None if they have to be found each time, ``problem`` says why it can
    never be set.
    """

    option: Option
    label: Label
    value: Any
    required: bool
    steps: tuple[Step, ...] | None
    problem: OSError | None


# After the rows: an extra option is the user's last word.
_EXTRA = Option("an option by number", Int(-(2**31), 2**32 - 1))
# Its bytes may be a key.
_EXTRA_BYTES = replace(_EXTRA, secret=True)


def extra_row(value: int | bytes) -> Option:
    """The row that stands for an option by number."""
    return _EXTRA if isinstance(value, int) else _EXTRA_BYTES


def extra_step(key: tuple[int, int], value: int | bytes) -> Step:
    """The call for an option by number."""
    level, number = key
    target = Target(f"{level}:{number}", number, kinds.ALL, level=level)
    codec: Any = _EXTRA.codec if isinstance(value, int) else Bytes([len(value)], "bytes")
    return Step(target, codec, codec.pack(value))


def actions_for(options: Stated, kind: str, role: Role, *, ours: bool = True) -> list[Action]:
    """What *options* ask of a socket of *kind*, in order; problems are kept, not raised.

    *ours* says that the timers which only our streams keep will be kept.
    """
    actions = []
    for option, value in options.stated():
        if option.user and ours:
            continue
        problem = unsuited(option, kind)
        if role == "child" and option.not_for_children:
            problem = OSError(errno.EINVAL, f"not on a child: {option.not_for_children}")
        steps: tuple[Step, ...] | None = None
        if problem is None and not names_interface(option, value):
            steps = tuple(option.steps(value, kind))
        required = option.name not in options.preferred
        actions.append(Action(option, option.name, value, required, steps, problem))
    for key, raw in options.extra.items():
        row = extra_row(raw)
        actions.append(Action(row, key, raw, True, (extra_step(key, raw),), None))
    return actions


def perform(
    actions: Sequence[Action], sock: RawSocket, kind: str, phase: str, stage: Stage | None = None
) -> None:
    """Set all of *actions* on *sock*, even if one fails.

    Args:
      actions: in their order.
      sock: a raw socket.
      kind: its kind.
      phase: for the errors.
      stage: where it stands, if it may be too late for some.

    Raises:
      OptionError: one that is required failed.
      ExceptionGroup: several did.
    """
    errors = []
    for action in actions:
        error = perform_one(action, sock, kind, phase, stage)
        if error is not None and action.required:
            errors.append(error)
    raise_all(errors)


def raise_all(errors: Sequence[OptionError]) -> None:
    """Raise one error as itself, several as a group."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise ExceptionGroup("several socket options failed", errors)


def perform_one(
    action: Action, sock: RawSocket, kind: str, phase: str, stage: Stage | None = None
) -> OptionError | None:
    """Set one option; the error is returned, for the caller to weigh."""
    option, label, value, _required, steps, problem = action
    if problem is None and stage is not None and is_late(option, stage):
        if holds(option, value, sock, kind):
            return None  # what is wanted is there, however late
        problem = OSError(errno.EINVAL, f"it takes effect {_when(option)} only")
    if problem is not None:
        return failed(option, label, value, problem, phase)
    try:
        found = option.steps(value, kind) if steps is None else steps
        for step in without_mapped(found, sock, kind):
            set_step(step, option, sock)
    except OSError as exc:
        # Some options may be set once only, even to the same (bind_to_device).
        if holds(option, value, sock, kind):
            return None
        return failed(option, label, value, exc, phase)
    return None


def _when(option: Option) -> str:
    return "when a socket is made" if option.phase is Phase.CREATION else str(option.phase.value)


def set_step(step: Step, option: Option, sock: RawSocket) -> None:
    """One call; sizes beyond the system's limit are then forced, where the process may.

    Raises:
      OSError: as setsockopt(2); ENOPROTOOPT where this system has no such option.
    """
    target, codec, raw = step
    if target.number is None:
        raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
    sock.setsockopt(target.level, target.number, raw)
    force = option.force
    if force is None or force.number is None or isinstance(raw, bytes):
        return
    if codec.unpack(target.read(sock, codec)) < raw * BufferSize.factor:
        try:
            sock.setsockopt(force.level, force.number, raw)
        except OSError:
            pass  # not privileged: check() tells what became of it


class Plan:
    """What to set on sockets of one kind, and when.

    Attributes:
      protocol: for ``socket()``: 0, or Multipath TCP's.
    """

    __slots__ = ("_after", "_before", "_calls", "_kind", "_role", "protocol")
    _role: Role

    def __init__(self, actions: Sequence[Action], kind: str, role: Role) -> None:
        self._kind, self._role = kind, role
        self.protocol = 0
        before: list[Action] = []
        after: list[Action] = []
        for action in actions:
            if action.option.phase is Phase.CREATION and action.problem is None:
                action = self._choose_protocol(action)
            (after if action.option.after and role != "child" else before).append(action)
        self._before, self._after = tuple(before), tuple(after)
        self._calls = _plain_calls(before, kind)

    def _choose_protocol(self, action: Action) -> Action:
        """Take the protocol, unless this system lacks it: then the action tells."""
        if action.value and supports(action.option.name):
            self.protocol = MPTCP
        elif action.value:
            problem = OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
            return action._replace(problem=problem)
        return action

    def before(self, sock: RawSocket) -> None:
        """Set what can be set on a fresh socket; it has been made with `protocol`.

        Raises:
          OptionError: a required option failed; several are one ExceptionGroup.
        """
        if self._calls is not None:
            try:
                for level, number, value in self._calls:
                    sock.setsockopt(level, number, value)
                return
            except OSError:
                pass  # the long way tells which, and whether it matters
        perform(self._before, sock, self._kind, _BEFORE[self._role])

    def after(self, sock: RawSocket) -> None:
        """Set what takes effect only on a listening or connected socket.

        Raises:
          OptionError: a required option failed; several are one ExceptionGroup.
        """
        if self._after:
            perform(self._after, sock, self._kind, _AFTER[self._role])


def _plain_calls(
    actions: Sequence[Action], kind: str
) -> tuple[tuple[int, int, int | bytes], ...] | None:
    """The system calls of *actions*, where they are the same on every socket of *kind*."""
    calls: list[tuple[int, int, int | bytes]] = []
    for action in actions:
        if action.problem is not None or action.steps is None or action.option.force is not None:
            return None
        for target, _codec, raw in action.steps:
            if target.number is None or kind not in target.kinds:
                return None
            calls.append((target.level, target.number, raw))
    return tuple(calls)


_BEFORE: Mapping[Role, str] = {
    "active": "before connect",
    "passive": "before bind",
    "child": "after accept",
}
_AFTER: Mapping[Role, str] = {
    "active": Stage.CONNECTED.value,
    "passive": Stage.LISTENING.value,
    "child": "after accept",
}


@functools.lru_cache(maxsize=128)
def _compile(options: Stated, kind: str, role: Role) -> Plan:
    return Plan(actions_for(options, kind, role), kind, role)


def compile_plan(options: Stated, *, family: int, type: int, role: Role) -> Plan:
    """How to bring *options* onto sockets of *family* and *type*.

    It raises nothing: what is wrong is raised when the plan is applied. Plans are kept,
    as opening a connection to a name needs the same one for each attempt.

    Args:
      options: a `SocketOptions`.
      family: AF_INET, AF_INET6, AF_UNIX or another.
      type: SOCK_STREAM, SOCK_DGRAM or another.
      role: what becomes of the socket: it connects, it is bound, or it was accepted.
    """
    return _compile(options, kinds.kind_of(family, type), role)


def apply_now(options: Stated, sock: SocketLike, phase: str | None = None) -> None:
    """Set *options* on a socket of any state: what comes too late is an error.

    A socket of ours is told, so that it keeps its timers in step.

    Args:
      options: a `SocketOptions`.
      sock: a socket of sockscope's, of Trio's or of the standard library's.
      phase: where the socket stands, for the errors; None to say what is found.

    Raises:
      OptionError: a required option failed; several are one ExceptionGroup.
    """
    raw = unwrap(sock)
    changed = getattr(sock, "_options_changed", None)
    kind = kinds.kind_of(raw.family, raw.type)
    actions = actions_for(options, kind, "active", ours=callable(changed))
    # Finding out costs three system calls, and most options may be set at any time.
    limited = any(action.option.phase is not Phase.ANY for action in actions)
    stage = stage_of(raw) if limited or phase is None else None
    perform(actions, raw, kind, phase or (stage or Stage.FRESH).value, stage)
    if callable(changed):
        changed(options)
