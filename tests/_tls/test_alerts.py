"""Telling the peer why, and letting it hear."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

from sockscope._tls.faults import ALERT_SECONDS, MOST_DISCARDED, let_alert_arrive, send_alert


class Scripted(trio.abc.Stream):
    """Receives what it is told to, for ever at the end."""

    def __init__(self, failure: Exception | None = None, data: bytes = b"") -> None:
        self.failure = failure
        self.data = data
        self.sent = b""
        self.received = 0

    async def send_all(self, data) -> None:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        self.sent += data

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes=None) -> bytes:
        await trio.lowlevel.checkpoint()
        if self.failure is not None:
            raise self.failure
        if not self.data:
            await trio.sleep_forever()
        self.received += len(self.data)
        return self.data

    async def aclose(self) -> None:
        raise NotImplementedError


def alert() -> ssl.MemoryBIO:
    bio = ssl.MemoryBIO()
    bio.write(b"alert")
    return bio


async def test_an_alert_is_sent() -> None:
    stream = Scripted()
    assert await send_alert(stream, alert())
    assert stream.sent == b"alert"
    assert not await send_alert(stream, ssl.MemoryBIO())


@pytest.mark.parametrize(
    "failure",
    [trio.BrokenResourceError(), trio.ClosedResourceError(), TimeoutError()],
    ids=lambda failure: type(failure).__name__,
)
async def test_a_peer_that_has_gone_hears_nothing(failure) -> None:
    assert not await send_alert(Scripted(failure), alert())
    await let_alert_arrive(Scripted(failure))


async def test_a_silent_peer_is_waited_for_a_while(autojump_clock) -> None:
    before = trio.current_time()
    await let_alert_arrive(Scripted())
    assert trio.current_time() - before == ALERT_SECONDS


async def test_a_peer_that_goes_on_sending_is_heard_for_so_many_bytes() -> None:
    stream = Scripted(data=bytes(1 << 14))
    await let_alert_arrive(stream)
    assert stream.received == MOST_DISCARDED


async def test_the_peer_sees_the_end_behind_the_alert() -> None:
    left, right = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(let_alert_arrive, left)
        assert await right.receive_some() == b""
        await right.aclose()
