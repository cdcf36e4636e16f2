"""Streams as Trio's users know them, and what ours tell about themselves."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing
import trustme

from sockscope import (
    InternetAddress,
    LocalAddress,
    SocketOptions,
    StreamSocket,
    TcpInfo,
    make_socket,
    open_socket,
    socket_from_fd,
)
from sockscope.testing import ScriptedResolver, open_loopback_listener, open_loopback_pair
from tests._sockets.datagrams import needs_ipv6
from tests.wire import break_by_peer, fill, open_pair, receive_all

MEBIBYTE = bytes(range(256)) * 4096


class TestTriosContract:
    async def test_check_half_closeable_stream(self, loopback_kind):
        async with AsyncExitStack() as stack:

            async def make():
                return await stack.enter_async_context(open_loopback_pair(loopback_kind))

            async def make_clogged():
                pair = await make()
                for stream in pair:
                    await fill(stream)
                return pair

            await trio.testing.check_half_closeable_stream(make, make_clogged)

    async def test_ssl_stream_runs_over_it(self, loopback_pair):
        near, far = loopback_pair
        authority = trustme.CA()
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("example.org").configure_cert(server)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        left = trio.SSLStream(near, client, server_hostname="example.org")
        right = trio.SSLStream(far, server, server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.send_all, MEBIBYTE)
            got = b""
            while len(got) < len(MEBIBYTE):
                got += await right.receive_some()
        assert got == MEBIBYTE
        async with trio.open_nursery() as nursery:
            nursery.start_soon(left.aclose)
            nursery.start_soon(right.aclose)
        assert not near.is_open
        assert not far.is_open

    async def test_serve_listeners_runs_over_a_passive_socket(self, loopback_kind):
        async def shout(stream):
            async for chunk in stream:
                await stream.send_all(bytes(chunk).upper())

        async with open_loopback_listener(loopback_kind) as passive:
            async with trio.open_nursery() as nursery:
                listeners = await nursery.start(trio.serve_listeners, shout, [passive])
                assert listeners == [passive]
                for _ in range(3):
                    async with open_socket(passive.address) as stream:
                        await stream.send_all(b"quiet")
                        assert await stream.receive_some() == b"QUIET"
                nursery.cancel_scope.cancel()

    async def test_both_directions_at_once(self, loopback_pair):
        async def pump(stream):
            await stream.send_all(MEBIBYTE)
            await stream.send_eof()

        got = {}

        async def drain(stream):
            got[stream] = await receive_all(stream)

        async with trio.open_nursery() as nursery:
            for stream in loopback_pair:
                nursery.start_soon(pump, stream)
                nursery.start_soon(drain, stream)
        assert all(got[stream] == MEBIBYTE for stream in loopback_pair)

    async def test_half_close_leaves_the_other_direction(self, loopback_pair):
        near, far = loopback_pair
        await near.send_eof()
        await near.send_eof()  # a second one says nothing new
        assert await far.receive_some() == b""
        assert await far.receive_some() == b""
        await far.send_all(b"still here")
        assert await near.receive_some() == b"still here"
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await near.send(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await near.wait_send_all_might_not_block()

    async def test_data_then_the_end(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"last words")
        await near.aclose()
        assert await receive_all(far) == b"last words"
        assert await far.receive_some() == b""

    async def test_async_for_ends_with_the_stream(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"ab")
        await near.send_eof()
        assert [bytes(chunk) async for chunk in far] == [b"ab"]

    async def test_async_with_closes(self, loopback_listener):
        stream = await make_socket(loopback_listener.address)
        async with stream as entered:
            assert entered is stream
        assert not stream.is_open

    @pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
    async def test_what_can_be_sent(self, loopback_pair, data):
        near, far = loopback_pair
        await near.send_all(data)
        assert await near.send(data) == 5
        await near.send_eof()
        assert await receive_all(far) == b"bytesbytes"

    async def test_items_longer_than_a_byte_count_as_bytes(self, loopback_pair):
        near, far = loopback_pair
        wide = memoryview(bytes(range(16))).cast("I")
        await near.send_all(wide)
        assert await near.send(wide) == 16
        await near.send_eof()
        assert await receive_all(far) == bytes(range(16)) * 2

    @pytest.mark.parametrize("data", ["text", None, 5])
    async def test_what_cannot(self, loopback_pair, data):
        near, _ = loopback_pair
        with pytest.raises(TypeError):
            await near.send_all(data)
        with pytest.raises(TypeError):
            await near.send(data)

    async def test_receive_into(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        buffer = bytearray(8)
        assert await far.receive_into(buffer) == 3
        assert buffer == b"abc" + bytes(5)
        await near.send_all(b"defgh")
        assert await far.receive_into(memoryview(buffer)[3:5]) == 2
        assert buffer == b"abcde" + bytes(3)
        assert await far.receive_into(buffer) == 3
        await near.send_eof()
        assert await far.receive_into(buffer) == 0

    @pytest.mark.parametrize("buffer", [b"read only", bytearray(), "text"])
    async def test_receive_into_what_cannot_take_it(self, loopback_pair, buffer):
        _, far = loopback_pair
        with pytest.raises((TypeError, ValueError, BufferError)):
            await far.receive_into(buffer)


class TestTriosDefaults:
    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_no_delay_and_little_unsent(self, kind):
        async with open_loopback_pair(kind) as pair:
            for stream in pair:
                assert stream.get_option("nodelay") is True
                assert stream.get_option("unsent_low_water") == 16384

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_stating_them_undoes_them(self, kind):
        options = SocketOptions(nodelay=False, unsent_low_water=100_000)
        async with open_pair(kind, client=options, child=options) as pair:
            for stream in pair:
                assert stream.get_option("nodelay") is False
                assert stream.get_option("unsent_low_water") == 100_000


class TestWhatItTells:
    async def test_addresses(self, loopback_pair, loopback_kind):
        near, far = loopback_pair
        assert near.remote_address == far.local_address
        if loopback_kind == "local":
            assert near.remote_address.path.startswith(b"/")
            assert near.local_address == far.remote_address == LocalAddress.unnamed
        else:
            assert far.remote_address == near.local_address
            assert isinstance(near.local_address, InternetAddress)
            assert near.local_address.host.is_loopback
            assert near.local_address.port

    async def test_addresses_stay_when_it_is_closed(self, loopback_pair):
        near, far = loopback_pair
        told = [(s.local_address, s.remote_address) for s in loopback_pair]
        await near.aclose()
        far.abort()
        assert [(s.local_address, s.remote_address) for s in loopback_pair] == told

    async def test_which_side_it_is(self, loopback_pair):
        near, far = loopback_pair
        assert (near.accepted, far.accepted) == (False, True)

    async def test_remote_name(self, loopback_listener, loopback_kind):
        async with open_socket(loopback_listener.address) as stream:
            assert stream.remote_name is None
        if loopback_kind == "local":
            return
        host = str(loopback_listener.address.host)
        with ScriptedResolver({"name.test": [host]}):
            async with open_socket(("name.test", loopback_listener.port)) as stream:
                assert stream.remote_name == "name.test"
            async with await loopback_listener.accept() as child:
                assert child.remote_name is None

    async def test_predicates(self, loopback_pair, loopback_listener):
        near, far = loopback_pair
        for stream in loopback_pair:
            assert stream.is_open
            assert stream.is_connected
            assert not stream.is_listening
        assert far.is_bound
        await near.aclose()
        assert not near.is_open
        assert not near.is_connected
        assert not near.is_bound
        assert not near.is_listening
        assert loopback_listener.is_listening
        assert loopback_listener.is_bound
        assert not loopback_listener.is_connected

    async def test_a_socket_without_a_remote(self):
        async with open_socket(family="internet", ipv6=False) as stream:
            assert isinstance(stream, StreamSocket)
            assert stream.is_open
            assert not stream.is_connected
            assert not stream.is_bound
            assert not stream.is_listening
            assert not stream.accepted
            assert stream.fileno() > 1
            assert stream.socket.family is socket.AF_INET
            assert stream.remote_address is None
            with pytest.raises((OSError, trio.BrokenResourceError)):
                await stream.send_all(b"x")

    async def test_the_socket_is_a_trio_socket_of_the_same_descriptor(self, loopback_pair):
        near, _ = loopback_pair
        assert isinstance(near.socket, trio.socket.SocketType)
        assert near.socket.fileno() == near.fileno()

    async def test_requested_options_are_what_was_asked_and_not_what_is(self, loopback_listener):
        options = SocketOptions(send_buffer=50_000)
        async with open_socket(loopback_listener.address, options=options) as stream:
            assert stream.requested_options == options
            assert stream.get_option("send_buffer") == 100_000  # Linux doubles

    async def test_options_at_run_time(self, loopback_pair):
        near, _ = loopback_pair
        assert near.set_option("keepalive", True) is True
        assert near.get_option("keepalive")
        assert near.set_option("keepalive", False) is True
        assert near.get_option("keepalive") is False

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_tcp_info(self, kind):
        async with open_loopback_pair(kind) as (near, _):
            await near.send_all(b"x")
            assert isinstance(near.tcp_info(), TcpInfo)

    async def test_tcp_info_of_a_local_socket(self):
        async with open_loopback_pair("local") as (near, _):
            with pytest.raises(OSError):
                near.tcp_info()

    async def test_statistics_count_bytes(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"12345")
        await near.send(b"678")
        assert await far.receive(8, wait_all=True) == b"12345678"
        await far.send_all(b"ok")
        assert await near.receive_some() == b"ok"
        assert (near.statistics().bytes_sent, near.statistics().bytes_received) == (8, 2)
        assert (far.statistics().bytes_sent, far.statistics().bytes_received) == (2, 8)
        await near.aclose()
        assert near.statistics().bytes_sent == 8

    async def test_peeking_does_not_count(self, loopback_pair):
        near, far = loopback_pair
        await near.send_all(b"abc")
        await far.receive(3, peek=True)
        assert far.statistics().bytes_received == 0

    async def test_the_repr_names_both_ends_and_the_state(self, loopback_pair):
        near, _ = loopback_pair
        assert str(near.remote_address) in repr(near)
        await near.aclose()
        assert "closed" in repr(near)

    async def test_a_mapped_peer_is_shown_as_ipv4(self, loopback_kind):
        if loopback_kind == "local":
            pytest.skip("internet addresses only")
        if loopback_kind == "ipv4":
            pytest.skip("a dual-stack listener needs IPv6")
        local = ("::", 0)
        options = SocketOptions(ipv6_only=False)
        async with open_socket(connect="passive", local=local, options=options) as passive:
            async with open_socket(("127.0.0.1", passive.port)) as near:
                async with await passive.accept() as far:
                    assert far.remote_address.host == ipaddress.IPv4Address("127.0.0.1")
                    assert far.remote_address == near.local_address
                    assert far.local_address.host == ipaddress.IPv4Address("127.0.0.1")

    @needs_ipv6
    @pytest.mark.parametrize("way", ["opened", "connected later", "adopted"])
    async def test_a_mapped_remote_is_shown_as_ipv4(self, way):
        async with open_loopback_listener("ipv4") as passive:
            remote = passive.address.mapped
            async with open_socket(None if way == "connected later" else remote, ipv6=True) as near:
                if way == "connected later":
                    await near.connect(remote)
                async with socket_from_fd(near.fileno(), dup=True) as twin:
                    shown = twin if way == "adopted" else near
                    assert shown.remote_address == passive.address
                    assert shown.local_address.host == passive.address.host

    async def test_a_name_once_asked_for_is_kept_after_closing(self, loopback_pair):
        for end in loopback_pair:
            names = end.local_address, end.remote_address
            await end.aclose()
            assert (end.local_address, end.remote_address) == names

    async def test_a_name_never_asked_for_is_gone_with_the_socket(self, loopback_kind):
        async with open_loopback_listener(loopback_kind) as passive:
            near = await make_socket(passive.address)
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            _ = near.local_address
        assert near.remote_address == passive.address

    async def test_the_peer_of_a_reset_child_is_what_accept_returned(self, loopback_kind):
        async with open_loopback_listener(loopback_kind) as passive:
            async with open_socket(passive.address) as near:
                address = near.local_address
                near.abort()
            async with await passive.accept() as far:
                assert far.remote_address == address


class TestBusy:
    """Two tasks in one direction: the second is refused, the first goes on."""

    RECEIVERS = {
        "receive_some": lambda s: s.receive_some(),
        "receive": lambda s: s.receive(5),
        "receive_wait_all": lambda s: s.receive(5, wait_all=True),
        "receive_into": lambda s: s.receive_into(bytearray(5)),
    }
    SENDERS = {
        "send_all": lambda s: s.send_all(b"x" * 10_000_000),
        "send": lambda s: s.send(b"x"),
        "wait_send_all_might_not_block": lambda s: s.wait_send_all_might_not_block(),
        "send_eof": lambda s: s.send_eof(),
    }

    @pytest.mark.parametrize("first", RECEIVERS)
    @pytest.mark.parametrize("second", RECEIVERS)
    async def test_receiving(self, first, second):
        async with open_loopback_pair() as (near, far), trio.open_nursery() as nursery:
            nursery.start_soon(self.RECEIVERS[first], near)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await self.RECEIVERS[second](near)
            await far.send_all(b"12345")

    @pytest.mark.parametrize("first", ["send_all", "send", "wait_send_all_might_not_block"])
    @pytest.mark.parametrize("second", SENDERS)
    async def test_sending(self, first, second):
        async with open_loopback_pair() as (near, _far):
            await fill(near)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.SENDERS[first], near)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await self.SENDERS[second](near)
                nursery.cancel_scope.cancel()

    async def test_a_refused_task_does_not_free_the_direction(self, loopback_pair):
        near, far = loopback_pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            for _ in range(2):
                with pytest.raises(trio.BusyResourceError):
                    await near.receive_some()
            await far.send_all(b"x")

    async def test_the_two_directions_do_not_meet(self, loopback_pair):
        near, far = loopback_pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await near.send_all(b"x")
            await near.send_eof()
            await far.send_all(b"y")


class TestBroken:
    async def test_sending_to_one_who_left_and_each_time_after(self, loopback_pair, loopback_kind):
        near, far = loopback_pair
        await break_by_peer(near, far, loopback_kind)
        for _ in range(3):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await near.send_all(b"x")
            assert isinstance(caught.value.__cause__, OSError)
            assert str(near.remote_address) in str(caught.value)
        with pytest.raises(trio.BrokenResourceError):
            await near.send(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await near.send_eof()
        await near.aclose()

    async def test_works_when_the_peer_has_gone_before_it_was_accepted(self, loopback_listener):
        async with open_socket(loopback_listener.address) as near:
            await near.send_all(b"and gone")
        async with await loopback_listener.accept() as far:
            assert await receive_all(far) == b"and gone"
