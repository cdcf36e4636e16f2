"""Refusing a second task in one direction of a stream, as Trio's own streams do."""

from __future__ import annotations

import trio


class ConflictDetector:
    """Raise `trio.BusyResourceError` where a second task enters while a first is within.

    A lock would let two tasks take turns, and interleave their bytes.

    Args:
      message: the error's message: what the other task is doing.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        self.held = False

    def __enter__(self) -> None:
        if self.held:
            raise trio.BusyResourceError(self._message)
        self.held = True

    def __exit__(self, *exc_info: object) -> None:
        self.held = False
