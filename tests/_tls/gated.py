"""A stream whose directions a test can hold up, or make fail."""

from __future__ import annotations

import trio


class Gated(trio.abc.Stream):
    """Holds up what its events are not set for."""

    def __init__(self, below: trio.abc.Stream) -> None:
        self.below = below
        # Sending waits for room, and tells that somebody does.
        self.room = trio.Event()
        self.room.set()
        self.waiting = trio.Event()
        self.sends: list[int] = []
        # A send waits for this once it has begun, and tells that it has.
        self.slow: trio.Event | None = None
        self.sending = trio.Event()
        self.failure: BaseException | None = None
        # A receive waits for this, and tells that somebody does.
        self.deaf: trio.Event | None = None
        self.receiving = trio.Event()
        self.ended = False
        self.rubbish = b""

    async def send_all(self, data) -> None:
        if self.failure is not None:
            await trio.lowlevel.checkpoint()
            raise self.failure
        self.sending.set()
        if self.slow is not None:
            await self.slow.wait()
        await self.room.wait()
        self.sends.append(len(data))
        await self.below.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        if not self.room.is_set():
            self.waiting.set()
        await self.room.wait()
        await self.below.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes=None) -> bytes:
        if self.deaf is not None:
            self.receiving.set()
            await self.deaf.wait()
        if self.ended or self.rubbish:
            await trio.lowlevel.checkpoint()
            data, self.rubbish = self.rubbish, b""
            return data
        return await self.below.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.below.aclose()
