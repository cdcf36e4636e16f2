"""Timeouts: checked arguments, and scopes in which 0 still allows one try."""

from __future__ import annotations

import math
from types import TracebackType

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


class deadline_after:  # in lower case, as it is used like a function
    """A cancel scope that ends after *timeout* seconds, but never before a first try.

    A scope entered with its deadline passed is cancelled from the start, so that
    nothing in it would even be tried: so the deadline is set once it is entered,
    and falls due at the next scheduling point. No timeout costs no scope.
    """

    __slots__ = ("_scope", "_timeout")

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        self._scope: trio.CancelScope | None = None

    def __enter__(self) -> None:
        if self._timeout != math.inf:
            self._scope = trio.CancelScope()
            self._scope.__enter__()
            self._scope.deadline = trio.current_time() + self._timeout

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        return self._scope is not None and self._scope.__exit__(kind, exc, traceback)
