"""Batches: what arrives is the same, datagram for datagram, as from single sends."""

from __future__ import annotations

import errno
import socket as stdlib_socket

import hypothesis.strategies as st
import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings

from sockscope._core.errors import DatagramError, ResolverError
from sockscope._options.values import SocketOptions
from sockscope._sockets.datagram_types import Datagram
from sockscope._sockets.message_vector import HAS_SENDMMSG, SendVector
from sockscope.testing import ScriptedResolver
from tests._sockets.datagrams import (
    BIG,
    INTERNET,
    LOOPBACK,
    closed_port,
    drain,
    needs_trains,
    opened,
    pair,
)


def payload(index, size):
    return index.to_bytes(4, "big").ljust(size, b".")[:size]


class Spy:
    """A socket whose calls are counted, and fail as told: below it is a real one."""

    def __init__(self, sock, **failures):
        self._sock = sock
        self.failures = failures
        self.calls = []

    def __getattr__(self, name):
        real = getattr(self._sock, name)
        if name not in ("send", "sendto", "sendmsg", "recvmsg", "recvfrom"):
            return real

        def call(*arguments):
            self.calls.append(name)
            script = self.failures.get(name)
            if script:
                number = script.pop(0)
                if number:
                    raise OSError(number, "told to")
            return real(*arguments)

        return call


# -- the same with and without ------------------------------------------------------------

sizes = st.one_of(
    st.integers(0, 3),
    st.sampled_from([100, 500, 1200, 1472]),
    st.integers(1, 4000),
    st.sampled_from([65507]),
)
runs = st.lists(
    st.tuples(sizes, st.integers(1, 70), st.booleans(), st.one_of(st.none(), st.integers(0, 99))),
    max_size=6,
)


@pytest.mark.parametrize("family", INTERNET)
@pytest.mark.parametrize("trains", [pytest.param(True, marks=needs_trains), False])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=runs, counts=st.lists(st.integers(1, 200), min_size=1), single=st.booleans())
def test_every_datagram_arrives_whole(family, trains, plan, counts, single):
    """Runs of (size, how many, to the second?, size of one more) through send_many."""

    async def main():
        options = BIG | SocketOptions(gro=trains)
        async with (
            pair(family, options=options, sender_options=BIG) as (first, sender),
            opened(local=LOOPBACK[family], options=options) as second,
        ):
            if not trains:
                sender._most_segments = 1
            expected = {first: [], second: []}
            batch = []
            for size, count, to_second, tail in plan:
                count = min(count, 1 + 200_000 // (size + 1))
                target = second if to_second else first
                for each in [size] * count + ([] if tail is None else [tail]):
                    data = payload(len(batch), each)
                    batch.append((data, target.local_address))
                    expected[target].append(data)
            assert await sender.send_many(batch) == len(batch)
            for receiver, sent in expected.items():
                await receive_all(receiver, sent, counts, single)
            assert sender.statistics().sent == len(batch)

    async def receive_all(receiver, sent, counts, single):
        received = []
        for turn in range(len(sent)):
            if len(received) == len(sent):
                break
            count = counts[turn % len(counts)]
            with trio.fail_after(5):
                if single and turn % 2:
                    received.append(await receiver.receive_from())
                else:
                    received += await receiver.receive_many(count)
                    assert len(received) <= len(sent)
        assert [datagram.data for datagram in received] == sent
        assert not any(datagram.truncated for datagram in received)
        statistics = receiver.statistics()
        assert (statistics.received, statistics.dropped) == (len(sent), 0)

    trio.run(main)


async def test_local_datagrams_in_batches(tmp_path):
    async with pair("local", tmp_path=tmp_path) as (receiver, sender):
        batch = [(payload(i, 10 * i), receiver.local_address) for i in range(8)]
        assert await sender.send_many(batch) == 8
        datagrams = await receiver.receive_many()
        assert [d.data for d in datagrams] == [data for data, _ in batch]
        assert {d.address for d in datagrams} == {sender.local_address}


async def test_batches_to_the_peer_and_to_the_default():
    async with pair() as (receiver, sender):
        sender.default_address = receiver.local_address
        assert await sender.send_many((b"%d" % i, None) for i in range(5)) == 5
        sender.default_address = None
        await sender.connect(receiver.local_address)
        assert await sender.send_many([(b"a", None), (b"bcd", None), (b"", None)]) == 3
        data = [d.data for d in await receiver.receive_many()]
        assert data == [b"0", b"1", b"2", b"3", b"4", b"a", b"bcd", b""]


# -- what it costs ------------------------------------------------------------------------


@needs_trains
class TestTrains:
    async def test_a_run_is_one_call_each_way(self):
        async with pair(options=BIG) as (receiver, sender):
            await receiver.receive_many(max_wait=0)  # from here on they are joined
            sender._sock = spy = Spy(sender._sock)
            run = [(payload(i, 1000), receiver.local_address) for i in range(50)]
            await sender.send_many([*run, (b"tail", receiver.local_address)])
            assert spy.calls == ["sendmsg"]
            receiver._sock = spy = Spy(receiver._sock)
            assert len(await receiver.receive_many(51)) == 51
            assert spy.calls == ["recvmsg"]

    async def test_the_rest_of_a_train_is_for_the_next_receive(self):
        async with pair(options=BIG | SocketOptions(gro=True)) as (receiver, sender):
            await sender.send_many([(payload(i, 100), receiver.local_address) for i in range(20)])
            first = await receiver.receive_from()
            assert first.data == payload(0, 100)
            peeked = await receiver.receive_from(peek=True)
            assert peeked.data == payload(1, 100)
            buffer = bytearray(50)
            cut = await receiver.receive_from_into(buffer)
            assert (bytes(cut.data), cut.truncated) == (payload(1, 50), True)
            cut = await receiver.receive_from(4)
            assert (cut.data, cut.truncated) == (payload(2, 4), True)
            rest = await receiver.receive_many(10)
            assert [d.data for d in rest] == [payload(i, 100) for i in range(3, 13)]
            assert [d.data for d in await drain(receiver)] == [
                payload(i, 100) for i in range(13, 20)
            ]

    async def test_peeking_at_a_train_takes_nothing(self):
        async with pair(options=SocketOptions(gro=True)) as (receiver, sender):
            await sender.send_many([(payload(i, 100), receiver.local_address) for i in range(9)])
            for _ in range(2):
                assert (await receiver.receive_from(peek=True)).data == payload(0, 100)
            assert len(await receiver.receive_many()) == 9
            assert receiver.statistics().received == 9

    async def test_reports_come_with_each_of_a_train(self):
        options = SocketOptions(packet_info=True, receive_hop_limit=True, receive_drops=True)
        async with pair(options=options) as (receiver, sender):
            await receiver.receive_many(max_wait=0)
            await sender.send_many([(payload(i, 100), receiver.local_address) for i in range(9)])
            datagrams = await receiver.receive_many()
            assert len(datagrams) == 9
            assert {d[3:6] for d in datagrams} == {
                (receiver.local_address, datagrams[0].interface, 64)
            }
            assert {d.dropped for d in datagrams} == {0}

    async def test_who_takes_the_socket_itself_gets_no_trains(self):
        async with pair(options=BIG) as (receiver, sender):
            await receiver.receive_many(max_wait=0)
            run = [(payload(i, 100), receiver.local_address) for i in range(20)]
            await sender.send_many(run)
            theirs = receiver.socket  # what has come is ours still
            await sender.send_many(run)
            assert await theirs.recv(65535) == payload(0, 100)
            assert len(await drain(receiver)) == 39
            assert receiver.get_option("gro") is False

    async def test_of_an_endless_flood_some_is_left(self, monkeypatch):
        monkeypatch.setattr("sockscope._sockets.datagram._MOST_LEFT_OVER", 1)
        async with pair(options=BIG) as (receiver, sender):
            await receiver.receive_many(max_wait=0)
            for _ in range(2):
                await sender.send_many([(payload(0, 100), receiver.local_address)] * 20)
            receiver.socket  # noqa: B018  # asking for it is what matters
            assert len(receiver._pending) == 20

    async def test_nor_who_takes_the_descriptor(self):
        async with pair(options=BIG) as (receiver, sender):
            await receiver.receive_many(max_wait=0)
            address = receiver.local_address
            with stdlib_socket.socket(fileno=receiver.detach()) as plain:
                await sender.send_many([(payload(i, 100), address) for i in range(20)])
                assert plain.recv(65535) == payload(0, 100)

    @pytest.mark.parametrize("stated", [True, False])
    async def test_what_the_options_say_stays(self, stated):
        async with opened(local=LOOPBACK["ipv4"], options=SocketOptions(gro=stated)) as sock:
            await sock.receive_many(max_wait=0)
            assert sock.get_option("gro") is stated
            sock.set_option("gro", not stated)
            await sock.receive_many(max_wait=0)
            assert sock.get_option("gro") is not stated

    async def test_where_the_kernel_cannot_join_it_is_never_asked_again(self, monkeypatch):
        monkeypatch.setattr("sockscope._sockets.datagram_state.UDP_GRO", 9999)
        async with pair() as (receiver, sender):
            await sender.send_many([(b"x", receiver.local_address)] * 5)
            assert len(await receiver.receive_many()) == 5
            assert not receiver._joins
            assert not receiver._may_join

    @pytest.mark.parametrize("number", [errno.EIO, errno.EINVAL])
    async def test_refused_at_run_time_they_go_out_one_by_one(self, number):
        async with pair(options=BIG) as (receiver, sender):
            sender._sock = spy = Spy(sender._sock, sendmsg=[number])
            run = [(payload(i, 100), receiver.local_address) for i in range(10)]
            assert await sender.send_many(run) == 10
            assert spy.calls == ["sendmsg"] + ["sendto"] * 10
            # From now on nobody tries.
            assert await sender.send_many(run) == 10
            assert spy.calls.count("sendmsg") == 1
            assert [d.data for d in await drain(receiver)] == [data for data, _ in run] * 2

    async def test_an_older_kernel_takes_64(self):
        async with pair(options=BIG) as (receiver, sender):
            sender._sock = spy = Spy(sender._sock, sendmsg=[errno.EINVAL])
            run = [(payload(i, 10), receiver.local_address) for i in range(128)]
            await sender.send_many(run)
            await sender.send_many(run)
            assert spy.calls == ["sendmsg"] + ["sendto"] * 128 + ["sendmsg"] * 2
            assert [d.data for d in await drain(receiver)] == [data for data, _ in run] * 2

    async def test_within_one_batch_too(self):
        async with pair(options=BIG) as (receiver, sender):
            sender._sock = spy = Spy(sender._sock, sendmsg=[errno.EIO])
            run = [(payload(i, 1000), receiver.local_address) for i in range(200)]
            assert await sender.send_many(run) == 200
            assert spy.calls.count("sendmsg") == 1
            assert [d.data for d in await drain(receiver)] == [data for data, _ in run]

    async def test_refused_after_a_wait_too(self):
        async with pair(options=BIG) as (receiver, sender):
            sender._sock = Spy(sender._sock, sendmsg=[errno.EAGAIN, errno.EIO])
            run = [(payload(i, 100), receiver.local_address) for i in range(10)]
            assert await sender.send_many(run) == 10
            assert [d.data for d in await drain(receiver)] == [data for data, _ in run]

    async def test_refused_for_what_is_in_it_nothing_is_remembered(self):
        async with pair(options=BIG) as (receiver, sender):
            sender._sock = Spy(sender._sock, sendmsg=[errno.EINVAL], sendto=[0, 0, errno.EINVAL])
            run = [(payload(i, 100), receiver.local_address) for i in range(10)]
            with pytest.raises(DatagramError) as info:
                await sender.send_many([(b"first", receiver.local_address), *run])
            # The first of another size is sent singly.
            assert info.value.sent == 1 + 1
            assert sender._most_segments == 128

    async def test_without_checksums_the_kernel_refuses(self):
        async with pair(options=BIG, sender_options=SocketOptions(no_checksum=True)) as (
            receiver,
            sender,
        ):
            run = [(payload(i, 100), receiver.local_address) for i in range(10)]
            assert await sender.send_many(run) == 10
            assert [d.data for d in await drain(receiver)] == [data for data, _ in run]
            assert sender._most_segments == 1

    async def test_a_full_buffer_is_waited_for(self):
        async with pair(options=BIG) as (receiver, sender):
            sender._sock = Spy(sender._sock, sendmsg=[errno.EAGAIN, errno.ENOBUFS])
            run = [(payload(i, 100), receiver.local_address) for i in range(10)]
            assert await sender.send_many(run) == 10
            assert [d.data for d in await drain(receiver)] == [data for data, _ in run]

    async def test_an_error_that_is_none_of_trains(self):
        async with pair() as (receiver, sender):
            sender._sock = Spy(sender._sock, sendmsg=[errno.EPERM])
            with pytest.raises(PermissionError) as info:
                await sender.send_many([(b"x", receiver.local_address)] * 10)
            assert info.value.sent == 0


@pytest.mark.skipif(not HAS_SENDMMSG, reason="this system has no sendmmsg")
class TestScattered:
    @pytest.mark.parametrize("family", INTERNET)
    async def test_many_addresses_are_one_call(self, family, monkeypatch):
        async with (
            pair(family) as (first, sender),
            opened(local=LOOPBACK[family]) as second,
        ):
            sender._sock = spy = Spy(sender._sock)
            ends = [first, second]
            batch = [(payload(i, i), ends[i % 2].local_address) for i in range(150)]
            assert await sender.send_many(batch) == 150
            assert spy.calls == []
            for index, end in enumerate(ends):
                assert [d.data for d in await drain(end)] == [
                    payload(i, i) for i in range(150) if i % 2 == index
                ]

    async def test_one_that_cannot_be_sent_says_which_it_is(self):
        async with pair() as (receiver, sender):
            target = receiver.local_address
            batch = [(b"a", target), (b"bc", target), (bytes(65508), target), (b"d", target)]
            with pytest.raises(DatagramError, match="65508 bytes") as info:
                await sender.send_many(batch)
            assert info.value.errno == errno.EMSGSIZE
            assert info.value.sent == 2
            assert [d.data for d in await drain(receiver)] == [b"a", b"bc"]

    async def test_a_full_buffer_is_waited_for(self):
        async with pair() as (receiver, sender):
            sender._vector = FullOnce(sender)
            target = receiver.local_address
            assert await sender.send_many([(b"a", target), (b"bc", target), (b"def", target)]) == 3
            assert [d.data for d in await drain(receiver)] == [b"a", b"bc", b"def"]

    async def test_addresses_are_not_kept_for_ever(self, monkeypatch):
        monkeypatch.setattr("sockscope._sockets.message_vector._NAMES_KEPT", 3)
        async with pair() as (receiver, sender):
            port = receiver.local_address.port
            for _ in range(3):
                batch = [(b"x" * i, (f"127.0.0.{i}", port)) for i in range(1, 9)]
                await sender.send_many(batch)
            assert len(sender._vector._names) <= 8


class FullOnce:
    """A vector whose first call says that the buffer is full."""

    def __init__(self, sock):
        self._sock = sock

    def send(self, fd, messages):
        self._sock._vector = None
        raise BlockingIOError(errno.EAGAIN, "full")


# -- the iterable, the errors -------------------------------------------------------------


async def test_other_tasks_get_their_turn_in_a_long_batch():
    async with pair(options=BIG) as (receiver, sender):
        turns = 0

        async def count():
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(count)
            await trio.lowlevel.checkpoint()
            before = turns
            await sender.send_many((b"x", receiver.local_address) for _ in range(10_000))
            assert turns - before >= 4
            nursery.cancel_scope.cancel()


async def test_cancelled_half_way_some_were_sent():
    async with pair(options=BIG) as (receiver, sender):
        with trio.CancelScope() as scope:

            def datagrams():
                for index in range(10_000):
                    if index == 5000:
                        scope.cancel()
                    yield b"x" * (index % 7), receiver.local_address

            await sender.send_many(datagrams())
        assert scope.cancelled_caught
        assert 0 < sender.statistics().sent < 10_000


async def test_a_name_that_is_not_found_says_how_far_it_came():
    async with pair() as (receiver, sender):
        with ScriptedResolver({}), pytest.raises(ResolverError) as info:
            await sender.send_many([(b"x", receiver.local_address), (b"y", ("none.test", 1))])
        assert info.value.sent == 1
        assert len(await drain(receiver)) == 1


@pytest.mark.parametrize("bad", [("127.0.0.1", 70000), 17])
async def test_what_comes_before_a_bad_destination_is_sent(bad):
    async with pair() as (receiver, sender):
        batch = [(b"x", receiver.local_address), (b"yz", receiver.local_address), (b"z", bad)]
        with pytest.raises((ValueError, TypeError), match="address="):
            await sender.send_many(batch)
        assert [d.data for d in await drain(receiver)] == [b"x", b"yz"]


async def test_what_the_iterable_raises_comes_out():
    async with pair() as (receiver, sender):

        def datagrams():
            yield b"x", receiver.local_address
            raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            await sender.send_many(datagrams())


async def test_a_dead_peers_refusal_is_no_error_of_the_batch():
    async with opened(remote=closed_port()) as sock:
        for _ in range(3):
            assert await sock.send_many([(b"x", None), (b"yz", None), (b"z", None)]) == 3
        with pytest.raises(ConnectionRefusedError):
            await sock.receive_many()


async def test_datagrams_come_before_an_error_that_came_after_them():
    async with pair() as (receiver, sender):
        await receiver.connect(sender.local_address)
        await sender.send_many([(b"1", receiver.local_address), (b"2", receiver.local_address)])
        receiver._sock = Spy(receiver._sock, recvfrom=[0, 0, errno.ECONNREFUSED])
        receiver._may_join = receiver._receives_vectors = False
        assert len(await receiver.receive_many()) == 2
        with pytest.raises(DatagramError):
            await receiver.receive_many()


class TestWaiting:
    async def test_for_the_first_only(self, autojump_clock):
        async with pair() as (receiver, sender):
            assert await receiver.receive_many(max_wait=3) == []
            assert trio.current_time() >= 3
            async with trio.open_nursery() as nursery:

                async def later():
                    await trio.sleep(1)
                    await sender.send_many([(b"x", receiver.local_address)] * 3)

                nursery.start_soon(later)
                assert len(await receiver.receive_many(max_wait=9)) == 3

    @pytest.mark.parametrize("bad", [0, -1])
    async def test_a_count_must_be_positive(self, bad):
        async with opened(local=LOOPBACK["ipv4"]) as sock:
            with pytest.raises(ValueError, match="max_count"):
                await sock.receive_many(bad)
            with pytest.raises(ValueError, match="max_wait"):
                await sock.receive_many(max_wait=-1)


async def test_what_is_lost_is_counted():
    """Sent = received + drops, where the receiver's buffer is overrun by single sends."""
    async with pair(options=SocketOptions(receive_drops=True, receive_buffer=20_000)) as (
        receiver,
        sender,
    ):
        for index in range(1000):
            await sender.send_to(payload(index, 100), receiver.local_address)
        received = await drain(receiver)
        dropped = receiver.statistics().dropped
        assert dropped > 0
        assert len(received) + dropped == sender.statistics().sent == 1000
        # What comes with a datagram is the count of the time when it came.
        await sender.send_to(b"last", receiver.local_address)
        assert (await receiver.receive_from()).dropped == dropped


@needs_trains
async def test_a_lost_train_is_one_drop():
    options = SocketOptions(gro=True, receive_buffer=20_000)
    async with pair(options=options, sender_options=BIG) as (receiver, sender):
        trains = 30
        for _ in range(trains):
            await sender.send_many([(payload(0, 1000), receiver.local_address)] * 50)
        received = len(await drain(receiver))
        assert received % 50 == 0
        assert received // 50 + receiver.statistics().dropped == trains


@pytest.mark.skipif(not HAS_SENDMMSG, reason="this system has no sendmmsg")
def test_data_that_shrinks_meanwhile_is_not_read_beyond():
    data = bytearray(100)
    messages = [(data, len(data), ("127.0.0.1", 9))]
    del data[50:]
    with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as sock:
        with pytest.raises(BufferError):
            SendVector(stdlib_socket.AF_INET).send(sock.fileno(), messages)


async def test_a_closed_socket_gives_none_of_what_it_had_ahead():
    async with opened() as near, opened() as far:
        await near.receive_many(1, max_wait=0)
        near._pending.append(Datagram(b"ahead", far.local_address))
        await near.aclose()
        for receive in (near.receive_from, near.receive_many, lambda: near.receive_from(peek=True)):
            with pytest.raises(trio.ClosedResourceError):
                await receive()


@pytest.mark.parametrize("number", [0, 1])
async def test_a_closed_socket_sends_no_batch(number):
    async with opened() as near, opened() as far:
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_many([(b"x", far.local_address)] * number)
