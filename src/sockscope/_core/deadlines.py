"""Timeouts: checked arguments, and scopes in which 0 still allows one try."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager

import trio


def check_timeout(timeout: float, argument: str = "timeout") -> float:
    """*timeout* as a float.

    Args:
      timeout: seconds from 0; `math.inf` for none.
      argument: its name, for the message.

    Raises:
      TypeError: it is no number; a bool is none either, for True would mean a second.
      ValueError: it is negative or NaN.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"{argument} must be a number of seconds, not {timeout!r}")
    if math.isnan(timeout) or timeout < 0:
        raise ValueError(f"{argument} must be 0 or more seconds, not {timeout!r}")
    return float(timeout)


@contextmanager
def deadline_after(timeout: float) -> Generator[trio.CancelScope, None, None]:
    """A cancel scope that ends after *timeout* seconds, but never before a first try.

    A scope entered with its deadline passed is cancelled from the start, so that
    nothing in it would even be tried: so the deadline is set once it is entered,
    and falls due at the next scheduling point.
    """
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + timeout
        yield scope
