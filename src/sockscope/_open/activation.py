"""Sockets that the service manager has opened and passed: systemd's socket activation.

They are descriptors from 3 on, as many as LISTEN_FDS says, for the process LISTEN_PID,
and LISTEN_FDNAMES has their names. The variables are the only record of what is still to
be taken: what is taken is struck out of them, so that nothing has two owners, and a child
process is not told of descriptors that it does not have.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, TypeAlias

from sockscope._core.errors import SocketError, WrongSocketError
from sockscope._open.descriptors import OurSocket, socket_from_fd
from sockscope._sockets.adopting import Connect

#: The first descriptor that is passed (SD_LISTEN_FDS_START).
FIRST_DESCRIPTOR: Final = 3
_VARIABLES: Final = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
# systemd gives names without control characters, so that this is none.
_TAKEN: Final = "\x01"
# What systemd's own functions call a socket when no names were passed.
_NAMELESS: Final = "unknown"


Prepare: TypeAlias = Callable[[OurSocket], None]


class Passed(NamedTuple):
    """A descriptor that was passed and has not been taken yet."""

    name: str
    number: int


def passed_descriptors() -> list[Passed]:
    """What was passed to this process and is still to be taken.

    Raises:
      ValueError: a variable is malformed.
    """
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    text = os.environ.get("LISTEN_FDS", "")
    if not (text.isascii() and text.isdigit()) or len(text) > 9:
        raise ValueError(f"LISTEN_FDS={text!r} is not a number of descriptors")
    names = _names(int(text))
    passed = [Passed(name, FIRST_DESCRIPTOR + index) for index, name in enumerate(names)]
    return [each for each in passed if each.name != _TAKEN]


def _names(count: int) -> list[str]:
    text = os.environ.get("LISTEN_FDNAMES")
    if text is None:
        return [_NAMELESS] * count
    names = text.split(":") if count else []
    if len(names) != count:
        raise ValueError(f"LISTEN_FDNAMES={text!r} has {len(names)} names, LISTEN_FDS={count}")
    return names


def _strike_out(taken: Sequence[Passed]) -> None:
    if not taken:
        return
    numbers = {each.number for each in taken}
    if numbers.issuperset(each.number for each in passed_descriptors()):
        for variable in _VARIABLES:
            os.environ.pop(variable, None)
        return
    names = _names(int(os.environ["LISTEN_FDS"]))
    for number in numbers:
        names[number - FIRST_DESCRIPTOR] = _TAKEN
    os.environ["LISTEN_FDNAMES"] = ":".join(names)


def activated_sockets() -> dict[str, list[OurSocket]]:
    """Take the sockets that the service manager has passed, by name.

    Returns:
      For each name (``FileDescriptorName=``, else the unit's) its sockets, in order: a
      unit may pass several under one name. Listening ones are `PassiveSocket`s, datagram
      ones `DatagramSocket`s, and a connection (``Accept=yes``) is a `StreamSocket`.
      Empty if nothing was passed to this process, or all has been taken. What is no
      socket that we know, such as a FIFO, is left alone, but made close-on-exec.

    Raises:
      SocketError: a descriptor is not open; none was taken.
      ValueError: a variable is malformed.

    They are the caller's to close; a path stays, for it is the service manager's. The
    variables LISTEN_PID, LISTEN_FDS and LISTEN_FDNAMES are removed from the environment.

    A plain function. Source: sd_listen_fds(3), systemd.socket(5); Emacs's
    ``:use-external-socket`` (seed 000).

    Example::

        listeners = sockscope.activated_sockets().get("web") or [("localhost", 8080)]
        async with sockscope.serve_passive(listeners, handler):
            ...
    """
    passed = passed_descriptors()
    sockets: dict[str, list[OurSocket]] = {}
    for name, socket in _take(passed, None, None):
        sockets.setdefault(name, []).append(socket)
    return sockets


def take_activated(
    name: str, connect: Connect, prepare: Prepare, *, only_first: bool
) -> list[OurSocket]:
    """Take the sockets that were passed under *name*: what ``activated:NAME`` stands for.

    Args:
      name: as the service manager knows it.
      connect: what each must be.
      prepare: called with each; if it raises, none is taken.
      only_first: leave the others of that name for a later call.

    Raises:
      SocketError: there is none of that name (``ENOENT``).
      WrongSocketError: one is not what *connect* says; none was taken.
      ValueError: a variable is malformed.
    """
    passed = passed_descriptors()
    chosen = [each for each in passed if each.name == name]
    if not chosen:
        others = ", ".join(sorted({repr(each.name) for each in passed})) or "nothing"
        raise SocketError(
            errno.ENOENT,
            f"cannot use activated:{name}: no socket of that name was passed"
            f" to this process, or it has been taken; there is {others}",
        )
    if only_first:
        del chosen[1:]
    return [socket for _, socket in _take(chosen, connect, prepare)]


def _take(
    passed: Sequence[Passed], connect: Connect, prepare: Prepare | None
) -> list[tuple[str, OurSocket]]:
    """Own all of *passed*, or none of them; without *prepare* strangers are let be."""
    taken: list[tuple[str, OurSocket]] = []
    try:
        for name, number in passed:
            try:
                socket = socket_from_fd(number, connect=connect)
            except SocketError as exc:
                if prepare is not None or not _is_stranger(exc):
                    raise
                os.set_inheritable(number, False)
                continue
            taken.append((name, socket))
            if prepare is not None:
                prepare(socket)
    except BaseException:
        for _, socket in taken:
            socket.detach()
        raise
    _strike_out(passed)
    for _, socket in taken:
        socket._hand_over()  # the service manager has it, too
    return taken


def _is_stranger(exc: SocketError) -> bool:
    """Whether it is open, but no socket that we know."""
    return isinstance(exc, WrongSocketError) or exc.errno == errno.ENOTSOCK
