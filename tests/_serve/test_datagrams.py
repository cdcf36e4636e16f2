"""Serving datagrams: every one handled or counted, nobody's error anybody else's."""

from __future__ import annotations

import errno
import logging
import math
import socket as stdlib_socket
import struct
import sys

import pytest
import trio
import trio.testing

from sockscope._core.errors import DatagramError, OptionError, SocketError
from sockscope._options.values import SocketOptions
from sockscope._serve.datagrams import serve_datagrams
from sockscope._sockets.ancillary_datagram import segment_message
from sockscope._sockets.datagram import DatagramSocket
from sockscope.testing import ScriptedResolver, cancel_everywhere, open_descriptors
from tests._sockets.datagrams import BIG, make, needs_ipv6, needs_trains, opened, soon

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

ANY = ("127.0.0.1", 0)


async def echo(datagram, socket):
    await socket.reply(datagram, datagram.data)


def accounted(server):
    """Whether the figures add up."""
    figures = server.statistics()
    taken = figures.handled + figures.dropped_queue + figures.queued
    return figures.received == taken + (0 if server._settings.sessions else figures.active)


def client_of(server, index=0):
    return opened(remote=server.addresses[index])


class TestHandlers:
    async def test_every_datagram_is_handed_over(self):
        async with serve_datagrams(ANY, echo) as server, client_of(server) as client:
            for data in (b"hello", b"", b"x" * 2000):
                await client.send_to(data)
                assert (await client.receive_from()).data == data
            await soon(lambda: server.statistics().handled == 3)
            assert server.statistics()[:7] == (3, 3, 0, 0, 0, 0, 0)
            assert "127.0.0.1" in repr(server)

    async def test_answers_come_from_the_address_that_was_asked(self):
        async with serve_datagrams((None, 0), echo) as server:
            async with opened(remote=("127.0.0.9", server.addresses[0].port)) as client:
                await client.send_to(b"hello")
                assert (await client.receive_from()).data == b"hello"

    @needs_ipv6
    async def test_on_several_addresses(self):
        with ScriptedResolver({"both.test": ["::1", "127.0.0.1"]}):
            async with serve_datagrams([("both.test", 0), ("127.0.0.2", 0)], echo) as server:
                hosts = [str(address.host) for address in server.addresses]
                assert hosts == ["::1", "127.0.0.1", "127.0.0.2"]
                assert server.addresses[0].port == server.addresses[1].port
                for index in range(3):
                    async with client_of(server, index) as client:
                        await client.send_to(b"hello")
                        assert (await client.receive_from()).data == b"hello"

    async def test_on_a_local_path_and_a_ready_socket(self, tmp_path):
        ready = await make(local=ANY)
        async with serve_datagrams([ready, tmp_path / "server"], echo) as server:
            assert server.sockets[0] is ready
            async with opened(remote=server.addresses[1], local=tmp_path / "client") as client:
                await client.send_to(b"hello")
                assert (await client.receive_from()).data == b"hello"
            async with client_of(server) as client:
                await client.send_to(b"hello")
                assert (await client.receive_from()).data == b"hello"
        assert not ready.is_open
        assert not (tmp_path / "server").exists()
        async with serve_datagrams(await make(local=tmp_path / "own"), echo) as server:
            assert len(server.sockets) == 1

    async def test_no_handler_runs_before_the_body(self):
        ready = await make(local=ANY, options=SocketOptions(packet_info=True))
        async with opened(remote=ready.local_address) as client:
            await client.send_to(b"early")
            seen = []

            async def handler(datagram, socket):
                seen.append(datagram.data)

            async with serve_datagrams(ready, handler) as server:
                assert seen == []
                await soon(lambda: seen == [b"early"])
                assert accounted(server)

    async def test_so_many_tasks_at_once(self):
        now = most = 0
        go = trio.Event()

        async def handler(datagram, socket):
            nonlocal now, most
            now += 1
            most = max(most, now)
            await go.wait()
            now -= 1

        async with serve_datagrams(ANY, handler, max_tasks=3, max_queue=5) as server:
            async with client_of(server) as client:
                await client.send_many([(b"x", None)] * 20)
                await soon(lambda: server.statistics().received == 20)
                await trio.testing.wait_all_tasks_blocked()
                assert accounted(server)
                figures = server.statistics()
                assert figures.active == 3
                # All came in one batch: five were queued, and three of these are under way.
                assert figures.queued + figures.dropped_queue == 17
                assert figures.dropped_queue >= 12
                go.set()
        assert most == 3
        assert accounted(server)
        assert server.statistics().handled == 20 - figures.dropped_queue

    async def test_handlers_that_wait_for_room_take_turns(self, tmp_path):
        options = SocketOptions(send_buffer=1)
        async with serve_datagrams(tmp_path / "server", echo, options=options) as server:
            async with opened(remote=server.addresses[0], local=tmp_path / "client") as client:
                for _ in range(10):
                    await client.send_to(b"x" * 500)
                for _ in range(10):
                    await client.receive_from()
            await soon(lambda: server.statistics().handled == 10)
            assert server.statistics().handler_errors == 0

    async def test_the_kernels_drops_are_counted(self):
        options = SocketOptions(receive_buffer=10_000)
        async with serve_datagrams(ANY, echo, options=options) as server:
            with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as plain:
                for _ in range(500):
                    plain.sendto(b"x" * 100, server.addresses[0].sockaddr)
            await trio.testing.wait_all_tasks_blocked()
            await soon(lambda: server.statistics().handled > 0)
            figures = server.statistics()
            assert figures.dropped_kernel > 0
            assert figures.received + figures.dropped_kernel == 500
        assert server.statistics().dropped_kernel == figures.dropped_kernel

    async def test_where_the_kernel_does_not_tell(self, monkeypatch):
        async with serve_datagrams(ANY, echo) as server:

            def lacks(self, name):
                raise OptionError(errno.ENOPROTOOPT, "none")

            monkeypatch.setattr(DatagramSocket, "get_option", lacks)
            assert server.statistics().dropped_kernel is None


class TestFaults:
    async def test_a_handlers_failure_is_logged(self, caplog):
        async def handler(datagram, socket):
            if datagram.data == b"bad":
                raise KeyError("mine")
            await echo(datagram, socket)

        async with serve_datagrams(ANY, handler) as server, client_of(server) as client:
            await client.send_to(b"bad")
            await client.send_to(b"good")
            assert (await client.receive_from()).data == b"good"
            await soon(lambda: server.statistics().handled == 2)
            assert server.statistics().handler_errors == 1
            [record] = caplog.records
            assert record.name == "sockscope.server"
            assert str(client.local_address) in record.getMessage()
            assert isinstance(record.exc_info[1], KeyError)

    async def test_or_raised(self):
        async def handler(datagram, socket):
            raise KeyError("mine")

        servers = []

        async def use():
            async with serve_datagrams(ANY, handler, handler_errors="raise") as server:
                servers.append(server)
                async with client_of(server) as client:
                    await client.send_to(b"x")
                    await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as info:
            await use()
        assert info.group_contains(KeyError)
        assert not servers[0].sockets[0].is_open

    async def test_or_told(self):
        told = []

        async def handler(datagram, socket):
            raise KeyError("mine")

        def tell(exc, datagram):
            told.append((type(exc), datagram.data))

        async with serve_datagrams(ANY, handler, handler_errors=tell) as server:
            async with client_of(server) as client:
                await client.send_to(b"x")
                await soon(lambda: told)
        assert told == [(KeyError, b"x")]

    async def test_a_peer_that_has_gone_is_nobodys_trouble(self):
        options = SocketOptions(receive_errors=True)
        async with serve_datagrams(ANY, echo, options=options) as server:
            with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as plain:
                plain.sendto(b"x", server.addresses[0].sockaddr)
            await soon(lambda: server.statistics().network_errors == 1)
            async with client_of(server) as client:
                await client.send_to(b"hello")
                assert (await client.receive_from()).data == b"hello"

    async def test_a_shortage_passes(self, caplog, autojump_clock, monkeypatch):
        real, failures = DatagramSocket.receive_many, [errno.ENOMEM] * 3 + [errno.ENOBUFS]

        async def short(self, *arguments, **details):
            if failures:
                raise SocketError(failures.pop(), "no memory")
            return await real(self, *arguments, **details)

        monkeypatch.setattr(DatagramSocket, "receive_many", short)
        async with serve_datagrams(ANY, echo) as server, client_of(server) as client:
            await client.send_to(b"hello")
            assert (await client.receive_from()).data == b"hello"
        # One line at its start, not one a try.
        assert [record.levelno for record in caplog.records] == [logging.WARNING]

    async def test_an_error_that_will_not_pass_ends_it(self, monkeypatch):
        async def broken(self, *arguments, **details):
            raise SocketError(errno.EIO, "broken")

        async def use():
            async with serve_datagrams(ANY, echo):
                await trio.sleep_forever()

        monkeypatch.setattr(DatagramSocket, "receive_many", broken)
        with pytest.raises(ExceptionGroup) as info:
            await use()
        assert info.group_contains(SocketError, match="broken")

    async def test_the_last_sockets_fault_ends_it(self, caplog):
        async def use():
            async with serve_datagrams([ANY, ("127.0.0.2", 0)], echo) as server:
                server.sockets[0].socket.close()
                await trio.testing.wait_all_tasks_blocked()
                assert "receiving no more" in caplog.text
                async with client_of(server, 1) as client:
                    await client.send_to(b"hello")
                    assert (await client.receive_from()).data == b"hello"
                server.sockets[1].socket.close()
                await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as info:
            await use()
        assert info.group_contains(trio.ClosedResourceError)

    async def test_what_cannot_be_opened_comes_out_bare(self):
        before = open_descriptors()
        async with opened(local=ANY) as taken:
            with pytest.raises(OSError, match="cannot bind to"):
                async with serve_datagrams([ANY, taken.local_address], echo):
                    pass
        assert open_descriptors() == before

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"max_tasks": 0}, "max_tasks"),
            ({"max_queue": -1}, "max_queue"),
            ({"max_peers": 0}, "max_peers"),
            ({"idle_timeout": -1}, "idle_timeout"),
            ({"drain_timeout": math.nan}, "drain_timeout"),
            ({"handler_errors": "ignore"}, "handler_errors"),
            ({"local": []}, "local"),
        ],
    )
    def test_bad_arguments_are_named(self, arguments, match):
        with pytest.raises(ValueError, match=match):
            serve_datagrams(**({"local": ANY, "handler": echo} | arguments))


class TestEnding:
    async def test_what_has_come_is_handled(self):
        handled = []

        async def handler(datagram, socket):
            await trio.sleep(0.001)
            handled.append(datagram.data)

        async with serve_datagrams(ANY, handler, max_queue=3, max_tasks=2) as server:
            with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as plain:
                for index in range(50):
                    plain.sendto(b"%d" % index, server.addresses[0].sockaddr)
            # None of them has been received when the block ends.
            assert server.statistics().received == 0
        assert sorted(handled) == sorted(b"%d" % i for i in range(50))
        assert accounted(server)

    async def test_not_for_longer_than_it_may(self, autojump_clock):
        async def handler(datagram, socket):
            await trio.sleep_forever()

        async with serve_datagrams(ANY, handler, drain_timeout=7, max_tasks=1) as server:
            async with client_of(server) as client:
                for _ in range(3):
                    await client.send_to(b"x")
                await soon(lambda: server.statistics().received == 3)
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(7)
        assert server.statistics().dropped_queue == 2
        assert accounted(server)

    @pytest.mark.parametrize("cancel", [True, False])
    async def test_an_exception_or_cancellation_skips_the_wait(self, cancel):
        async def handler(datagram, socket):
            await trio.sleep_forever()

        servers = []

        async def use(scope):
            async with serve_datagrams(ANY, handler) as server, client_of(server) as client:
                servers.append(server)
                await client.send_to(b"x")
                await soon(lambda: server.statistics().active == 1)
                if not cancel:
                    raise KeyError("mine")
                scope.cancel()
                await trio.sleep_forever()

        with trio.CancelScope() as scope:
            if cancel:
                await use(scope)
            else:
                with pytest.raises(ExceptionGroup) as info:
                    await use(scope)
                assert info.group_contains(KeyError)
        assert scope.cancelled_caught == cancel
        assert not servers[0].sockets[0].is_open

    async def test_the_last_look_ends_however_fast_peers_send(self, monkeypatch):
        monkeypatch.setattr("sockscope._serve.datagram_server._LAST_DATAGRAMS", 3)
        async with serve_datagrams(ANY, echo, max_queue=3) as server:
            with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as plain:
                for _ in range(9):
                    plain.sendto(b"x", server.addresses[0].sockaddr)
        assert server.statistics().handled == 3

    @pytest.mark.parametrize("fatal", [False, True])
    async def test_errors_in_the_last_look(self, monkeypatch, fatal):
        """What the network and a shortage do passes; the rest comes out."""
        real = DatagramSocket.receive_many
        failures = [DatagramError(errno.ECONNREFUSED, "refused"), OSError(errno.ENOMEM, "none")]
        if fatal:
            failures.append(OSError(errno.EIO, "broken"))

        async def failing(self, *arguments, max_wait=math.inf):
            if max_wait == 0 and failures:
                raise failures.pop(0)
            return await real(self, *arguments, max_wait=max_wait)

        async def use():
            async with serve_datagrams(ANY, echo) as server:
                servers.append(server)

        servers = []
        monkeypatch.setattr(DatagramSocket, "receive_many", failing)
        if fatal:
            with pytest.raises(ExceptionGroup) as caught:
                await use()
            assert caught.group_contains(OSError, match="broken")
        else:
            await use()
        assert not failures
        assert servers[0].statistics().network_errors == 1

    async def test_cancelled_everywhere_nothing_is_left(self):
        async def use():
            async with serve_datagrams(ANY, echo) as server, client_of(server) as client:
                await client.send_to(b"hello")
                await client.receive_from()

        assert await cancel_everywhere(use) > 5


# -- peers that do not read, or have gone ---------------------------------------------------


async def flood(server, path, count=200):
    """A local peer that asks *count* times and never reads an answer."""
    bad = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
    bad.setblocking(False)
    bad.bind(str(path))
    target = server.addresses[0].sockaddr
    for _ in range(count):
        try:
            bad.sendto(b"x", target)
        except BlockingIOError:
            # The server's own queue is full: it is to go on taking from it.
            await trio.testing.wait_all_tasks_blocked()
            bad.sendto(b"x", target)
    return bad


class TestPeersThatDoNotRead:
    @pytest.mark.parametrize("bad_peers", [1, 5])
    @pytest.mark.parametrize("sessions", [False, True])
    async def test_hold_nobody_else_up(self, tmp_path, autojump_clock, caplog, sessions, bad_peers):
        handler = echo_session if sessions else echo
        async with serve_datagrams(tmp_path / "server", handler, sessions=sessions) as server:
            bad = [await flood(server, tmp_path / f"bad{i}") for i in range(bad_peers)]
            async with opened(remote=server.addresses[0], local=tmp_path / "good") as good:
                for _ in range(100):
                    began = trio.current_time()
                    await good.send_to(b"hello")
                    assert (await good.receive_from()).data == b"hello"
                    assert trio.current_time() - began < 0.5
                    await trio.sleep(0.1)
            figures = server.statistics()
            assert figures.handler_errors == 0
            assert figures.network_errors > 0
            assert accounted(server)
            for sock in bad:
                sock.close()
        assert caplog.records == []

    async def test_hold_one_task_up_once_in_a_while(self, tmp_path, autojump_clock):
        async with serve_datagrams(tmp_path / "server", echo, max_tasks=1) as server:
            bad = await flood(server, tmp_path / "bad", 100)
            await trio.sleep(4)
            # One wait of three seconds for all of them.
            figures = server.statistics()
            assert (figures.handled, figures.active) == (100, 0)
            assert 80 < figures.network_errors < 100
            # Once it reads, it is answered again.
            for _ in range(100 - figures.network_errors):
                assert bad.recv(10) == b"x"
            with pytest.raises(BlockingIOError):
                bad.recv(10)
            bad.sendto(b"again", server.addresses[0].sockaddr)
            await trio.testing.wait_all_tasks_blocked()
            assert bad.recv(10) == b"again"
            bad.close()

    async def test_a_burst_is_answered_in_full(self, tmp_path):
        async with serve_datagrams(tmp_path / "server", echo) as server:
            async with opened(remote=server.addresses[0], local=tmp_path / "client") as client:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(client.send_many, [(b"%d" % i, None) for i in range(300)])
                    answers = {(await client.receive_from()).data for _ in range(300)}
            assert answers == {b"%d" % i for i in range(300)}

    async def test_do_not_end_a_server_that_raises(self, tmp_path, autojump_clock):
        path = tmp_path / "server"
        async with serve_datagrams(path, echo, handler_errors="raise") as server:
            bad = await flood(server, tmp_path / "bad")
            await trio.sleep(10)
            assert server.statistics().network_errors > 100
            bad.close()


class TestPeersThatHaveGone:
    @pytest.mark.parametrize("how", ["removed", "closed", "nameless", "a stream's", "elsewhere"])
    @pytest.mark.parametrize("policy", ["log", "raise"])
    async def test_are_counted(self, tmp_path, caplog, how, policy):
        local, path = tmp_path / "server", tmp_path / "client"
        async with serve_datagrams(local, echo, handler_errors=policy) as server:
            with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM) as plain:
                if how != "nameless":
                    plain.bind(str(path))
                plain.sendto(b"x", str(local))
                other = await self.make_gone(how, plain, path)
                await soon(lambda: server.statistics().network_errors == 1)
                other.close()
            assert server.statistics().handler_errors == 0
            async with opened(remote=server.addresses[0], local=tmp_path / "good") as good:
                await good.send_to(b"hello")
                assert (await good.receive_from()).data == b"hello"
            assert accounted(server)
        assert caplog.records == []

    async def make_gone(self, how, plain, path):
        kind = stdlib_socket.SOCK_STREAM if how == "a stream's" else stdlib_socket.SOCK_DGRAM
        other = stdlib_socket.socket(stdlib_socket.AF_UNIX, kind)
        if how in ("removed", "a stream's"):
            path.unlink()
        if how == "a stream's":
            other.bind(str(path))
        elif how == "elsewhere":
            # It hears from its own peer alone from now on.
            other.bind(f"{path}.other")
            plain.connect(f"{path}.other")
        elif how != "nameless":
            plain.close()
        return other

    async def test_a_session_too(self, tmp_path, caplog):
        async with serve_datagrams(tmp_path / "server", echo_session, sessions=True) as server:
            with stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM) as plain:
                plain.bind(str(tmp_path / "client"))
                plain.sendto(b"x", str(tmp_path / "server"))
            await soon(lambda: server.statistics().network_errors == 1)
            assert server.statistics()[5:7] == (0, 0)
        assert caplog.records == []

    @pytest.mark.parametrize("policy", ["log", "raise"])
    async def test_one_without_a_port_too(self, caplog, policy):
        """Anybody can send it, to any server."""
        try:
            raw = stdlib_socket.socket(
                stdlib_socket.AF_INET, stdlib_socket.SOCK_RAW, stdlib_socket.IPPROTO_UDP
            )
        except PermissionError:
            pytest.skip("raw sockets need CAP_NET_RAW")
        async with serve_datagrams(ANY, echo, handler_errors=policy) as server:
            with raw:
                port = server.addresses[0].port
                raw.sendto(struct.pack("!4H", 0, port, 9, 0) + b"x", ("127.0.0.1", 0))
            await soon(lambda: server.statistics().network_errors == 1)
        assert caplog.records == []

    @pytest.mark.parametrize("fault", ["another socket", "another error", "too long"])
    async def test_what_is_the_handlers_own_is_logged(self, tmp_path, caplog, fault):
        async def handler(datagram, socket):
            if fault == "another socket":
                async with opened(local=tmp_path / "another") as another:
                    await another.send_to(b"x", tmp_path / "nobody")
            elif fault == "another error":
                raise FileNotFoundError(errno.ENOENT, "mine")
            else:
                await socket.reply(datagram, bytes(1_000_000))

        async with serve_datagrams(tmp_path / "server", handler) as server:
            async with opened(remote=server.addresses[0], local=tmp_path / "client") as client:
                await client.send_to(b"hello")
                await soon(lambda: server.statistics().handled == 1)
            figures = server.statistics()
            assert (figures.handler_errors, figures.network_errors) == (1, 0)
        assert len(caplog.records) == 1


# -- sessions -----------------------------------------------------------------------------


async def echo_session(session):
    async for data in session:
        await session.send(data)


class TestSessions:
    async def test_one_for_each_peer(self):
        peers = []

        async def handler(session):
            peers.append(session.remote_address)
            await echo_session(session)

        async with serve_datagrams(ANY, handler, sessions=True) as server:
            async with client_of(server) as first, client_of(server) as second:
                for client in (first, second, first):
                    await client.send_to(b"hello")
                    assert (await client.receive_from()).data == b"hello"
                assert peers == [first.local_address, second.local_address]
                assert server.statistics().active == 2
                assert accounted(server)
        assert server.statistics().active == 0
        assert server.statistics().handled == 3
        assert accounted(server)

    async def test_without_a_handler_the_body_accepts(self):
        async with serve_datagrams(ANY) as server, client_of(server) as client:
            await client.send_to(b"one")
            await client.send_to(b"")
            session = await server.accept()
            assert session.remote_address == client.local_address
            assert session.socket is server.sockets[0]
            assert await session.receive() == b"one"
            assert await session.receive() == b""
            await session.send(b"back")
            assert (await client.receive_from()).data == b"back"
            assert "DatagramSession with 127" in repr(session)
            await session.aclose()
            await session.aclose()
            assert "closed" in repr(session)
            for operation in (session.receive, lambda: session.send(b"x")):
                with pytest.raises(trio.ClosedResourceError):
                    await operation()
            # What the peer sends from now on is a new session's.
            await client.send_to(b"two")
            async with await server.accept() as another:
                assert await another.receive() == b"two"

    async def test_answers_come_from_the_address_that_was_asked(self):
        async with serve_datagrams((None, 0), echo_session, sessions=True) as server:
            async with opened(remote=("127.0.0.7", server.addresses[0].port)) as client:
                await client.send_to(b"hello")
                assert (await client.receive_from()).data == b"hello"

    async def test_acceptors_are_served_in_turn_and_lose_nothing(self):
        async with serve_datagrams(ANY) as server:
            accepted = []

            async def accept():
                accepted.append(await server.accept())

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(accept)
                await trio.testing.wait_all_tasks_blocked()
                with trio.move_on_after(0.001):
                    await server.accept()
                async with client_of(server) as first, client_of(server) as second:
                    await first.send_to(b"1")
                    await second.send_to(b"2")
                    await soon(lambda: len(accepted) == 2)
                    assert [session.remote_address for session in accepted] == [
                        first.local_address,
                        second.local_address,
                    ]

    async def test_accepting_is_a_checkpoint(self):
        async with serve_datagrams(ANY) as server, client_of(server) as client:
            await client.send_to(b"1")
            await soon(lambda: server.statistics().received == 1)
            with trio.CancelScope() as scope:
                scope.cancel()
                await server.accept()
            with trio.testing.assert_checkpoints():
                session = await server.accept()
            with trio.testing.assert_checkpoints():
                await session.receive()
            with trio.testing.assert_checkpoints():
                await session.send(b"x")
            with trio.testing.assert_checkpoints():
                await session.aclose()

    async def test_with_a_handler_there_is_nothing_to_accept(self):
        async with serve_datagrams(ANY, echo) as server:
            with pytest.raises(RuntimeError, match="handler"):
                await server.accept()

    async def test_who_waits_when_it_ends_is_told(self):
        async def accept(server):
            with pytest.raises(trio.ClosedResourceError, match="draining"):
                await server.accept()

        async with trio.open_nursery() as nursery:
            async with serve_datagrams(ANY) as server:
                nursery.start_soon(accept, server)
                await trio.testing.wait_all_tasks_blocked()

    async def test_idle_ones_end(self, autojump_clock):
        ended = []

        async def handler(session):
            async for data in session:
                assert data in (b"1", b"2")
            with pytest.raises(trio.EndOfChannel):
                await session.receive()
            ended.append(trio.current_time())
            with pytest.raises(trio.BrokenResourceError, match="idle"):
                await session.send(b"too late")
            assert "ended" in repr(session)

        async with serve_datagrams(ANY, handler, sessions=True, idle_timeout=5) as server:
            async with client_of(server) as client, client_of(server) as other:
                await client.send_to(b"1")
                await soon(lambda: server.statistics().active == 1)
                await trio.sleep(3)
                await client.send_to(b"2")
                await other.send_to(b"1")
                await trio.sleep(4)
                assert ended == []
                await trio.sleep(4)
                assert len(ended) == 2
                assert server.statistics().active == 0

    async def test_a_peer_that_comes_back_has_a_new_one(self, autojump_clock):
        async with serve_datagrams(ANY, idle_timeout=5) as server, client_of(server) as client:
            await client.send_to(b"1")
            first = await server.accept()
            await trio.sleep(6)
            await client.send_to(b"2")
            second = await server.accept()
            # What had come for the first is the first's still.
            assert await first.receive() == b"1"
            assert await second.receive() == b"2"

    async def test_a_send_keeps_one_going(self, autojump_clock):
        async with serve_datagrams(ANY, idle_timeout=5) as server, client_of(server) as client:
            await client.send_to(b"1")
            session = await server.accept()
            for _ in range(4):
                await trio.sleep(3)
                await session.send(b"still here")
            assert await session.receive() == b"1"

    async def test_never_where_there_is_no_timeout(self, autojump_clock):
        arguments = {"sessions": True, "idle_timeout": math.inf, "drain_timeout": 1}
        async with serve_datagrams(ANY, echo_session, **arguments) as server:
            async with client_of(server) as client:
                await client.send_to(b"1")
                await client.receive_from()
                await trio.sleep(80_000)
                assert server.statistics().active == 1

    async def test_what_nobody_has_accepted_in_time_is_dropped(self, autojump_clock):
        async with serve_datagrams(ANY, idle_timeout=5) as server, client_of(server) as client:
            await client.send_to(b"1")
            await soon(lambda: server.statistics().active == 1)
            await trio.sleep(9)
            figures = server.statistics()
            assert (figures.active, figures.dropped_queue, figures.queued) == (0, 1, 0)
            with trio.move_on_after(1) as scope:
                await server.accept()
            assert scope.cancelled_caught

    async def test_so_many_peers(self):
        async with serve_datagrams(ANY, max_peers=1) as server:
            async with client_of(server) as first, client_of(server) as second:
                await first.send_to(b"1")
                session = await server.accept()
                await second.send_to(b"2")
                await first.send_to(b"3")
                assert [await session.receive(), await session.receive()] == [b"1", b"3"]
                figures = server.statistics()
                assert (figures.refused_peers, figures.dropped_queue) == (1, 1)
                assert accounted(server)

    async def test_so_many_datagrams_each(self):
        async with serve_datagrams(ANY, max_queue=3) as server, client_of(server) as client:
            await client.send_many((b"%d" % i, None) for i in range(5))
            await soon(lambda: server.statistics().received == 5)
            assert server.statistics().dropped_queue == 2
            session = await server.accept()
            assert [await session.receive() for _ in range(3)] == [b"0", b"1", b"2"]

    async def test_a_nameless_local_peer_has_none(self, tmp_path):
        async with serve_datagrams(tmp_path / "server", echo_session, sessions=True) as server:
            async with opened(remote=server.addresses[0]) as client:
                await client.send_to(b"hello")
                await soon(lambda: server.statistics().refused_peers == 1)

    async def test_receiving_by_two_tasks_is_refused(self):
        async with serve_datagrams(ANY) as server, client_of(server) as client:
            await client.send_to(b"1")
            session = await server.accept()
            await session.receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(session.receive)
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BusyResourceError):
                    await session.receive()
                await client.send_to(b"2")

    async def test_closing_wakes_who_receives(self):
        async with serve_datagrams(ANY) as server, client_of(server) as client:
            await client.send_to(b"1")
            session = await server.accept()
            await session.receive()

            async def receive():
                with pytest.raises(trio.ClosedResourceError):
                    await session.receive()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await session.aclose()

    async def test_a_handlers_failure_is_its_own(self, caplog):
        async def handler(session):
            if await session.receive() == b"bad":
                raise KeyError("mine")
            await session.send(b"fine")

        async with serve_datagrams(ANY, handler, sessions=True) as server:
            async with client_of(server) as first, client_of(server) as second:
                await first.send_to(b"bad")
                await soon(lambda: server.statistics().handler_errors == 1)
                await second.send_to(b"good")
                assert (await second.receive_from()).data == b"fine"
        assert "the handler of datagrams" in caplog.text

    async def test_draining_lets_them_have_what_came_and_say_goodbye(self):
        async def handler(session):
            async for data in session:
                await session.send(data)
            await session.send(b"goodbye")

        async with opened(local=ANY, options=BIG) as client:
            async with serve_datagrams(ANY, handler, sessions=True) as server:
                # Not even received when the block ends.
                await client.send_many((b"%d" % i, server.addresses[0]) for i in range(20))
            received = [(await client.receive_from()).data for _ in range(21)]
        assert received == [b"%d" % i for i in range(20)] + [b"goodbye"]

    async def test_the_sessions_of_the_body_end_with_it(self):
        async with serve_datagrams(ANY) as server:
            async with client_of(server) as client:
                await client.send_to(b"1")
                session = await server.accept()
        with pytest.raises(trio.ClosedResourceError):
            await session.receive()
        assert accounted(server)

    async def test_one_that_is_closed_while_it_sends(self, monkeypatch):
        async with serve_datagrams(ANY) as server, client_of(server) as client:
            await client.send_to(b"1")
            session = await server.accept()
            real = DatagramSocket.reply

            async def reply(self, *arguments):
                await session.aclose()
                return await real(self, *arguments)

            monkeypatch.setattr(DatagramSocket, "reply", reply)
            await session.send(b"last words")
            assert (await client.receive_from()).data == b"last words"
            assert server.statistics().active == 0

    async def test_a_refused_answer_is_no_end(self):
        options = SocketOptions(receive_errors=True)
        async with serve_datagrams(ANY, options=options) as server:
            with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as plain:
                plain.sendto(b"x", server.addresses[0].sockaddr)
            session = await server.accept()
            await session.send(b"lost")
            await soon(lambda: server.statistics().network_errors == 1)
            await session.send(b"lost, too")


@needs_trains
async def test_what_came_in_trains_and_was_not_handled_is_counted():
    """Of trains more may be taken from the kernel at once than were asked for."""

    async def handle(datagram, server):
        await trio.lowlevel.checkpoint()

    options = SocketOptions(receive_buffer=8 << 20)
    with trio.CancelScope() as scope:
        async with serve_datagrams(ANY, handle, options=options) as server:
            [sock] = server.sockets
            to = server.addresses[0].sockaddr
            async with opened(local=ANY) as peer:
                # So that single ones are what it expects.
                await peer.send_to(b"x", to)
                await trio.testing.wait_all_tasks_blocked()
                with stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM) as plain:
                    for _ in range(4):
                        plain.sendto(b"x", to)
                    segment = segment_message(100)
                    for _ in range(64):
                        plain.sendmsg([bytes(64 * 100)], [segment], 0, to)
                while not sock._pending:  # nothing tells of it
                    await trio.lowlevel.checkpoint()
                scope.cancel()
    figures = server.statistics()
    assert figures.dropped_queue > 1000
    assert figures.received == figures.handled + figures.dropped_queue == sock._received
