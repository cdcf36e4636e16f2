"""The survey of errors of accept(2), and of the wait for it: each verdict with its reason.

The same survey serves the accept of a single connection, which raises what is not
"next", and the accept loop of a server, which also survives a shortage.
"""

from __future__ import annotations

import enum
import errno
from typing import Final


class Verdict(enum.Enum):
    """What an accept loop does about an error."""

    WAIT = "nothing is there: wait until the socket is readable"
    NEXT = "this connection is gone: take the next one"
    SHORTAGE = "the system is short of something: pause, then try again"
    STOP = "the listener is of no further use: stop it, and say so"


def _numbers(*names: str) -> list[int]:
    """The errnos of these names that this system has."""
    return [getattr(errno, name) for name in names if hasattr(errno, name)]


def _survey() -> dict[int, tuple[Verdict, str]]:
    rows: list[tuple[Verdict, str, list[int]]] = [
        (
            Verdict.WAIT,
            "nothing is there, or a signal came",
            _numbers("EAGAIN", "EWOULDBLOCK", "EINTR"),
        ),
        (
            Verdict.NEXT,
            "it died in the queue: BSD tells; Linux hands such a child out",
            _numbers("ECONNABORTED", "EPROTO"),
        ),
        (Verdict.NEXT, "a firewall refused it", _numbers("EPERM")),
        (
            Verdict.NEXT,
            "accept(2): pending errors of the new socket are passed on as accept's own",
            _numbers(
                "ENETDOWN",
                "ENOPROTOOPT",
                "EHOSTDOWN",
                "ENONET",
                "EHOSTUNREACH",
                "EOPNOTSUPP",
                "ENETUNREACH",
                "ETIMEDOUT",
                "ECONNRESET",
                "ENOSR",
                "ESOCKTNOSUPPORT",
                "EPROTONOSUPPORT",
            ),
        ),
        (
            Verdict.SHORTAGE,
            "no descriptor: the queue keeps the clients, and poll goes on saying readable",
            _numbers("EMFILE", "ENFILE"),
        ),
        (Verdict.SHORTAGE, "no memory in the kernel", _numbers("ENOBUFS", "ENOMEM")),
        (
            Verdict.SHORTAGE,
            "the wait failed: epoll's memory or its watches are used up; the next one succeeds",
            _numbers("ENOSPC", "EEXIST", "ENOENT"),
        ),
        (
            Verdict.STOP,
            "closed behind our back, and maybe another's by now",
            _numbers("EBADF", "ENOTSOCK", "EFAULT"),
        ),
        (Verdict.STOP, "it listens no longer: somebody shut it down", _numbers("EINVAL")),
    ]
    return {number: (verdict, why) for verdict, why, numbers in rows for number in numbers}


_SURVEY: Final = _survey()

#: So many "next" in a row without a child count as a shortage: an errno that never
#: stops must not spin.
NEXT_IN_A_ROW: Final = 16


def verdict_of(exc: OSError) -> Verdict:
    """What to do about *exc*; an errno that the survey lacks must not stop a server."""
    return _SURVEY.get(exc.errno or 0, (Verdict.SHORTAGE, ""))[0]


def reason_of(exc: OSError) -> str:
    """Why: the survey's words for *exc*."""
    return _SURVEY.get(exc.errno or 0, (Verdict.SHORTAGE, "unknown to the survey"))[1]
