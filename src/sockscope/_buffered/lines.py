"""What both kinds of buffered stream share: sizes, and an iterator over lines."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

# asyncio's limit for a line and the most that one receive of Trio's asks for: one
# number for both buffers and for the longest line.
DEFAULT_SIZE = 65536

_Line = TypeVar("_Line")


def checked_size(name: str, value: int, least: int) -> int:
    """*value* as an int of at least *least*."""
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, not {number}")
    return number


class Lines(Generic[_Line]):
    """An asynchronous iterator; a generator left half-way would make Trio warn."""

    def __init__(self, receive: Callable[[], Awaitable[_Line | None]]) -> None:
        self._receive = receive

    def __aiter__(self) -> Lines[_Line]:
        return self

    async def __anext__(self) -> _Line:
        line = await self._receive()
        if line is None:
            raise StopAsyncIteration
        return line
