"""Closing what an operation that failed half-way has opened."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Protocol


class Closable(Protocol):
    """Anything with a plain ``close()``: sockets of Trio and of the standard library."""

    def close(self) -> None:
        """Give the descriptor back."""


@contextmanager
def close_on_error(resource: Closable) -> Generator[None, None, None]:
    """Close *resource* if the body raises anything, cancellation included."""
    try:
        yield
    except BaseException:
        try:
            resource.close()
        except OSError:
            pass  # close(2) frees the descriptor first; the body's error is the one to tell
        raise
