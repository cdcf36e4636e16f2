"""One datagram at a time: addresses, flags, sizes, promises of every await."""

from __future__ import annotations

import ctypes
import errno
import os
import socket as stdlib_socket
from ipaddress import IPv4Address, IPv6Address

import pytest
import trio
import trio.testing

from sockscope._addresses.values import InternetAddress, LocalAddress
from sockscope._core.errors import (
    DatagramError,
    NameNotFoundError,
    SocketError,
    TruncatedError,
)
from sockscope._open.descriptors import socket_from_fd
from sockscope._options.values import SocketOptions
from sockscope._sockets.datagram_types import Datagram
from sockscope.testing import ScriptedResolver, cancel_everywhere
from tests._sockets.datagrams import INTERNET, LOOPBACK, closed_port, make, needs_ipv6, opened, pair

KINDS = [*INTERNET, "local"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_datagram_comes_with_its_sender(kind, tmp_path):
    async with pair(kind, tmp_path=tmp_path) as (receiver, sender):
        assert await sender.send_to(b"hello", receiver.local_address) == 5
        datagram = await receiver.receive_from()
        assert datagram == Datagram(b"hello", sender.local_address)
        assert await receiver.send_to(b"back", datagram.address) == 4
        assert (await sender.receive_from()).data == b"back"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_empty_datagram_is_data(kind, tmp_path):
    async with pair(kind, tmp_path=tmp_path) as (receiver, sender):
        assert await sender.send_to(b"", receiver.local_address) == 0
        await sender.send_to(b"next", receiver.local_address)
        assert (await receiver.receive_from()) == Datagram(b"", sender.local_address)
        assert (await receiver.receive_from()).data == b"next"


@pytest.mark.parametrize("family", INTERNET)
async def test_an_unbound_socket_sends_to_both_families(family):
    async with opened(local=LOOPBACK[family]) as receiver, opened() as sender:
        await sender.send_to(b"hello", receiver.local_address)
        datagram = await receiver.receive_from()
        # A peer behind a mapped address is shown as the IPv4 host that it is.
        assert datagram.address.host == receiver.local_address.host
        await receiver.send_to(b"back", datagram.address)
        assert (await sender.receive_from()).address == receiver.local_address


@needs_ipv6
async def test_a_mapped_remote_is_shown_as_ipv4():
    async with opened(local=LOOPBACK["ipv4"]) as receiver:
        options = SocketOptions(ipv6_only=False)
        async with opened(receiver.local_address.mapped, options=options) as sender:
            assert sender.remote_address == receiver.local_address
            await sender.send_to(b"hello")
            assert (await receiver.receive_from()).address == sender.local_address
            async with socket_from_fd(sender.fileno(), dup=True) as twin:
                assert twin.remote_address == receiver.local_address


@pytest.mark.parametrize(
    "form",
    [
        lambda port: ("127.0.0.1", port),
        lambda port: ("127.0.0.1", str(port)),
        lambda port: (IPv4Address("127.0.0.1"), port),
        lambda port: (b"127.0.0.1", port),
        lambda port: (0x7F000001, port),
        lambda port: ("127.1", port),
        lambda port: f"127.0.0.1:{port}",
        lambda port: InternetAddress(IPv4Address("127.0.0.1"), port),
        lambda port: InternetAddress(IPv6Address("::ffff:127.0.0.1"), port),
    ],
)
async def test_every_designator_is_a_destination(form):
    async with pair() as (receiver, sender):
        for _ in range(2):  # the second time it is known
            await sender.send_to(b"hello", form(receiver.local_address.port))
            assert (await receiver.receive_from()).data == b"hello"


@pytest.mark.parametrize("bad", [("127.0.0.1", 70000), (None, 53), "nonsense", ("", 1)])
async def test_a_bad_destination_is_a_value_error(bad):
    async with opened(local=LOOPBACK["ipv4"]) as sock:
        with pytest.raises(ValueError, match="address="):
            await sock.send_to(b"hello", bad)


@pytest.mark.parametrize("bad", [17, [b"x"], ("127.0.0.1", []), object()])
async def test_no_destination_is_a_type_error(bad):
    async with opened(local=LOOPBACK["ipv4"]) as sock:
        with pytest.raises(TypeError, match="address="):
            await sock.send_to(b"hello", bad)


async def test_a_destination_of_another_family_is_an_error(tmp_path):
    async with opened(local=LOOPBACK["ipv4"]) as sock:
        for address in (("::1", 9), tmp_path / "socket"):
            with pytest.raises(DatagramError, match="of another family"):
                await sock.send_to(b"hello", address)


async def test_a_socket_without_any_destination_says_so():
    async with opened(local=LOOPBACK["ipv4"]) as sock:
        with pytest.raises(DatagramError, match="default_address") as info:
            await sock.send_to(b"hello")
        assert info.value.identifier == "unknown"
        assert info.value.address is None


async def test_a_name_is_looked_up_once():
    resolver = ScriptedResolver({"peer.test": ["127.0.0.1"], "six.test": ["::1"]})
    async with pair() as (receiver, sender):
        with resolver:
            target = ("peer.test", receiver.local_address.port)
            for _ in range(3):
                await sender.send_to(b"one", target)
            await sender.send_many([(b"many", target)] * 3)
            sender.default_address = target
            await sender.send_to(b"default")
            assert len(resolver.queries) == 1
            with pytest.raises(NameNotFoundError):
                await sender.send_to(b"x", ("six.test", 1))
        assert [(await receiver.receive_from()).data for _ in range(7)] == (
            [b"one"] * 3 + [b"many"] * 3 + [b"default"]
        )


async def test_the_names_that_are_known_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr("sockscope._sockets.datagram_state._ADDRESSES_KEPT", 2)
    async with pair() as (receiver, sender):
        port = receiver.local_address.port
        for host in range(1, 6):
            await sender.send_to(b"x", (f"127.0.0.{host}", port))
            await receiver.send_to(b"y", sender.local_address)
        assert len(sender._targets) <= 2
        async with opened(local=("127.0.0.1", 0)) as other:
            async with opened(local=("127.0.0.1", 0)) as third:
                for sock in (other, third, sender):
                    await sock.send_to(b"x", receiver.local_address)
                    await receiver.receive_from()
        assert len(receiver._senders) <= 2


@needs_ipv6
async def test_a_dual_stack_socket_takes_names_of_either_family():
    resolver = ScriptedResolver({"four.test": ["127.0.0.1"], "six.test": ["::1"]})
    async with opened(local=(None, 0)) as sock:
        port = sock.local_address.port
        with resolver:
            for name in ("four.test", "six.test"):
                await sock.send_to(b"hello", (name, port))
                assert (await sock.receive_from()).data == b"hello"


class TestDefaultAddress:
    async def test_sends_without_filtering(self):
        async with pair() as (receiver, sender), opened(local=LOOPBACK["ipv4"]) as stranger:
            assert sender.default_address is None
            sender.default_address = receiver.local_address.sockaddr
            assert sender.default_address == receiver.local_address
            assert sender.remote_address is None
            assert not sender.is_connected
            await sender.send_to(b"hello")
            assert (await receiver.receive_from()).data == b"hello"
            await stranger.send_to(b"boo", sender.local_address)
            assert (await sender.receive_from()).data == b"boo"

    async def test_gives_way_to_an_explicit_one(self):
        async with pair() as (receiver, sender):
            sender.default_address = closed_port()
            await sender.send_to(b"hello", receiver.local_address)
            assert (await receiver.receive_from()).data == b"hello"

    async def test_rules_over_the_peer(self):
        async with pair() as (receiver, sender):
            await sender.connect(closed_port())
            sender.default_address = receiver.local_address
            await sender.send_to(b"hello")
            assert (await receiver.receive_from()).data == b"hello"
            sender.default_address = None
            await sender.send_to(b"lost")
            with pytest.raises(ConnectionRefusedError):
                await sender.receive_from()

    async def test_is_checked_when_set(self, tmp_path):
        async with opened(local=LOOPBACK["ipv4"]) as sock:
            with pytest.raises(ValueError, match="default_address"):
                sock.default_address = ("127.0.0.1", 70000)
            with pytest.raises(DatagramError, match="another family"):
                sock.default_address = tmp_path / "x"
            assert sock.default_address is None


class TestConnected:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_sends_there_and_hears_nobody_else(self, kind, tmp_path):
        async with pair(kind, tmp_path=tmp_path) as (peer, sock):
            await sock.connect(peer.local_address)
            assert sock.is_connected
            assert sock.remote_address == peer.local_address
            assert "connected to" in repr(sock)
            await sock.send_to(b"hello")
            assert (await peer.receive_from()).address == sock.local_address
            where = tmp_path / "third" if kind == "local" else LOOPBACK[kind]
            async with opened(local=where) as stranger:
                try:
                    await stranger.send_to(b"boo", sock.local_address)
                except PermissionError:
                    assert kind == "local"  # there the sender is told
            await peer.send_to(b"back", sock.local_address)
            assert (await sock.receive_from()).data == b"back"

    @pytest.mark.parametrize("kind", KINDS)
    async def test_disconnect_lets_everybody_in_again(self, kind, tmp_path):
        async with pair(kind, tmp_path=tmp_path) as (peer, sock):
            port = getattr(sock.local_address, "port", None)
            await sock.connect(peer.local_address)
            sock.disconnect()
            assert sock.remote_address is None
            assert not sock.is_connected
            with pytest.raises(DatagramError, match="connect"):
                await sock.send_to(b"hello")
            if kind != "local":
                # A port that the system chose goes with the peer.
                assert port
                await sock.send_to(b"hello", peer.local_address)
                assert (await peer.receive_from()).address == sock.local_address
            else:
                await peer.send_to(b"back", sock.local_address)
                assert (await sock.receive_from()).data == b"back"

    async def test_a_port_bound_by_number_stays(self):
        port = closed_port()[1]
        async with opened(local=("127.0.0.1", port), remote=closed_port()) as sock:
            sock.disconnect()
            assert sock.local_address.port == port

    async def test_what_disconnecting_met_with_is_said(self):
        async with opened(remote=closed_port()) as sock:
            read, write = os.pipe()
            try:
                os.dup2(read, sock.fileno())  # somebody else's descriptor now
                with pytest.raises(SocketError, match="cannot disconnect from"):
                    sock.disconnect()
            finally:
                os.close(read)
                os.close(write)

    async def test_macos_says_that_it_has_no_such_family_and_disconnects(self, monkeypatch):
        def connect(*_):
            ctypes.set_errno(errno.EAFNOSUPPORT)
            return -1

        monkeypatch.setattr("sockscope._sockets.disconnect._connect", connect)
        async with opened(remote=closed_port()) as sock:
            sock.disconnect()
            assert sock.remote_address is None

    async def test_may_be_connected_elsewhere(self):
        async with pair() as (first, second), opened(remote=first.local_address) as sock:
            await sock.connect(second.local_address)
            await sock.send_to(b"hello")
            assert (await second.receive_from()).address == sock.local_address
            await sock.send_to(b"you", first.local_address)
            assert (await first.receive_from()).data == b"you"

    async def test_bound_and_connected(self):
        async with opened(local=LOOPBACK["ipv4"]) as peer:
            async with opened(remote=peer.local_address, local=("127.0.0.2", 0)) as sock:
                assert sock.local_address.host == IPv4Address("127.0.0.2")
                await sock.send_to(b"hello")
                assert (await peer.receive_from()).address == sock.local_address

    async def test_a_failed_connect_changes_nothing(self, tmp_path):
        async with pair("local", tmp_path=tmp_path) as (peer, sock):
            await sock.connect(peer.local_address)
            with pytest.raises(FileNotFoundError, match="cannot connect to"):
                await sock.connect(tmp_path / "nowhere")
            with pytest.raises(DatagramError, match="another family"):
                await sock.connect(("127.0.0.1", 1))
            assert sock.remote_address == peer.local_address
            await sock.send_to(b"hello")
            assert (await peer.receive_from()).data == b"hello"

    async def test_a_name_gives_the_first_address_of_the_family(self):
        resolver = ScriptedResolver({"both.test": ["::1", "127.0.0.1"]})
        async with pair() as (peer, sock):
            with resolver:
                await sock.connect(("both.test", peer.local_address.port))
            assert sock.remote_address == peer.local_address


class TestTruncation:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_is_never_silent(self, kind, tmp_path):
        async with pair(kind, tmp_path=tmp_path) as (receiver, sender):
            for _ in range(3):
                await sender.send_to(b"0123456789", receiver.local_address)
            assert not (await receiver.receive_from(10)).truncated
            datagram = await receiver.receive_from(4)
            assert (datagram.data, datagram.truncated) == (b"0123", True)
            with pytest.raises(TruncatedError, match="max_size=0") as info:
                await receiver.receive_from(0, strict=True)
            assert info.value.datagram == Datagram(b"", sender.local_address, truncated=True)
            with pytest.raises(trio.WouldBlock):  # the rest of each is gone
                await receiver.receive_from(dont_wait=True)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_strict_says_of_a_peek_that_nothing_is_lost(self, kind, tmp_path):
        async with pair(kind, tmp_path=tmp_path) as (receiver, sender):
            await sender.send_to(b"0123456789", receiver.local_address)
            with pytest.raises(TruncatedError, match="still in the queue") as info:
                await receiver.receive_from(3, peek=True, strict=True)
            assert "lost" not in str(info.value)
            assert info.value.data == b"012"
            assert (await receiver.receive_from(strict=True)).data == b"0123456789"

    async def test_strict_passes_what_is_whole(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"0123", receiver.local_address)
            assert (await receiver.receive_from(4, strict=True)).data == b"0123"

    async def test_larger_than_any_of_udp(self, tmp_path):
        options = SocketOptions(send_buffer=400_000)
        async with pair("local", tmp_path=tmp_path, sender_options=options) as (receiver, sender):
            data = os.urandom(100_000)
            for _ in range(4):
                await sender.send_to(data, receiver.local_address)
            assert (await receiver.receive_from(100_000)).data == data
            datagram = await receiver.receive_from()
            assert (datagram.data, datagram.truncated) == (data[:65535], True)
            [datagram] = await receiver.receive_many(1)
            assert (datagram.data, datagram.truncated) == (data[:65535], True)
            receiver.set_option("timestamps", True)
            [datagram] = await receiver.receive_many(1)
            assert datagram.truncated

    @pytest.mark.parametrize("bad", [-1, "4", 4.0, None])
    async def test_the_size_is_checked(self, bad):
        async with opened(local=LOOPBACK["ipv4"]) as sock:
            with pytest.raises((ValueError, TypeError)):
                await sock.receive_from(bad)


@pytest.mark.parametrize("options", [SocketOptions(), SocketOptions(timestamps=True)])
async def test_receive_into_a_buffer(options):
    async with pair(options=options) as (receiver, sender):
        for data in (b"", b"0123", b"0123456789"):
            await sender.send_to(data, receiver.local_address)
        buffer = bytearray(b"........")
        empty = await receiver.receive_from_into(buffer)
        assert (empty.data, empty.truncated) == (b"", False)
        part = await receiver.receive_from_into(memoryview(buffer)[2:])
        assert (part.data, part.truncated) == (b"0123", False)
        assert part.address == sender.local_address
        assert isinstance(part.data, memoryview)
        assert buffer == b"..0123.."
        cut = await receiver.receive_from_into(buffer)
        assert (cut.data, cut.truncated) == (b"01234567", True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receiver.receive_from_into, buffer)
            await trio.testing.wait_all_tasks_blocked()
            await sender.send_to(b"late", receiver.local_address)
        assert buffer.startswith(b"late")


class TestFlags:
    async def test_peek_leaves_it(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"0123456789", receiver.local_address)
            assert (await receiver.receive_from(4, peek=True)).data == b"0123"
            assert (await receiver.receive_from(peek=True)).data == b"0123456789"
            assert (await receiver.receive_from()).data == b"0123456789"
            assert receiver.statistics().received == 1

    async def test_dont_wait(self):
        async with pair() as (receiver, sender):
            with pytest.raises(trio.WouldBlock):
                await receiver.receive_from(dont_wait=True)
            await sender.send_to(b"hello", receiver.local_address, dont_wait=True)
            assert (await receiver.receive_from(dont_wait=True)).data == b"hello"

    async def test_more_makes_one_datagram_of_several_sends(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"one, ", receiver.local_address, more=True)
            await sender.send_to(b"two", receiver.local_address)
            assert (await receiver.receive_from()).data == b"one, two"

    async def test_the_others_are_taken(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address, dont_route=True, confirm=True)
            assert (await receiver.receive_from()).data == b"hello"
            with pytest.raises(OSError, match="cannot send"):
                await sender.send_to(b"far away", ("192.0.2.1", 9), dont_route=True)


@pytest.mark.parametrize("data", [bytearray(b"hello"), memoryview(b"hello")])
async def test_any_buffer_is_sent(data):
    async with pair() as (receiver, sender):
        assert await sender.send_to(data, receiver.local_address) == 5
        await sender.send_many([(data, receiver.local_address)])
        assert (await receiver.receive_from()).data == b"hello"
        assert (await receiver.receive_from()).data == b"hello"


async def test_text_is_a_type_error():
    async with pair() as (receiver, sender):
        with pytest.raises(TypeError):
            await sender.send_to("hello", receiver.local_address)
        with pytest.raises(TypeError):
            await sender.send_many([("hello", receiver.local_address)])


async def test_iterating_receives():
    async with pair() as (receiver, sender):
        found = []
        await sender.send_many([(b"%d" % i, receiver.local_address) for i in range(3)])
        async for datagram in receiver:
            found.append(datagram.data)
            if len(found) == 3:
                break
        assert found == [b"0", b"1", b"2"]


async def test_long_paths(tmp_path):
    folder = tmp_path / ("d" * 100) / ("e" * 100)
    folder.mkdir(parents=True)
    async with opened(local=folder / "receiver") as receiver:
        assert receiver.local_address == LocalAddress(os.fsencode(folder / "receiver"))
        async with opened(family="local") as sender:
            await sender.send_to(b"to", folder / "receiver")
            await sender.connect(folder / "receiver")
            await sender.send_to(b"connected")
        datagrams = [await receiver.receive_from() for _ in range(2)]
    assert [d.data for d in datagrams] == [b"to", b"connected"]
    assert datagrams[0].address == LocalAddress.unnamed
    assert not (folder / "receiver").exists()


# -- what holds for every await -----------------------------------------------------------


class TestAwaits:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_every_one_is_a_checkpoint(self, kind, tmp_path):
        async with pair(kind, tmp_path=tmp_path) as (receiver, sender):
            target = receiver.local_address
            buffer = bytearray(10)
            with trio.testing.assert_checkpoints():
                await sender.send_to(b"1", target)
            with trio.testing.assert_checkpoints():
                await sender.send_many([(b"2", target), (b"3", target), (b"longer", target)])
            with trio.testing.assert_checkpoints():
                await sender.send_many([])
            with trio.testing.assert_checkpoints():
                await receiver.receive_from()
            with trio.testing.assert_checkpoints():
                await receiver.receive_from_into(buffer)
            with trio.testing.assert_checkpoints():
                await receiver.receive_many(1)
            with trio.testing.assert_checkpoints():
                await receiver.receive_many()
            with trio.testing.assert_checkpoints():
                assert await receiver.receive_many(max_wait=0) == []
            with trio.testing.assert_checkpoints():
                await sender.connect(target)
            with trio.testing.assert_checkpoints():
                await sender.aclose()
            with trio.testing.assert_checkpoints():
                await sender.aclose()

    async def test_reply_is_one(self):
        async with pair(options=SocketOptions(packet_info=True)) as (receiver, sender):
            await sender.send_to(b"1", receiver.local_address)
            datagram = await receiver.receive_from()
            with trio.testing.assert_checkpoints():
                await receiver.reply(datagram, b"2")

    async def test_cancelled_it_has_done_nothing(self):
        async with pair() as (receiver, sender):
            await sender.send_to(b"hello", receiver.local_address)
            for operation in (
                lambda: sender.send_to(b"x", receiver.local_address),
                lambda: sender.send_many([(b"x", receiver.local_address)]),
                lambda: sender.connect(receiver.local_address),
                receiver.receive_from,
                receiver.receive_many,
                lambda: receiver.receive_from_into(bytearray(9)),
            ):
                with trio.CancelScope() as scope:
                    scope.cancel()
                    await operation()
                assert scope.cancelled_caught
            assert sender.remote_address is None
            assert (await receiver.receive_from()).data == b"hello"
            with pytest.raises(trio.WouldBlock):
                await receiver.receive_from(dont_wait=True)

    async def test_cancelled_everywhere_nothing_is_left(self):
        options = SocketOptions(packet_info=True)

        async def use():
            async with opened(local=("127.0.0.1", 0), options=options) as receiver:
                async with opened(remote=receiver.local_address) as sender:
                    await sender.send_to(b"hello")
                    datagram = await receiver.receive_from()
                    await receiver.reply(datagram, b"back")
                    await sender.receive_many(5)
                    await sender.send_many([(b"x" * 500, None)] * 40)
                    await receiver.receive_many(39)
                    await receiver.receive_from_into(bytearray(10))

        assert await cancel_everywhere(use) > 5

    async def test_waiting_and_cancelled_loses_nothing(self):
        async with pair() as (receiver, sender):
            for wait in (receiver.receive_from, receiver.receive_many):
                with trio.move_on_after(0) as scope:
                    await wait()
                assert scope.cancelled_caught
            await sender.send_to(b"hello", receiver.local_address)
            assert (await receiver.receive_from()).data == b"hello"


class TestClosing:
    @pytest.mark.parametrize("kind", KINDS)
    async def test_wakes_who_waits(self, kind, tmp_path):
        async with pair(kind, tmp_path=tmp_path) as (receiver, _):

            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await receiver.receive_from()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                await receiver.aclose()

    async def test_behind_our_back_too(self):
        async with opened(local=LOOPBACK["ipv4"]) as sock:

            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await sock.receive_many()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                sock.socket.close()

    async def test_everything_then_says_closed(self):
        sock = await make(local=LOOPBACK["ipv4"])
        address = sock.local_address
        await sock.aclose()
        assert not sock.is_open
        assert sock.local_address == address
        for operation in (
            lambda: sock.send_to(b"x", address),
            lambda: sock.send_many([(b"x", address)]),
            lambda: sock.send_many([(b"x", address)] * 2),
            lambda: sock.connect(address),
            sock.receive_from,
            sock.receive_many,
            lambda: sock.receive_from_into(bytearray(9)),
        ):
            with pytest.raises(trio.ClosedResourceError):
                await operation()
        for plain in (
            sock.disconnect,
            sock.statistics,
            sock.detach,
            lambda: sock.join_group("239.1.2.3"),
            lambda: sock.leave_group("239.1.2.3"),
            lambda: sock.shutdown(read=True),
        ):
            with pytest.raises(trio.ClosedResourceError):
                plain()

    async def test_a_second_receiver_is_refused(self):
        async with pair() as (receiver, sender):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receiver.receive_from)
                await trio.testing.wait_all_tasks_blocked()
                for operation in (
                    receiver.receive_from,
                    receiver.receive_many,
                    lambda: receiver.receive_from_into(bytearray(9)),
                ):
                    with pytest.raises(trio.BusyResourceError):
                        await operation()
                await sender.send_to(b"x", receiver.local_address)

    async def test_cancelled_it_closes_all_the_same(self):
        sock = await make(local=LOOPBACK["ipv4"])
        with trio.CancelScope() as scope:
            scope.cancel()
            await sock.aclose()
        assert not sock.is_open

    async def test_detached_the_descriptor_lives_on(self, tmp_path):
        sock = await make(local=tmp_path / "socket")
        with stdlib_socket.socket(fileno=sock.detach()) as plain:
            assert not sock.is_open
            assert plain.getsockname() == str(tmp_path / "socket")
            assert (tmp_path / "socket").exists()
            await sock.aclose()
            assert plain.fileno() != -1


class TestShutdown:
    async def test_of_reading_delivers_what_has_come_and_then_ends(self):
        async with pair() as (receiver, sender):
            await receiver.connect(sender.local_address)
            await sender.send_to(b"hello", receiver.local_address)
            receiver.shutdown(read=True)
            assert (await receiver.receive_from()).data == b"hello"
            for operation in (receiver.receive_from, receiver.receive_many):
                with pytest.raises(trio.ClosedResourceError, match="shutdown"):
                    await operation()

    @pytest.mark.parametrize("connected", [True, False])
    async def test_of_reading_wakes_who_waits(self, connected):
        async with pair() as (receiver, sender):
            if connected:
                await receiver.connect(sender.local_address)

            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await receiver.receive_from()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(wait)
                await trio.testing.wait_all_tasks_blocked()
                receiver.shutdown(read=True)

    async def test_by_others_it_is_found_out(self):
        # poll says readable for ever, and recv that there is nothing: it must not spin.
        async with pair() as (receiver, sender):
            await receiver.connect(sender.local_address)
            receiver.socket.shutdown(stdlib_socket.SHUT_RD)
            with trio.fail_after(5):
                with pytest.raises(trio.ClosedResourceError):
                    await receiver.receive_from()

    @pytest.mark.parametrize("both", [True, False])
    async def test_of_writing_refuses_sends(self, both):
        async with pair() as (receiver, sender):
            await sender.connect(receiver.local_address)
            sender.shutdown(write=True, read=both)
            with pytest.raises(BrokenPipeError, match="cannot send"):
                await sender.send_to(b"hello")

    async def test_needs_a_direction(self):
        async with opened(local=LOOPBACK["ipv4"]) as sock:
            with pytest.raises(ValueError, match="read=True"):
                sock.shutdown()

    async def test_says_what_went_wrong(self):
        async with opened(local=LOOPBACK["ipv4"]) as sock:
            read, write = os.pipe()
            try:
                os.dup2(read, sock.fileno())  # somebody else's descriptor now
                with pytest.raises(SocketError, match="cannot shut down"):
                    sock.shutdown(read=True)
            finally:
                os.close(read)
                os.close(write)
