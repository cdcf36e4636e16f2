"""`serve_passive` and `serve`: the life of a server, and what goes up from it."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys

import pytest
import trio
import trio.testing

from sockscope import (
    PassiveSocket,
    Server,
    SocketError,
    SocketOptions,
    StreamSocket,
    accept_connection,
    current_server,
    make_socket,
    open_socket,
    serve,
    serve_passive,
)
from sockscope.testing import cancel_everywhere, open_loopback_listener, serving
from tests.wire import no_descriptor_left, receive_all

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

LOCAL = ("127.0.0.1", 0)


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def ask(server, data=b"ping"):
    """What a client of *server* gets for *data*."""
    async with open_socket(server.addresses[0]) as stream:
        await stream.send_all(data)
        await stream.send_eof()
        return await receive_all(stream)


@pytest.fixture
def local(loopback_kind, tmp_path):
    """Where to listen, for each kind in turn."""
    return {"ipv4": ("127.0.0.1", 0), "ipv6": ("::1", 0), "local": tmp_path / "s"}[loopback_kind]


def leaves(exc):
    """The exceptions of a group, at any depth."""
    if isinstance(exc, BaseExceptionGroup):
        return [leaf for one in exc.exceptions for leaf in leaves(one)]
    return [exc]


if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class TestServing:
    async def test_it_answers(self, local):
        async with serve_passive(local, echo) as server:
            assert isinstance(server, Server)
            for _ in range(3):
                assert await ask(server) == b"ping"
        assert server.statistics().finished == 3

    async def test_each_in_a_task_of_its_own(self, local):
        arrived = trio.Event()
        inside = []

        async def meet(stream):
            assert isinstance(stream, StreamSocket)
            assert stream.accepted
            inside.append(stream)
            if len(inside) == 5:
                arrived.set()
            await arrived.wait()
            await stream.send_all(b"together")

        async with serving(meet, local) as server, trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(ask, server)

    async def test_a_child_is_closed_when_its_handler_ends(self, local):
        streams = []

        async def keep(stream):
            streams.append(stream)

        async with serving(keep, local) as server:
            assert await ask(server, b"") == b""
        assert not streams[0].is_open
        assert server.connections == frozenset()

    async def test_a_handler_may_close_or_detach_by_itself(self, local):
        async def close(stream):
            await stream.aclose()

        async with serving(close, local) as server:
            assert await ask(server, b"") == b""

    async def test_connections_are_the_live_ones(self, local):
        async with serve_passive(local, echo) as server:
            async with open_socket(server.addresses[0]) as client:
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                [stream] = server.connections
                assert stream.accepted
                assert server.statistics().active == 1

    async def test_no_handler_runs_before_the_bodys_first_step(self):
        began = []

        async def note(stream):
            began.append(stream)

        async with open_loopback_listener() as passive:
            async with open_socket(passive.address):
                async with serving(note, passive):
                    assert not began
                assert len(began) == 1

    async def test_current_server(self, local):
        servers = []

        async def note(stream):
            servers.append(current_server())

        async with serving(note, local) as server:
            await ask(server, b"")
        assert servers == [server]
        with pytest.raises(RuntimeError, match="current_server"):
            current_server()

    async def test_current_server_where_a_server_is_within_a_handler(self):
        seen = []

        async def inner(stream):
            seen.append(current_server())

        async def outer(stream):
            async with serving(inner) as within:
                await ask(within, b"")
                assert seen == [within]
            seen.append(current_server())

        async with serving(outer) as server:
            await ask(server, b"")
        assert seen[1] is server

    async def test_ready_sockets_belong_to_it(self):
        async with open_loopback_listener() as one, open_loopback_listener("local") as two:
            async with serve_passive([one, two], echo) as server:
                assert server.sockets == (one, two)
                assert server.addresses == (one.address, two.address)
                assert await ask(server) == b"ping"
            assert not one.is_open
            assert not two.is_open

    async def test_designators_and_ready_sockets_keep_their_order(self, tmp_path):
        async with open_loopback_listener() as ready:
            local = [tmp_path / "a", ready, ("127.0.0.1", 0)]
            async with serve_passive(local, echo) as server:
                assert len(server.sockets) == 3
                assert server.sockets[1] is ready
                assert all(isinstance(sock, PassiveSocket) for sock in server.sockets)

    async def test_a_ready_socket_is_closed_if_another_cannot_be_opened(self):
        async with open_loopback_listener() as ready:
            with no_descriptor_left():
                async with open_loopback_listener() as second:
                    with pytest.raises(SocketError, match="bind"):
                        await enter(serve_passive([second, ready.address], echo))
                    assert not second.is_open

    @pytest.mark.parametrize(
        ("arguments", "error", "words"),
        [
            ({"handler": 5}, TypeError, "handler"),
            ({"upgrade": 5}, TypeError, "upgrade"),
            ({"on_open": 5}, TypeError, "on_open"),
            ({"on_close": "x"}, TypeError, "on_close"),
            ({"connection_options": 5}, TypeError, "connection_options"),
            ({"handler_errors": "ignore"}, ValueError, "handler_errors"),
            ({"drain_timeout": -1}, ValueError, "drain_timeout"),
            ({"drain_timeout": None}, TypeError, "drain_timeout"),
            ({"handshake_timeout": float("nan")}, ValueError, "handshake_timeout"),
            ({"backlog": -1}, ValueError, "backlog"),
            ({"mode": 0o600}, TypeError, "mode"),
            ({"options": 5}, TypeError, "options"),
            ({"timeout": 5}, TypeError, "timeout"),
        ],
    )
    async def test_arguments(self, arguments, error, words):
        with no_descriptor_left(), pytest.raises(error, match=words):
            await enter(serve_passive(LOCAL, **arguments))

    async def test_its_repr(self):
        async with serve_passive(LOCAL, echo) as server:
            assert str(server.addresses[0]) in repr(server)
        assert "Server" in repr(server)

    async def test_without_a_port(self, tmp_path):
        async with serve_passive(tmp_path / "s", echo) as server:
            with pytest.raises(ValueError, match="port"):
                _ = server.port
        async with serve_passive(LOCAL, echo) as server:
            assert server.port == server.addresses[0].port


async def enter(manager):
    async with manager:
        raise AssertionError("it should not have opened")


class TestExceptions:
    """What opening raises comes out bare; from then on always a group, as of a nursery."""

    async def test_of_opening(self):
        async with open_loopback_listener() as taken:
            with pytest.raises(OSError, match="bind to") as caught:
                await enter(serve_passive(taken.address, echo))
        assert isinstance(caught.value, SocketError)

    async def test_of_the_body(self, local):
        async def body():
            async with serve_passive(local, echo):
                raise KeyError("body")

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        assert [type(leaf) for leaf in leaves(caught.value)] == [KeyError]
        assert len(caught.value.exceptions) == 1
        assert isinstance(caught.value.exceptions[0], KeyError)

    async def test_of_a_handler(self, local):
        async def fail(stream):
            raise KeyError("handler")

        async def body():
            async with serve_passive(local, fail, handler_errors="raise") as server:
                async with open_socket(server.addresses[0]):
                    await trio.sleep_forever()

        with no_descriptor_left(), pytest.raises(ExceptionGroup) as caught:
            await body()
        [error] = caught.value.exceptions
        assert isinstance(error, KeyError)

    async def test_a_body_that_fails_does_not_wait(self):
        ended = []

        async def handler(stream):
            try:
                await trio.sleep_forever()
            finally:
                ended.append(trio.current_time())

        async def body():
            async with serve_passive(LOCAL, handler) as server:
                async with open_socket(server.addresses[0]):
                    await trio.testing.wait_all_tasks_blocked()
                    raise KeyError

        with pytest.raises(ExceptionGroup):
            await body()
        assert ended

    async def test_cancelled_from_outside_it_does_not_wait(self, local):
        with trio.CancelScope() as scope:
            async with serve_passive(local, echo) as server:
                async with open_socket(server.addresses[0]):
                    await trio.testing.wait_all_tasks_blocked()
                    scope.cancel()
                    await trio.sleep_forever()
        assert scope.cancelled_caught
        assert not server.connections

    async def test_its_cancel_scope(self, local):
        async with serve_passive(local, echo) as server:
            async with open_socket(server.addresses[0]):
                await trio.testing.wait_all_tasks_blocked()
                server.cancel_scope.cancel()
                await trio.sleep_forever()
        assert server.cancel_scope.cancelled_caught

    async def test_accepting_stops_after_the_handlers_ended(self, local):
        """Who waits in the queue of a cancelled server is closed, and counted as ended."""
        with no_descriptor_left():
            async with serve_passive(local, echo) as server:
                server.pause()
                client = await make_socket(server.addresses[0])
                server.cancel_scope.cancel()
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await trio.testing.wait_all_tasks_blocked()
                    server.stop_accepting()
                    figures = server.statistics()
                    assert (figures.accepted, figures.finished, figures.active) == (1, 1, 0)
            # A local socket has no reset: its end is all that the client sees.
            with contextlib.suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
            await client.aclose()

    async def test_the_last_listener_that_fails(self, caplog):
        async def body():
            async with serve_passive(LOCAL, echo) as server:
                server.sockets[0].socket.close()
                await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        [error] = leaves(caught.value)
        assert isinstance(error, trio.ClosedResourceError)

    async def test_one_listener_that_fails_leaves_the_others(self, caplog):
        async with serve_passive([LOCAL, LOCAL, LOCAL], echo) as server:
            first, second, third = server.sockets
            second.socket.close()
            await trio.testing.wait_all_tasks_blocked()
            assert server.sockets == (first, third)
            assert server.addresses == (first.address, third.address)
            assert await ask(server) == b"ping"
        [record] = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert record.name == "sockscope.server"

    async def test_a_listener_that_was_shut_down_behind_our_back(self, caplog):
        import socket

        async def body():
            async with serve_passive(LOCAL, echo) as server:
                server.sockets[0].socket.shutdown(socket.SHUT_RD)
                await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        [error] = leaves(caught.value)
        assert isinstance(error, SocketError)


class TestServe:
    async def test_it_reports_the_server_and_returns_when_it_has_drained(self, local):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, local, echo)
            assert await ask(server) == b"ping"
            await server.drain()
        assert server.statistics().finished == 1

    async def test_with_arguments(self, local):
        begin = functools.partial(serve, handler_errors="raise", drain_timeout=1)
        async with trio.open_nursery() as nursery:
            server = await nursery.start(begin, local, echo)
            assert await ask(server) == b"ping"
            await server.drain()

    async def test_opening_errors_are_bare(self):
        async with open_loopback_listener() as taken:
            with pytest.raises(SocketError, match="bind to"):
                await serve(taken.address, echo)

    async def test_cancelled(self, local):
        async with trio.open_nursery() as nursery:
            server = await nursery.start(serve, local, echo)
            async with open_socket(server.addresses[0]):
                nursery.cancel_scope.cancel()
        assert not server.sockets or not any(sock.is_open for sock in server.sockets)


class TestCancelledEverywhere:
    async def test_with_a_running_client(self, local):
        async def run():
            async with serve_passive(local, echo) as server:
                assert await ask(server) == b"ping"

        await cancel_everywhere(run)

    async def test_with_a_client_that_stays(self, local):
        async def run():
            async with serve_passive(local, echo, drain_timeout=0) as server:
                async with open_socket(server.addresses[0]) as stream:
                    await stream.send_all(b"x")
                    assert await stream.receive_some() == b"x"
                    server.stop_accepting()

        await cancel_everywhere(run)

    async def test_with_a_hook_and_an_upgrade(self):
        async def options(stream):
            await trio.lowlevel.checkpoint()
            return SocketOptions(keepalive=True)

        async def upgrade(stream):
            await trio.lowlevel.checkpoint()
            return stream

        async def run():
            async with serve_passive(
                LOCAL, echo, connection_options=options, upgrade=upgrade
            ) as server:
                assert await ask(server) == b"ping"

        await cancel_everywhere(run)

    async def test_draining(self, local):
        async def run():
            async with trio.open_nursery() as nursery:
                server = await nursery.start(serve, local, echo)
                client = await make_socket(server.addresses[0])
                try:
                    await server.drain(0)
                finally:
                    client.abort()
                    nursery.cancel_scope.cancel()

        await cancel_everywhere(run)

    async def test_accepting_from_a_server(self, local):
        async def run():
            async with serve_passive(local) as server:
                async with open_socket(server.addresses[0]) as client:
                    async with accept_connection(server, timeout=60) as child:
                        await child.send_all(b"x")
                    assert await client.receive_some() == b"x"

        await cancel_everywhere(run)
