"""Batches by recvmmsg(2) give what single calls give, datagram for datagram."""

from __future__ import annotations

import ctypes
import errno
import socket as stdlib_socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockscope import SocketOptions
from sockscope._sockets import message_vector
from sockscope._sockets.ancillary_datagram import ROOM_FOR_ALL
from sockscope._sockets.message_vector import (
    HAS_RECVMMSG,
    MOST_MESSAGES,
    ReceiveVector,
    unpack_name,
)
from tests._sockets.datagrams import BIG, INTERNET, LOOPBACK, drain, opened, pair

pytestmark = pytest.mark.skipif(not HAS_RECVMMSG, reason="this system has no recvmmsg")

REPORTS = SocketOptions(
    packet_info=True,
    receive_hop_limit=True,
    receive_traffic_class=True,
    timestamps=True,
    receive_drops=True,
)


@pytest.fixture
def calls(monkeypatch):
    """How many messages each recvmmsg(2) was asked for."""
    asked = []
    real = message_vector._recvmmsg

    def counting(fd, headers, count, flags, timeout):
        asked.append(count)
        return real(fd, headers, count, flags, timeout)

    monkeypatch.setattr(message_vector, "_recvmmsg", counting)
    return asked


@pytest.mark.parametrize("options", [SocketOptions(), REPORTS], ids=["plain", "reports"])
@pytest.mark.parametrize("family", INTERNET)
async def test_it_gives_what_single_calls_give(family, options):
    sizes = [0, 1, 65507, 0, 30, 1200, 9000, 0, 7, *range(100, 160)]
    async with opened(local=LOOPBACK[family]) as other:
        async with pair(family, options=options | BIG) as (receiver, sender):
            found = []
            for takes in (receiver.receive_many, None):
                for turn, size in enumerate(sizes):
                    data = bytes([turn]) * size
                    await (sender, other)[turn % 2].send_to(data, receiver.local_address)
                if takes:
                    found.append(await takes(len(sizes)))
                else:
                    found.append([await receiver.receive_from() for _ in sizes])
            many, single = found
            assert [len(datagram.data) for datagram in many] == sizes
            # All but the moment at which each came.
            assert [d._replace(timestamp=0) for d in many] == [
                d._replace(timestamp=0) for d in single
            ]
            stamps = [d.timestamp for d in many if d.timestamp is not None]
            assert len(stamps) == (len(sizes) if options.timestamps else 0)
            assert stamps == sorted(stamps)
            assert {d.address for d in many} == {sender.local_address, other.local_address}
            assert receiver.statistics().received == 2 * len(sizes)


@pytest.mark.parametrize("joins", [True, False])
async def test_one_call_takes_a_batch(calls, joins):
    options = BIG if joins else BIG | SocketOptions(gro=False)
    async with pair(options=options) as (receiver, sender):
        for batch, asked in ((1, []), (60, [60]), (200, [64, 64, 64, 8]), (3, [])):
            for number in range(batch):
                await sender.send_to(b"%d" % number, receiver.local_address)
            calls.clear()
            datagrams = await receiver.receive_many(batch)
            assert [int(d.data) for d in datagrams] == list(range(batch))
            assert calls == asked


async def test_an_empty_queue_is_not_asked_twice(calls):
    """Fewer than asked for means that there are no more."""
    async with pair(options=BIG) as (receiver, sender):
        for _ in range(2):
            calls.clear()
            for _ in range(10):
                await sender.send_to(b"x", receiver.local_address)
            assert len(await receiver.receive_many()) == 10
        assert calls == [64]


async def test_a_train_among_single_ones():
    async with pair(options=BIG) as (receiver, sender):
        to = receiver.local_address
        await receiver.receive_many(max_wait=0)
        for _ in range(3):
            for size in range(20):
                await sender.send_to(bytes(size), to)
            await sender.send_many([(bytes(50), to)] * 40)
        sizes = [len(d.data) for d in await drain(receiver)]
        assert sizes == [*range(20), *[50] * 40] * 3


async def test_two_sockets_of_a_run_share_the_room(monkeypatch):
    vectors = []

    class Noted(ReceiveVector):
        def __init__(self, control_room):
            super().__init__(control_room)
            vectors.append(self)

    monkeypatch.setattr(message_vector, "ReceiveVector", Noted)
    async with pair() as (first, sender), opened(local=LOOPBACK["ipv4"]) as second:
        for sock in (first, second):
            for _ in range(10):
                await sender.send_to(repr(sock.local_address).encode(), sock.local_address)
        for sock in (first, second):
            batch = [d.data for d in await drain(sock)]
            assert batch == [repr(sock.local_address).encode()] * 10
        assert len(vectors) == 1


@pytest.mark.parametrize("reason", [errno.ENOSYS, errno.EPERM, errno.ENOMEM])
async def test_a_system_that_refuses_the_call(monkeypatch, reason):
    def refused(*_):
        ctypes.set_errno(reason)
        return -1

    monkeypatch.setattr(message_vector, "_recvmmsg", refused)
    async with pair(options=BIG) as (receiver, sender):
        for _ in range(2):
            for number in range(100):
                await sender.send_to(b"%d" % number, receiver.local_address)
            assert [int(d.data) for d in await drain(receiver)] == list(range(100))


async def test_an_error_between_two_calls_is_told_next(monkeypatch):
    real = message_vector._recvmmsg
    calls = []

    def second_fails(*arguments):
        calls.append(arguments)
        if len(calls) != 2:
            return real(*arguments)
        ctypes.set_errno(errno.ECONNREFUSED)
        return -1

    options = BIG | SocketOptions(gro=False)
    async with pair(options=options) as (receiver, sender):
        await receiver.connect(sender.local_address)
        await sender.send_many([(b"x", receiver.local_address)] * 64)
        monkeypatch.setattr(message_vector, "_recvmmsg", second_fails)
        assert len(await receiver.receive_many(100)) == 64
        with pytest.raises(ConnectionRefusedError):
            await receiver.receive_many()
        await sender.send_to(b"still there", receiver.local_address)
        assert (await receiver.receive_many())[0].data == b"still there"


def test_what_was_cut_is_said():
    near, far = stdlib_socket.socketpair(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
    with near, far:
        near.send(bytes(70000))
        near.send(b"whole")
        pieces, _, extras = ReceiveVector(ROOM_FOR_ALL).receive(
            far.fileno(), stdlib_socket.AF_INET, MOST_MESSAGES, 0
        )
        assert [len(piece) for piece in pieces] == [65536, 5]
        assert extras == [([], True), ([], False)]


def test_nothing_there():
    with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as sock:
        with pytest.raises(BlockingIOError):
            ReceiveVector(ROOM_FOR_ALL).receive(sock.fileno(), stdlib_socket.AF_INET, 1, 0)


PORTS = st.integers(0, 65535)


@given(st.integers(0, 2**32 - 1), PORTS)
def test_an_ipv4_name(host, port):
    target = str(IPv4Address(host)), port
    (word, _) = struct.unpack("<2Q", message_vector._pack_sockaddr(stdlib_socket.AF_INET, target))
    assert unpack_name(word) == target


@given(st.integers(0, 2**128 - 1), PORTS, st.integers(0, 2**20 - 1), st.integers(0, 2**31))
def test_an_ipv6_name(host, port, flow_info, scope_id):
    raw = message_vector._pack_sockaddr(
        stdlib_socket.AF_INET6, (str(IPv6Address(host)), port, flow_info, scope_id)
    )
    name = unpack_name(struct.unpack("<4Q", raw + bytes(4)))
    assert IPv6Address(name[0]) == IPv6Address(host)
    assert name[1:] == (port, flow_info, scope_id)
