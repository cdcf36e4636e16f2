"""Bytes cut and delayed anywhere, in both directions at once, with every kind of ending."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from sockscope._tls.stream import TLSStream
from tests._tls.certificates import Certificates
from tests._tls.conftest import VERSIONS
from tests._tls.pairs import over, shaken

DATA = bytes(range(251)) * 400


class Pipe:
    """One direction of a network that holds little, and delivers in pieces, late."""

    def __init__(self, cuts: list[int], capacity: int) -> None:
        self.cuts = itertools.cycle(cuts)
        self.capacity = capacity
        self.data = bytearray()
        self.ended = False
        self.broken = False
        self.changed = trio.lowlevel.ParkingLot()

    def change(self, **state: bool) -> None:
        self.__dict__.update(state)
        self.changed.unpark_all()

    async def wait_for_room(self) -> None:
        await trio.lowlevel.checkpoint()
        while len(self.data) >= self.capacity and not (self.broken or self.ended):
            await self.changed.park()
        if self.ended:
            raise trio.ClosedResourceError
        if self.broken:
            raise trio.BrokenResourceError

    async def send(self, data: bytes) -> None:
        while True:
            await self.wait_for_room()
            if not data:
                return
            room = self.capacity - len(self.data)
            self.data += data[:room]
            data = data[room:]
            self.change()

    async def receive(self, max_bytes: int | None) -> bytes:
        cut = next(self.cuts)
        await trio.sleep(cut % 7)
        while not self.data:
            if self.broken:
                raise trio.BrokenResourceError
            if self.ended:
                return b""
            await self.changed.park()
        piece = bytes(self.data[: min(cut, max_bytes or cut)])
        del self.data[: len(piece)]
        self.change()
        return piece


class End(trio.abc.Stream):
    def __init__(self, incoming: Pipe, outgoing: Pipe) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.closed = False

    async def send_all(self, data) -> None:
        await self.outgoing.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self.outgoing.wait_for_room()

    async def receive_some(self, max_bytes=None) -> bytes:
        if not self.closed:
            data = await self.incoming.receive(max_bytes)
            if not self.closed:
                return data
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        self.closed = True
        self.outgoing.change(ended=True)
        # Whoever sends here is told so; who receives here is woken.
        self.incoming.change(broken=True)
        await trio.lowlevel.checkpoint()

    def reset(self) -> None:
        self.closed = True
        self.outgoing.change(broken=True)
        self.incoming.change(broken=True)


SIZES = st.lists(st.integers(0, 40_000), max_size=4)
# One cut in each round is large, or a conversation in single bytes takes all day.
CUTS = st.lists(st.integers(1, 20_000), max_size=4).map(lambda cuts: [*cuts, 5_000])
SIDE = st.fixed_dictionaries(
    {
        "sends": SIZES,
        "receives": st.lists(st.integers(1, 40_000) | st.none(), min_size=1, max_size=3),
        "ending": st.sampled_from(["eof", "close", "reset"]),
    }
)


class Side:
    """One end of the conversation, and what became of it."""

    def __init__(self, tls: TLSStream, end: End, plan: dict) -> None:
        self.tls, self.end, self.plan = tls, end, plan
        self.sent = b""
        self.sent_all = self.finished_sending = False
        self.received = b""
        self.saw = "nothing"

    async def send(self) -> None:
        rest = itertools.cycle(DATA)
        try:
            for size in self.plan["sends"]:
                data = bytes(itertools.islice(rest, size))
                self.sent += data
                await self.tls.send_all(data)
            # What it then sends may arrive even if the call fails, for the peer has gone since.
            self.sent_all = True
            if self.plan["ending"] == "eof":
                await self.tls.send_eof()
            self.finished_sending = True
        except trio.BrokenResourceError:
            return
        if self.plan["ending"] == "close":
            await self.tls.aclose()
        elif self.plan["ending"] == "reset":
            self.end.reset()

    async def receive(self) -> None:
        sizes: Iterator[int | None] = itertools.cycle(self.plan["receives"])
        try:
            while True:
                size = next(sizes)
                data = await self.tls.receive_some(size)
                if not data:
                    break
                assert len(data) <= (size or 16384)
                self.received += data
            self.saw = "the end"
        except trio.BrokenResourceError:
            self.saw = "an error"
        except trio.ClosedResourceError:
            self.saw = "its own closing"


@settings(max_examples=40, deadline=None)
@given(
    version=st.sampled_from(VERSIONS),
    cuts=st.tuples(CUTS, CUTS),
    capacity=st.sampled_from([1_000, 20_000, 1_000_000]),
    plans=st.tuples(SIDE, SIDE),
)
def test_no_byte_lost_none_invented_no_hang(certificates, version, cuts, capacity, plans) -> None:
    trio.run(
        converse,
        certificates,
        version,
        cuts,
        capacity,
        plans,
        clock=trio.testing.MockClock(autojump_threshold=0),
    )


async def converse(certificates: Certificates, version, cuts, capacity, plans) -> None:
    pipes = [Pipe(cut, capacity) for cut in cuts]
    ends = End(pipes[0], pipes[1]), End(pipes[1], pipes[0])
    pair = await shaken(over(ends, certificates, version))
    sides = [Side(*of_one) for of_one in zip(pair, ends, plans, strict=True)]
    # By a clock that jumps when nobody has anything to do: a hang is an error at once.
    with trio.fail_after(1_000_000):
        async with trio.open_nursery() as nursery:
            for side in sides:
                nursery.start_soon(side.send)
                nursery.start_soon(side.receive)
    for side in sides:
        await trio.aclose_forcefully(side.tls)
    check(sides[0], sides[1])
    check(sides[1], sides[0])


def check(side: Side, other: Side) -> None:
    assert other.sent.startswith(side.received)
    if side.saw == "the end":
        assert other.sent_all
        assert other.plan["ending"] != "reset"
        assert side.received == other.sent
    elif side.saw == "an error":
        # Not for nothing: one of them had ended by force, or closed on the other's data.
        assert other.plan["ending"] != "eof" or not other.finished_sending
