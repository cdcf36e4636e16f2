"""Whether what a socket holds is what the kernel makes of a request, and why they differ.

What the kernel makes of one (doubled, rounded, clamped, masked) is found out on a fresh
socket, not reckoned: so a value that nobody set is never explained away.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sockscope._options import kinds
from sockscope._options.codec import BufferSize, Text
from sockscope._options.composed import MPTCP
from sockscope._options.kernel import NOT_APPLIED, UNSUPPORTED, read_value, without_mapped
from sockscope._options.model import Option, Phase, RawSocket, Target
from sockscope._options.table import TABLE
from sockscope._options.value_types import BufferLock

_SYSCTLS = Path("/proc/sys")
_LOCK = TABLE["buffer_lock"].targets[0].number
_LOCKS = {"send_buffer": BufferLock.SEND, "receive_buffer": BufferLock.RECEIVE}
Verdict = tuple[bool, str | None]


class Question(NamedTuple):
    """One option that was asked for, and what was found.

    ``matching`` says that it is what was asked, in the kernel's figures; ``stated`` is all
    that was asked for.
    """

    option: Option
    value: Any
    effective: Any
    matching: bool
    sock: RawSocket
    kind: str
    stated: Mapping[str, Any]


def ignored(kind: str) -> str:
    """The reason for an option that sockets of *kind* take in vain."""
    return f"{kinds.DESCRIPTIONS[kind]} takes it and ignores it"


def judge(question: Question) -> Verdict:
    """Whether it is in effect, and what there is to say."""
    option, value, effective, matching, sock, kind, stated = question
    if kind in option.ignored and value:
        return False, ignored(kind)
    if option.judge is not None:
        return option.judge(value, effective, sock)
    if _is_tuned(option, sock, kind, stated):
        return False, f"{NOT_APPLIED}: it is not fixed, so TCP tunes it"
    if matching:
        return True, None if option.codec.same(value, effective) else option.readback or None
    return _judge_other(question)


def _is_tuned(option: Option, sock: RawSocket, kind: str, stated: Mapping[str, Any]) -> bool:
    """Whether this is a buffer whose size is TCP's to choose, and nobody asked for that.

    A size that was set is fixed; a stated ``buffer_lock`` has the last word on it.
    """
    bit = _LOCKS.get(option.name)
    if bit is None or kind not in kinds.TCP or "buffer_lock" in stated:
        return False
    locks = _locks(sock)
    return locks is not None and not locks & bit


def _locks(sock: RawSocket) -> int | None:
    """Which buffers are fixed; None where the system does not tell."""
    try:
        return None if _LOCK is None else sock.getsockopt(socket.SOL_SOCKET, _LOCK)
    except OSError:
        return None


def _judge_other(question: Question) -> Verdict:
    """Another value than asked for: the kernel's version of it, or not it at all."""
    option, value, effective, _matching, sock, kind, _stated = question
    if _is_half(question):
        return False, "what it holds for IPv4 traffic is another value"
    try:
        made = _made_of(option, value, sock, kind)
    except OSError as exc:
        refused = exc.errno in (errno.EPERM, errno.EACCES)
        return False, _not_applied(option) if refused else "the system holds another value"
    if made != effective:
        return False, _not_applied(option)
    if option.rounds and effective >= value * getattr(option.codec, "factor", 1):
        return True, option.readback
    if limits := _limits(option, effective):
        return False, f"clamped by {', '.join(limits)}"
    if sock.proto == MPTCP:
        return False, "Multipath TCP ignores it, or has a value of its own"
    return False, option.readback or "the system takes it and holds another value"


def _is_half(question: Question) -> bool:
    """Whether a dual-stack socket has what was asked, but for its IPv4 traffic."""
    option, kind = question.option, question.kind
    return any(kind in target.mapped_kinds for target in option.targets) and option.codec.same(
        question.value, question.effective
    )


def _not_applied(option: Option) -> str:
    moved = f": {option.moved}" if option.moved else ""
    needs = f"; it needs {option.privilege}" if option.privilege else ""
    return f"{NOT_APPLIED}{moved}{needs}"


def fresh_socket(sock: RawSocket) -> socket.socket:
    """Another one of the kind of *sock*, to try things on; nothing is sent by it."""
    return socket.socket(sock.family, sock.type, sock.proto)


def _made_of(option: Option, value: Any, sock: RawSocket, kind: str) -> Any:
    """What the kernel makes of *value* on a socket like *sock*, unforced.

    Raises:
      OSError: there is no such socket to be had, or it does not take the value.
    """
    if isinstance(option.codec, Text) or option.phase is Phase.CREATION:
        return value  # kept as it is; trying out a name may load a module of the kernel
    with fresh_socket(sock) as fresh:
        if kind in kinds.TCP and (_locks(sock) or 0) & BufferLock.RECEIVE:
            _copy_receive_buffer(sock, fresh)  # the low-water mark is cut to half of it
        for step in without_mapped(option.steps(value, kind), fresh, kind):
            fresh.setsockopt(step.target.level, step.target.number or 0, step.raw)
        made = read_value(option, fresh, kind)
    return bool(made) if isinstance(value, bool) else made


def _copy_receive_buffer(sock: RawSocket, fresh: socket.socket) -> None:
    size = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    fresh.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size // BufferSize.factor)


def _limits(option: Option, effective: int) -> list[str]:
    """The limits that account for *effective*: their figure, or what doubling or halving makes."""
    found = ((name, _sysctl(name)) for name in option.limits)
    return [
        f"{name} ({text})"
        for name, text in found
        if any(effective in (int(n) // 2, int(n), int(n) * 2) for n in text.split())
    ]


def _sysctl(name: str) -> str:
    """The value of a limit; "" where there is no such file."""
    try:
        return " ".join(_SYSCTLS.joinpath(*name.split(".")).read_text().split())
    except OSError:
        return ""


def is_there(target: Target, sock: RawSocket) -> bool:
    """Whether *sock* is open, and sockets like it have *target*, which may not be readable.

    Four zero bytes are too short or a no to most: any answer but "no such option" will do.
    """
    if target.number is None:
        return False
    try:
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
    except OSError:
        return False
    try:
        with fresh_socket(sock) as fresh:
            fresh.setsockopt(target.level, target.number, bytes(4))
    except OSError as exc:
        return exc.errno not in UNSUPPORTED
    return True
