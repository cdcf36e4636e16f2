"""Arming the shim, from inside a program that runs under it."""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sockscope.testing import open_descriptors


@functools.cache
def _shim() -> ctypes.CDLL:
    """The shim that this process was started with; the loader has it already."""
    return ctypes.CDLL(os.environ["LD_PRELOAD"])


def fault_set(call: str, error: int, nth: int = 1, always: bool = False, fd: int = -1) -> None:
    """Make the *nth* call from now on fail with the errno *error*; see `fault`."""
    if _shim().fault_set(call.encode(), error, nth, always, fd):
        raise ValueError(f"the shim does not know the call {call!r}")


def fault_clear(call: str) -> None:
    """Let *call* succeed again; its count stays."""
    fault_set(call, 0)


def fault_count(call: str) -> int:
    """How often *call* has failed since it was armed last."""
    return _shim().fault_count(call.encode())


def spare_open_descriptors() -> None:
    """Let no call fail that is about a descriptor which is open now.

    Trio's wake-up is among them: no program outlives a fault there, so a test that lets
    threads run, and opens all it has within `fault`, calls this first.
    """
    for number in open_descriptors():
        _shim().fault_spare(number)


@contextmanager
def fault(
    call: str, error: int, *, nth: int = 1, always: bool = False, fd: int = -1
) -> Iterator[Callable[[], int]]:
    """Make *call* fail within the body.

    Args:
      call: as the C library names it: CPython's ``recv_into`` is ``recv``, ``accept`` is
        ``accept4``, ``sendfile`` and the others are what they are called. ``close``
        closes, and then reports the error.
      error: the errno.
      nth: the first call to fail, counted from 1 at this line, in all threads.
      always: whether all calls after it fail as well.
      fd: count and fail only calls about this descriptor; of ``epoll_ctl`` it is the one
        to be watched, and ``socket``, ``socketpair`` and ``epoll_create1`` have none.

    Yields:
      A function that tells how often it has failed: a test in which it never did proves
      nothing.
    """
    fault_set(call, error, nth, always, fd)
    try:
        yield lambda: fault_count(call)
    finally:
        fault_clear(call)
