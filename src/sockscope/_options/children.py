"""The options of accepted children: only the calls that are needed, and found out, not assumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sockscope._core.errors import OptionError
from sockscope._options import kinds
from sockscope._options.composed import MPTCP
from sockscope._options.kernel import holds, without_mapped
from sockscope._options.model import RawSocket, Target
from sockscope._options.plan import Action, actions_for, perform, perform_one, raise_all
from sockscope._options.values import SocketOptions

_PHASE = "after accept"
_Call = tuple[int, int, int | bytes]


class ChildPlan:
    """How one listening socket's children get their options.

    On Linux a child starts with nearly everything that its TCP listener has, and with next
    to nothing of a local one's. Which it is is read from the first child; from then on only
    what was missing is set.

    Args:
      options: for each child, the defaults included.
      family: the listening socket's.
      type: the listening socket's.
    """

    __slots__ = ("_actions", "_calls", "_explicit", "_kind")

    def __init__(self, options: SocketOptions, *, family: int, type: int) -> None:
        self._kind = kinds.kind_of(family, type)
        self._actions = actions_for(options, self._kind, "child")
        self._calls: Sequence[_Call] | None = None
        self._explicit = False

    def set_explicitly(self) -> None:
        """Set every option on every child from now on.

        For listening sockets whose own options were changed, or came from elsewhere: a child
        that was in the queue before has the old values.
        """
        self._explicit = True
        self._calls = None

    def apply(self, sock: RawSocket) -> None:
        """Set the options on a child. Not a checkpoint.

        Raises:
          OptionError: a required option failed, or makes no sense on a child; several are
            one ExceptionGroup.
        """
        calls = self._calls
        if calls is None:
            self._first(sock)
            return
        try:
            for level, number, value in calls:
                sock.setsockopt(level, number, value)
        except OSError:
            # Once more with care: for the error that tells, and for what is preferred.
            perform(self._actions, sock, self._kind, _PHASE)

    def _first(self, sock: RawSocket) -> None:
        """Set them one by one, and see which were there already.

        In their order, as one may overwrite the next (traffic_class does priority).
        """
        # A child of a Multipath TCP socket may be one of TCP: the next may differ.
        varied = sock.proto == MPTCP
        calls: list[_Call] = []
        errors: list[OptionError] = []
        for action in self._actions:
            if not (self._explicit or varied) and self._is_there(action, sock):
                continue
            error = perform_one(action, sock, self._kind, _PHASE)
            if error is None:
                calls.extend(self._calls_of(action, sock))
            elif action.required:
                errors.append(error)
        raise_all(errors)
        if not varied:
            self._calls = tuple(calls)

    def _is_there(self, action: Action, sock: RawSocket) -> bool:
        return action.problem is None and holds(action.option, action.value, sock, self._kind)

    def _calls_of(self, action: Action, sock: RawSocket) -> Iterator[_Call]:
        """The calls that set *action* on sockets like *sock*, on which they have worked."""
        for step in without_mapped(action.steps or (), sock, self._kind):
            target = step.target
            force = action.option.force
            if force is not None and _works(force, step.raw, sock):
                target = force
            yield target.level, target.number or 0, step.raw


def _works(target: Target, raw: int | bytes, sock: RawSocket) -> bool:
    """Whether this process may set *target*."""
    try:
        sock.setsockopt(target.level, target.number or 0, raw)
    except OSError:
        return False
    return True
