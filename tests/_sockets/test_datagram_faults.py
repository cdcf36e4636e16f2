"""What the network, the kernel and peers do to datagram sockets; and options' reports."""

from __future__ import annotations

import errno
import os
import pickle
import socket as stdlib_socket
import struct
import time
from ipaddress import IPv4Address, IPv6Address

import pytest
import trio
import trio.testing

from sockscope._addresses.values import InternetAddress, LocalAddress
from sockscope._core.errors import DatagramError
from sockscope._open.descriptors import socket_pair
from sockscope._options.features import supports
from sockscope._options.value_types import PathMTUDiscovery
from sockscope._options.values import SocketOptions
from sockscope._sockets import ancillary_datagram as ancillary
from sockscope._sockets.error_queue import _offender, read_error_queue
from sockscope._sockets.path_mtu import path_mtu
from tests._sockets.datagrams import INTERNET, LOOPBACK, closed_port, drain, make, opened, pair
from tests._sockets.test_datagram_batch import Spy

FAMILIES = {"ipv4": stdlib_socket.AF_INET, "ipv6": stdlib_socket.AF_INET6}
HEAR = SocketOptions(receive_errors=True)


class Wakes:
    """Counts how often Trio goes round: a receiver that spins is seen."""

    def __init__(self):
        self.count = 0

    def before_io_wait(self, timeout):
        self.count += 1


async def calm(seconds=0.05):
    """The scheduler's rounds in so many seconds of nothing to do."""
    wakes = Wakes()
    trio.lowlevel.add_instrument(wakes)
    await trio.sleep(seconds)
    trio.lowlevel.remove_instrument(wakes)
    return wakes.count


# -- refusals -----------------------------------------------------------------------------


class TestRefused:
    @pytest.mark.parametrize("family", INTERNET)
    async def test_the_receiver_is_told_and_the_socket_lives(self, family):
        target = closed_port(FAMILIES[family])
        async with opened(remote=target) as sock:
            await sock.send_to(b"hello")
            with pytest.raises(ConnectionRefusedError) as info:
                await sock.receive_from()
            assert isinstance(info.value, DatagramError)
            assert info.value.address == sock.remote_address
            assert info.value.identifier == "connection-refused"
            with pytest.raises(trio.WouldBlock):  # once
                await sock.receive_from(dont_wait=True)
            async with opened(local=target) as peer:
                await sock.send_to(b"again")
                assert (await peer.receive_from()).data == b"again"

    async def test_a_send_that_reports_the_one_before_is_sent_itself(self):
        target = closed_port()
        async with opened(remote=target) as sock:
            await sock.send_to(b"lost")
            async with opened(local=target) as peer:
                # The kernel fails this one with the refusal of the first.
                await sock.send_to(b"second")
                assert (await peer.receive_from()).data == b"second"
            with pytest.raises(ConnectionRefusedError):
                await sock.receive_from()

    async def test_a_receiver_that_waits_hears_what_a_send_was_told(self):
        async with opened(remote=closed_port()) as sock:
            sock._sock = Spy(sock._sock, send=[errno.ECONNREFUSED])
            told = []

            async def wait():
                with pytest.raises(ConnectionRefusedError):
                    await sock.receive_from()
                told.append(True)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await sock.send_to(b"hello")
                await trio.testing.wait_all_tasks_blocked()
                assert told
                nursery.cancel_scope.cancel()

    async def test_that_comes_twice_is_the_datagrams_own(self):
        async with opened(remote=closed_port()) as sock:
            sock._sock = Spy(sock._sock, send=[errno.EHOSTUNREACH, errno.EHOSTUNREACH])
            with pytest.raises(DatagramError, match="cannot send 5 bytes to") as info:
                await sock.send_to(b"hello")
            assert info.value.errno == errno.EHOSTUNREACH
            with pytest.raises(trio.WouldBlock):  # and no receive's
                await sock.receive_from(dont_wait=True)

    async def test_an_unconnected_socket_hears_nothing(self):
        async with opened(local=LOOPBACK["ipv4"]) as sock:
            for _ in range(3):
                await sock.send_to(b"hello", closed_port())
            with pytest.raises(trio.WouldBlock):
                await sock.receive_from(dont_wait=True)

    @pytest.mark.parametrize("family", INTERNET)
    async def test_unless_it_asks_for_errors(self, family):
        dead = closed_port(FAMILIES[family])
        async with (
            opened(local=LOOPBACK[family], options=HEAR) as sock,
            opened(local=LOOPBACK[family]) as alive,
        ):
            await sock.send_to(b"to the dead", dead)
            # Linux fails this one with the error of the first: it is sent all the same.
            await sock.send_to(b"to the living", alive.local_address)
            assert (await alive.receive_from()).data == b"to the living"
            with pytest.raises(ConnectionRefusedError, match="did not arrive") as info:
                await sock.receive_from()
            assert info.value.address.sockaddr[:2] == dead
            assert info.value.offender.host == info.value.address.host
            assert info.value.returned == b"to the dead"
            copy = pickle.loads(pickle.dumps(info.value))
            assert (copy.address, copy.returned) == (info.value.address, b"to the dead")
            await alive.send_to(b"back", sock.local_address)
            assert (await sock.receive_from()).data == b"back"

    async def test_on_a_dual_stack_socket_of_either_family(self):
        async with opened(options=HEAR) as sock:
            dead = closed_port()
            await sock.send_to(b"hello", dead)
            with pytest.raises(ConnectionRefusedError) as info:
                await sock.receive_from()
            assert info.value.address == InternetAddress(IPv4Address(dead[0]), dead[1])

    async def test_each_error_is_told(self):
        async with opened(local=LOOPBACK["ipv4"], options=HEAR) as sock:
            dead = [closed_port() for _ in range(5)]
            for address in dead:
                await sock.send_to(b"hello", address)
            told = []
            for _ in dead:
                with pytest.raises(ConnectionRefusedError) as info:
                    await sock.receive_many()
                told.append(info.value.address.sockaddr)
            assert told == dead

    async def test_who_waits_is_woken_and_does_not_spin(self):
        async with opened(local=LOOPBACK["ipv4"], options=HEAR) as sock:
            told = []

            async def receive():
                while True:
                    try:
                        await sock.receive_from()
                    except DatagramError as exc:
                        told.append(exc.address)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await sock.send_to(b"hello", closed_port())
                await trio.testing.wait_all_tasks_blocked()
                assert len(told) == 1
                assert await calm() < 10
                nursery.cancel_scope.cancel()

    async def test_an_error_that_the_socket_no_longer_knows_of_is_found(self):
        async with opened(local=LOOPBACK["ipv4"], options=HEAR) as sock:
            await sock.send_to(b"hello", closed_port())
            # Whoever reads SO_ERROR clears it; the error queue still has its entry.
            sock._sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_ERROR)
            with pytest.raises(ConnectionRefusedError):
                await sock.receive_from()

    async def test_a_false_alarm_is_waited_over(self, tmp_path):
        for kind in ("ipv4", "local"):
            async with pair(kind, tmp_path=tmp_path) as (receiver, sender):
                await sender.send_to(b"hello", receiver.local_address)
                receiver._sock = Spy(receiver._sock, recvfrom=[errno.EAGAIN] * 3)
                assert (await receiver.receive_from()).data == b"hello"

    async def test_an_error_of_our_own_is_taken_out_of_the_queue(self):
        # With "don't fragment" a datagram that is too long leaves an entry, too.
        options = HEAR | SocketOptions(mtu_discovery=PathMTUDiscovery.DO)
        async with opened(local=LOOPBACK["ipv4"], options=options) as sock:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sock.receive_from)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(DatagramError) as info:
                    await sock.send_to(bytes(65508), closed_port())
                assert info.value.errno == errno.EMSGSIZE
                assert await calm() < 10
                nursery.cancel_scope.cancel()

    async def test_a_reset_of_nobodys_is_passed_over(self):
        # As Windows has it: WSAECONNRESET on a socket that has no peer.
        async with pair() as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            receiver._sock = Spy(receiver._sock, recvfrom=[errno.ECONNRESET, errno.ENETRESET])
            assert (await receiver.receive_from()).data == b"hello"

    async def test_but_not_for_ever(self):
        async with pair() as (receiver, _):
            receiver._sock = Spy(receiver._sock, recvfrom=[errno.ECONNRESET] * 99)
            with pytest.raises(ConnectionResetError, match="cannot receive"):
                await receiver.receive_from()

    async def test_a_local_peer_that_has_gone(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (peer, sock):
            await sock.connect(peer.local_address)
            await peer.aclose()
            for _ in range(2):
                with pytest.raises(DatagramError, match="cannot send"):
                    await sock.send_to(b"hello")
            with pytest.raises(FileNotFoundError):
                await sock.send_to(b"hello", tmp_path / "receiver")

    async def test_a_local_peer_that_has_other_plans(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (peer, sock):
            await sock.connect(peer.local_address)
            sock._sock = Spy(sock._sock, recvfrom=[errno.ECONNRESET])
            with pytest.raises(ConnectionResetError) as info:
                await sock.receive_from()
            assert info.value.address == peer.local_address

    async def test_errors_that_nobody_receives_do_not_pile_up(self):
        async with opened(remote=closed_port()) as sock:
            for _ in range(200):
                await sock.send_to(b"hello")
            assert len(sock._errors) <= 64


async def test_an_error_of_the_system_is_the_receives(monkeypatch):
    async with pair() as (receiver, _):
        receiver._sock = Spy(receiver._sock, recvfrom=[errno.ENOMEM])
        with pytest.raises(OSError, match=r"cannot receive on 127\.0\.0\.1") as info:
            await receiver.receive_from()
        assert info.value.errno == errno.ENOMEM


@pytest.mark.parametrize("direction", ["read", "write"])
async def test_a_wait_that_fails_is_an_error(direction, monkeypatch):
    async def fail(*_):
        raise OSError(errno.ENOMEM, "no memory")

    async with pair() as (receiver, sender):
        monkeypatch.setattr(type(receiver), "_wait_readable", fail)
        monkeypatch.setattr(type(sender), "_wait_writable", fail)
        sender._sock = Spy(sender._sock, sendto=[errno.EAGAIN])
        operation = {
            "read": receiver.receive_from,
            "write": lambda: sender.send_to(b"x", receiver.local_address),
        }[direction]
        with pytest.raises(OSError, match="cannot wait for the socket"):
            await operation()


# -- too long, no room --------------------------------------------------------------------


class TestTooLong:
    @pytest.mark.parametrize("connected", [True, False])
    @pytest.mark.parametrize("family", INTERNET)
    async def test_says_how_long_and_for_what(self, family, connected):
        async with pair(family) as (receiver, sender):
            if connected:
                await sender.connect(receiver.local_address)
            size = 65508 if family == "ipv4" else 65528
            with pytest.raises(DatagramError, match=f"cannot send {size} bytes to") as info:
                await sender.send_to(bytes(size), None if connected else receiver.local_address)
            assert info.value.errno == errno.EMSGSIZE
            assert info.value.mtu in (65535, 65536)
            assert info.value.address == receiver.local_address
            await sender.send_to(b"hello", receiver.local_address)
            assert (await receiver.receive_from()).data == b"hello"

    async def test_for_a_local_socket(self, tmp_path):
        options = SocketOptions(send_buffer=10_000)
        async with pair("local", tmp_path=tmp_path, sender_options=options) as (receiver, sender):
            with pytest.raises(DatagramError, match="too long") as info:
                await sender.send_to(bytes(100_000), receiver.local_address)
            assert (info.value.errno, info.value.mtu) == (errno.EMSGSIZE, None)

    async def test_where_the_path_is_unknown(self):
        with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as sock:
            assert path_mtu(sock, None) is None  # not connected
            assert path_mtu(sock, ("255.255.255.255", 9)) is None  # not permitted

    async def test_where_the_system_does_not_tell(self, monkeypatch):
        table = {int(stdlib_socket.AF_INET): (0, None)}
        monkeypatch.setattr("sockscope._sockets.path_mtu._OPTIONS", table)
        with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as sock:
            assert path_mtu(sock, ("127.0.0.1", 9)) is None


class TestNoRoom:
    async def test_at_the_interface_it_waits_by_the_clock(self, autojump_clock):
        async with pair() as (receiver, sender):
            # poll says writable all the while.
            sender._sock = Spy(sender._sock, sendto=[errno.ENOBUFS] * 5)
            await sender.send_to(b"hello", receiver.local_address)
            assert 0.03 < trio.current_time() < 0.04  # 1 + 2 + 4 + 8 + 16 ms
            assert (await receiver.receive_from()).data == b"hello"

    async def test_not_for_ever(self, autojump_clock):
        async with pair() as (receiver, sender):
            sender._sock = spy = Spy(sender._sock, sendto=[errno.ENOBUFS] * 9999)
            with pytest.raises(DatagramError, match="cannot send") as info:
                await sender.send_to(b"hello", receiver.local_address)
            assert info.value.errno == errno.ENOBUFS
            assert 3 <= trio.current_time() < 4
            assert len(spy.calls) < 100

    @pytest.mark.parametrize("number", [errno.ENOBUFS, errno.EAGAIN])
    async def test_dont_wait(self, number):
        async with pair() as (receiver, sender):
            sender._sock = Spy(sender._sock, sendto=[number])
            with pytest.raises(trio.WouldBlock):
                await sender.send_to(b"hello", receiver.local_address, dont_wait=True)

    async def test_in_a_local_queue_it_waits_by_the_clock(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            sent = await fill(sender, receiver)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send_to, b"last", receiver.local_address)
                await trio.sleep(0.02)
                assert await calm() < 30
                for _ in range(sent):
                    assert (await receiver.receive_from()).data == b"fill"
                assert (await receiver.receive_from()).data == b"last"

    async def test_in_a_local_queue_not_for_ever(self, tmp_path, autojump_clock):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            await fill(sender, receiver)
            with pytest.raises(DatagramError, match="cannot send") as info:
                await sender.send_to(b"last", receiver.local_address)
            assert info.value.errno == errno.EAGAIN

    async def test_for_a_connected_local_socket_poll_is_right(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            await sender.connect(receiver.local_address)
            await fill(sender, receiver)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.send_to, b"last")
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await sender.send_to(b"another")
                with pytest.raises(trio.WouldBlock):
                    await sender.send_to(b"another", dont_wait=True)
                assert await calm() < 10
                # It is sent as soon as there is room.
                while (await receiver.receive_from()).data != b"last":
                    pass

    async def test_closed_meanwhile(self, tmp_path):
        for connected in (True, False):
            async with pair("local", tmp_path=tmp_path) as (receiver, sender):
                if connected:
                    await sender.connect(receiver.local_address)
                await fill(sender, receiver)
                target = None if connected else receiver.local_address

                async def send(sender=sender, target=target):
                    with pytest.raises(trio.ClosedResourceError):
                        await sender.send_to(b"last", target)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send)
                    await trio.testing.wait_all_tasks_blocked()
                    await sender.aclose()

    async def test_a_shared_socket_lets_senders_wait_in_turn(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            await sender.connect(receiver.local_address)
            sender._share(9)
            await fill(sender, receiver)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(sender.send_to, b"more")
                await trio.testing.wait_all_tasks_blocked()
                # Who does not want to wait need not wait for a turn either.
                with pytest.raises(trio.WouldBlock):
                    await sender.send_to(b"another", dont_wait=True)
                found = []
                while found.count(b"more") < 5:
                    found.append((await receiver.receive_from()).data)

    async def test_cancelled_it_was_not_sent(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            sent = await fill(sender, receiver)
            with trio.move_on_after(0.01) as scope:
                await sender.send_to(b"last", receiver.local_address)
            assert scope.cancelled_caught
            assert len(await drain(receiver)) == sent


class TestNoRoomOnASharedSocket:
    """A server's: its handlers send to many destinations, some of which do not read."""

    async def test_one_destinations_waits_end_together(self, tmp_path, autojump_clock):
        ended = []

        async def send(sender, target):
            with pytest.raises(DatagramError, match="cannot send") as info:
                await sender.send_to(b"more", target)
            assert info.value.errno == errno.EAGAIN
            ended.append(trio.current_time())

        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            sender._share(9)
            await fill(sender, receiver)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send, sender, receiver.local_address)
                await trio.sleep(1)
                for _ in range(8):
                    nursery.start_soon(send, sender, receiver.local_address)
            assert len(ended) == 9
            assert 3 <= min(ended) <= max(ended) < 3.1
            # From now on nobody waits for it, for a while.
            began = trio.current_time()
            await trio.sleep(9)
            await send(sender, receiver.local_address)
            assert ended[-1] == began + 9
            await trio.sleep(5)
            await send(sender, receiver.local_address)
            assert 17 <= ended[-1] - began < 17.1

    async def test_others_are_sent_to_meanwhile(self, tmp_path, autojump_clock):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            sender._share(9)
            await fill(sender, receiver)
            async with opened(local=tmp_path / "other") as other, trio.open_nursery() as nursery:
                nursery.start_soon(sender.send_to, b"last", receiver.local_address)
                await trio.testing.wait_all_tasks_blocked()
                await fill(sender, other)
                nursery.start_soon(sender.send_to, b"last", other.local_address)
                await trio.testing.wait_all_tasks_blocked()
                # The second to wait is the first to be sent.
                while (await other.receive_from()).data != b"last":
                    pass
                assert trio.current_time() < 0.1
                await drain(receiver)

    async def test_one_that_reads_slowly_is_waited_for(self, tmp_path, autojump_clock):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            sender._share(9)
            await fill(sender, receiver)
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(sender.send_to, b"more", receiver.local_address)
                found = []
                while found.count(b"more") < 5:
                    await trio.sleep(2)
                    found.append((await receiver.receive_from()).data)
            assert trio.current_time() > 9

    async def test_only_so_many_wait_for_long(self, tmp_path, autojump_clock):
        ended = []

        async def send(sender, target):
            with pytest.raises(DatagramError):
                await sender.send_to(b"more", target)
            ended.append(trio.current_time())

        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            sender._share(3)
            await fill(sender, receiver)
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    nursery.start_soon(send, sender, receiver.local_address)
                await trio.sleep(0.2)
                assert ended == []
                await trio.sleep(1)
                assert len(ended) == 7
                await send(sender, receiver.local_address)
                assert ended[-1] == trio.current_time()
            assert len(ended) == 11
            assert min(ended[-3:]) >= 3

    @pytest.mark.parametrize(
        ("number", "is_peers"),
        [(errno.EHOSTUNREACH, True), (errno.ENETUNREACH, True), (errno.EINVAL, False)],
    )
    async def test_whose_fault_an_error_is(self, number, is_peers):
        async with pair() as (receiver, sender):
            for shared in (False, True):
                if shared:
                    sender._share(9)
                sender._sock = Spy(sender._sock, sendto=[number, number])
                with pytest.raises(DatagramError) as info:
                    await sender.send_to(b"hello", receiver.local_address)
                assert sender._is_peers_fault(info.value) == (is_peers and shared)
                assert not sender._is_peers_fault(OSError(number, "another's"))

    async def test_what_is_known_does_not_pile_up(self, tmp_path, autojump_clock):
        async with opened(local=tmp_path / "sender") as sender:
            sender._share(9)
            for index in range(5):
                async with opened(local=tmp_path / f"{index}") as receiver:
                    await fill(sender, receiver)
                    with pytest.raises(DatagramError):
                        await sender.send_to(b"last", receiver.local_address)
                assert len(sender._full._queues) == 1
                await trio.sleep(60)
            async with opened(local=tmp_path / "reads") as receiver:
                await fill(sender, receiver)
                with trio.move_on_after(0.1):
                    await sender.send_to(b"last", receiver.local_address)
            # Not even the one that was given up.
            assert len(sender._full._queues) == 0


async def fill(sender, receiver):
    """Fill the receiver's queue; how many it took."""
    sent = 0
    while True:
        try:
            await sender.send_to(b"fill", receiver.local_address, dont_wait=True)
        except trio.WouldBlock:
            return sent
        sent += 1


async def test_a_pair_of_datagram_sockets():
    first, second = socket_pair("datagram")
    async with first, second:
        await first.send_to(b"hello")
        assert await second.receive_from() == (
            b"hello",
            LocalAddress.unnamed,
            *[False, *[None] * 6],
        )
        assert first.remote_address == LocalAddress.unnamed
        assert await fill_pair(first) > 100  # its own send buffer's worth


async def fill_pair(sock):
    sent = 0
    while True:
        try:
            await sock.send_to(b"fill", dont_wait=True)
        except trio.WouldBlock:
            return sent
        sent += 1


# -- broadcast, reuse ---------------------------------------------------------------------


async def test_broadcasting_needs_the_option_and_the_wildcard():
    async with opened(local=("0.0.0.0", 0)) as everywhere:
        port = everywhere.local_address.port
        async with opened(local=("127.0.0.1", 0)) as sock:
            with pytest.raises(PermissionError):
                await sock.send_to(b"hello", ("127.255.255.255", port))
            sock.set_option("broadcast", True)
            await sock.send_to(b"hello", ("127.255.255.255", port))
            assert (await everywhere.receive_from()).data == b"hello"


async def test_nobody_takes_the_port_over():
    async with opened(local=LOOPBACK["ipv4"]) as first:
        with pytest.raises(OSError, match="cannot bind to") as info:
            await make(local=first.local_address)
        assert info.value.identifier == "address-in-use"


# -- reports ------------------------------------------------------------------------------

ALL = SocketOptions(
    packet_info=True,
    receive_hop_limit=True,
    receive_traffic_class=True,
    timestamps=True,
    receive_drops=True,
)


class TestReports:
    @pytest.mark.parametrize("family", INTERNET)
    async def test_what_was_asked_for(self, family):
        sent_with = SocketOptions(hop_limit=17, traffic_class=0xB9)
        async with pair(family, options=ALL, sender_options=sent_with) as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            datagram = await receiver.receive_from()
            assert datagram.destination == receiver.local_address
            assert stdlib_socket.if_indextoname(datagram.interface) == "lo"
            assert (datagram.hops, datagram.traffic_class) == (17, 0xB9)
            assert (datagram.dscp, datagram.ecn) == (46, 1)
            assert abs(datagram.timestamp - time.time()) < 60
            assert datagram.dropped == 0

    async def test_what_was_not_is_none(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            datagram = await receiver.receive_from()
            assert datagram[3:] == (None,) * 6
            assert (datagram.dscp, datagram.ecn) == (None, None)

    async def test_asked_for_later(self):
        async with pair() as (receiver, sender):
            receiver.set_option("receive_hop_limit", True)
            await sender.send_to(b"hello", receiver.local_address)
            assert (await receiver.receive_from()).hops == 64

    async def test_asked_for_by_the_socket_itself(self):
        async with pair() as (receiver, sender):
            receiver.socket.setsockopt(stdlib_socket.IPPROTO_IP, stdlib_socket.IP_RECVTOS, 1)
            await sender.send_to(b"hello", receiver.local_address)
            assert (await receiver.receive_from()).traffic_class == 0

    async def test_of_mapped_peers(self):
        options = ALL | SocketOptions(ipv6_only=False)
        async with opened(local=("::", 0), options=options) as receiver:
            async with opened(local=LOOPBACK["ipv4"]) as sender:
                target = ("127.0.0.1", receiver.local_address.port)
                await sender.send_to(b"hello", target)
                datagram = await receiver.receive_from()
                assert datagram.address == sender.local_address
                assert datagram.destination == InternetAddress(IPv4Address(target[0]), target[1])
                assert (datagram.hops, datagram.traffic_class) == (64, 0)

    @pytest.mark.parametrize(
        "options",
        [
            SocketOptions(microsecond_timestamps=True),
            SocketOptions(timestamping=(1 << 3) | (1 << 4)),  # RX_SOFTWARE, SOFTWARE
            SocketOptions(timestamps=True),
        ],
    )
    async def test_of_the_time(self, options):
        async with pair(options=options) as (receiver, sender):
            # The kernel begins to take times a moment after it is asked to.
            for _ in range(200):
                await sender.send_to(b"hello", receiver.local_address)
                timestamp = (await receiver.receive_from()).timestamp
                if timestamp is not None:
                    break
                await trio.sleep(0.01)
            assert abs(timestamp - time.time()) < 60

    async def test_a_local_datagram_has_a_time_too(self, tmp_path):
        options = SocketOptions(timestamps=True)
        async with pair("local", tmp_path=tmp_path, options=options) as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            assert (await receiver.receive_from()).timestamp is not None

    async def test_descriptors_that_come_uncalled_are_closed(self, tmp_path):
        async with opened(local=tmp_path / "receiver") as receiver:
            receiver.socket  # noqa: B018  # there is room for every control message now
            with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM) as plain:
                before = set(os.listdir("/proc/self/fd"))
                rights = (stdlib_socket.SOL_SOCKET, stdlib_socket.SCM_RIGHTS, struct.pack("i", 0))
                for _ in range(5):
                    plain.sendmsg([b"x"], [rights], 0, str(tmp_path / "receiver"))
                    await receiver.receive_from()
                assert set(os.listdir("/proc/self/fd")) == before

    def test_the_room_is_what_the_options_need(self):
        assert ancillary.room_for(SocketOptions()) == 0
        assert 0 < ancillary.room_for(SocketOptions(receive_drops=True)) < 64
        assert ancillary.room_for(ALL) < ancillary.ROOM_FOR_ALL
        assert ancillary.room_for(SocketOptions(), joins=True) > 0

    def test_unknown_messages_are_passed_over(self):
        reports = ancillary.read_control_messages([(99, 99, b"x")])
        assert reports.destination is None


# -- answering ----------------------------------------------------------------------------


class TestReply:
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "127.1.2.3"])
    async def test_comes_from_the_address_that_was_asked(self, host):
        options = SocketOptions(packet_info=True)
        for local in (("0.0.0.0", 0), (None, 0)):
            async with opened(local=local, options=options) as server:
                target = (host, server.local_address.port)
                async with opened(remote=target) as client:
                    await client.send_to(b"hello")
                    datagram = await server.receive_from()
                    assert await server.reply(datagram, b"answer") == 6
                    # A connected client hears this one address only.
                    assert (await client.receive_from()).data == b"answer"
                    assert str(client.remote_address.host) == host

    @pytest.mark.skipif(not supports("ipv6"), reason="this machine has no IPv6")
    async def test_over_ipv6(self):
        async with opened(local=("::", 0), options=SocketOptions(packet_info=True)) as server:
            async with opened(remote=("::1", server.local_address.port)) as client:
                await client.send_to(b"hello")
                await server.reply(await server.receive_from(), b"answer")
                assert (await client.receive_from()).data == b"answer"

    async def test_to_a_broadcast_is_from_an_address_of_the_interface(self):
        options = SocketOptions(packet_info=True)
        async with opened(local=("0.0.0.0", 0), options=options) as server:
            port = server.local_address.port
            async with opened(
                local=LOOPBACK["ipv4"], options=SocketOptions(broadcast=True)
            ) as client:
                await client.send_to(b"hello", ("127.255.255.255", port))
                datagram = await server.receive_from()
                assert str(datagram.destination.host) == "127.255.255.255"
                await server.reply(datagram, b"answer")
                answer = await client.receive_from()
                assert answer.address == InternetAddress(IPv4Address("127.0.0.1"), port)

    async def test_needs_packet_info(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            with pytest.raises(TypeError, match="packet_info=True"):
                await receiver.reply(await receiver.receive_from(), b"answer")

    async def test_of_a_local_socket_does_not(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            await receiver.reply(await receiver.receive_from(), b"answer")
            assert (await sender.receive_from()).data == b"answer"
            async with opened(remote=receiver.local_address) as nameless:
                await nameless.send_to(b"hello")
                with pytest.raises(DatagramError, match="without an address"):
                    await receiver.reply(await receiver.receive_from(), b"answer")

    async def test_waits_for_room_too(self):
        async with pair(options=SocketOptions(packet_info=True)) as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            datagram = await receiver.receive_from()
            receiver._sock = Spy(receiver._sock, sendmsg=[errno.EAGAIN])
            await receiver.reply(datagram, b"answer")
            assert (await sender.receive_from()).data == b"answer"


# -- the error queue's raw entries --------------------------------------------------------


class TestErrorQueue:
    def test_offenders(self):
        four = struct.pack("=HH4s8x", stdlib_socket.AF_INET, 0, bytes([192, 0, 2, 1]))
        assert _offender(four) == InternetAddress(IPv4Address("192.0.2.1"), 0)
        six = struct.pack(
            "=HHI16sI", stdlib_socket.AF_INET6, 0, 0, IPv6Address("fe80::1").packed, 3
        )
        assert _offender(six) == InternetAddress(IPv6Address("fe80::1"), 0, 3)
        for nobody in (b"", b"\0", bytes(16), four[:4], six[:20]):
            assert _offender(nobody) is None

    def test_where_there_is_none(self, monkeypatch):
        monkeypatch.setattr("sockscope._sockets.error_queue._MSG_ERRQUEUE", None)
        assert read_error_queue(None) == ([], None)

    def test_a_flood_of_entries_ends(self):
        class Endless:
            family = stdlib_socket.AF_INET
            calls = 0

            def recvmsg(self, *_):
                self.calls += 1
                entry = struct.pack("=IBBBxII", errno.ECONNREFUSED, 2, 3, 3, 0, 0)
                ignored = struct.pack("=IBBBxII", 0, 4, 0, 0, 0, 0)  # a time of sending
                messages = [(0, 11, entry), (0, 11, ignored), (1, 29, b"")]
                return b"x", messages, 0, ("192.0.2.1", 9)

        sock = Endless()
        reported, mtu = read_error_queue(sock)
        assert len(reported) == sock.calls == 256
        assert mtu is None
        assert reported[0].offender is None
