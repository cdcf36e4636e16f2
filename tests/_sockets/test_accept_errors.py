"""The survey of accept(2)'s errors, as RELIABILITY.md's table has it."""

from __future__ import annotations

import errno

import pytest

from sockscope._sockets.accept_errors import Verdict, reason_of, verdict_of

WAIT = ("EAGAIN", "EINTR")
NEXT = (
    "ECONNABORTED",
    "EPROTO",
    "EPERM",
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
)
SHORTAGE = ("EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "ENOSPC", "EEXIST", "ENOENT")
STOP = ("EBADF", "ENOTSOCK", "EFAULT", "EINVAL")
ROWS = [
    *((name, Verdict.WAIT) for name in WAIT),
    *((name, Verdict.NEXT) for name in NEXT),
    *((name, Verdict.SHORTAGE) for name in SHORTAGE),
    *((name, Verdict.STOP) for name in STOP),
]


@pytest.mark.parametrize(("name", "verdict"), ROWS)
def test_each(name, verdict):
    if not hasattr(errno, name):
        pytest.skip(f"this system has no {name}")
    exc = OSError(getattr(errno, name), "")
    assert verdict_of(exc) is verdict
    assert reason_of(exc)


@pytest.mark.parametrize("number", [None, 0, 9999])
def test_what_is_not_in_it_does_not_stop_a_server(number):
    exc = OSError(number, "new")
    assert verdict_of(exc) is Verdict.SHORTAGE
    assert "unknown" in reason_of(exc)
