"""The drain protocol: what the kernel began before the stop is served, half-open ones as well.

A client is half-open that is connected in its own eyes, but not in the queue yet. With
``defer_accept`` that lasts until it sends something.
"""

from __future__ import annotations

import errno
import select
import socket
import sys

import pytest
import trio

from sockscope import (
    SocketOptions,
    make_socket,
    open_socket,
    serve_passive,
    socket_from_fd,
    socket_pair,
    supports,
)
from sockscope._serve import draining
from sockscope._serve import server as server_module
from sockscope.testing import open_descriptors, serving
from tests._serve.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="no other system has the means")

HALF_OPEN = 20


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def ask(address):
    async with open_socket(address) as stream:
        await stream.send_all(b"x")
        return await stream.receive_some()


def may_filter():
    """Whether this process may put a filter on a TCP socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        try:
            draining._attach(listener, draining._SO_ATTACH_FILTER, draining._DROP_SYN)
        except PermissionError:
            return False
    return True


@pytest.fixture
def sent(monkeypatch):
    """Who has sent; the network's time begins when all have, however busy the machine is."""
    who = []

    async def wait_as_well(streams):
        await until(lambda: len(who) == HALF_OPEN)
        await draining.handshakes_have_ended(streams)

    monkeypatch.setattr(server_module, "handshakes_have_ended", wait_as_well)
    return who


async def half_open(server, answers, sent, *, task_status):
    """Connected before the stop, sends after it."""
    async with open_socket(server.addresses[0]) as stream:
        task_status.started()
        await server.draining.wait()
        await trio.sleep(0.005)
        try:
            await stream.send_all(b"x")
            sent.append(stream)
            answers.append(await stream.receive_some())
        except trio.BrokenResourceError:
            answers.append("reset")


async def drain_with_half_open_ones(server, nursery, sent):
    answers = []
    for _ in range(HALF_OPEN):
        await nursery.start(half_open, server, answers, sent)
    await server.drain(1)
    return answers


def deferring(**options):
    return SocketOptions(defer_accept=5, **options)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None], ids=["ipv4", "ipv6", "dual-stack"])
async def test_half_open_ones_are_served(host, sent):
    if not may_filter():
        pytest.skip("a filter on a TCP socket needs CAP_NET_ADMIN")
    if host == "::1" and not supports("ipv6"):
        pytest.skip("no IPv6 on this system")
    async with trio.open_nursery() as nursery:
        async with serving(echo, (host, 0), options=deferring()) as server:
            answers = await drain_with_half_open_ones(server, nursery, sent)
    assert answers == [b"x"] * HALF_OPEN
    assert server.statistics().possibly_lost == 0


async def test_without_privilege_they_may_be_lost_and_that_is_told(monkeypatch, sent):
    def attach(sock, option, program):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(draining, "_attach", attach)
    async with trio.open_nursery() as nursery:
        async with serving(echo, options=deferring()) as server:
            answers = await drain_with_half_open_ones(server, nursery, sent)
    assert answers == ["reset"] * HALF_OPEN
    assert server.statistics().possibly_lost == 1


async def test_stop_accepting_is_a_plain_call_and_cannot_wait():
    async with serving(echo) as server:
        server.stop_accepting()
        assert server.statistics().possibly_lost == 1


async def test_a_local_socket_loses_nothing(tmp_path):
    async with serving(echo, tmp_path / "s") as server:
        assert await ask(server.addresses[0]) == b"x"
    assert server.statistics().possibly_lost == 0


async def successor(port, task_status, handler=echo):
    options = SocketOptions(reuse_port=True)
    async with serving(handler, ("127.0.0.1", port), options=options) as server:
        task_status.started(server)
        await trio.sleep_forever()


@pytest.mark.parametrize("first", [True, False], ids=["older", "younger"])
async def test_new_ones_are_steered_to_another_of_the_group(first, monkeypatch, sent):
    """As any user, and whichever of the two was there first."""
    real = draining._attach

    def attach(sock, option, program):
        assert option == draining._SO_ATTACH_REUSEPORT_CBPF
        real(sock, option, program)

    monkeypatch.setattr(draining, "_attach", attach)
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    answers = []
    async with trio.open_nursery() as nursery:
        if not first:
            other = await nursery.start(successor, port)
        # What arrives half-open at the other is served there, at leisure.
        options = deferring(reuse_port=True)
        async with serving(echo, ("127.0.0.1", port), options=options) as server:
            if first:
                other = await nursery.start(successor, port)
            for _ in range(HALF_OPEN):
                await nursery.start(half_open, server, answers, sent)
            await server.drain(1)
        assert [await ask(other.addresses[0]) for _ in range(HALF_OPEN)] == [b"x"] * HALF_OPEN
        nursery.cancel_scope.cancel()
    assert answers == [b"x"] * HALF_OPEN
    assert 0 < server.statistics().accepted < HALF_OPEN
    assert server.statistics().possibly_lost == 0


async def test_a_group_of_one_is_filtered(sent):
    if not may_filter():
        pytest.skip("a filter on a TCP socket needs CAP_NET_ADMIN")
    async with trio.open_nursery() as nursery:
        async with serving(echo, options=deferring(reuse_port=True)) as server:
            answers = await drain_with_half_open_ones(server, nursery, sent)
    assert answers == [b"x"] * HALF_OPEN
    assert server.statistics().possibly_lost == 0
    assert server.statistics().accepted == HALF_OPEN  # our own probes are not among them


@pytest.fixture
def ordinary(monkeypatch):
    """What any user may do: filters on groups only."""
    real = draining._attach

    def attach(sock, option, program):
        if option != draining._SO_ATTACH_REUSEPORT_CBPF:
            raise PermissionError(errno.EPERM, "Operation not permitted")
        real(sock, option, program)

    monkeypatch.setattr(draining, "_attach", attach)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", None], ids=["ipv4", "ipv6", "dual-stack"])
async def test_a_group_of_one_gets_company_that_is_full(host, ordinary, sent):
    if host == "::1" and not supports("ipv6"):
        pytest.skip("no IPv6 on this system")
    before = open_descriptors()
    async with trio.open_nursery() as nursery:
        async with serving(echo, (host, 0), options=deferring(reuse_port=True)) as server:
            answers = await drain_with_half_open_ones(server, nursery, sent)
    assert answers == [b"x"] * HALF_OPEN
    assert server.statistics().possibly_lost == 0
    assert server.statistics().accepted == HALF_OPEN
    assert open_descriptors() == before


async def test_new_clients_of_a_group_of_one_go_unanswered(ordinary, monkeypatch):
    """They try again, and come to whoever serves there by then."""
    unanswered = []

    async def connect_meanwhile(streams):
        for _ in range(3):
            client = socket.socket()
            client.setblocking(False)
            assert client.connect_ex(server.addresses[0].sockaddr) == errno.EINPROGRESS
            with pytest.raises(OSError, match="not connected"):
                client.getpeername()
            unanswered.append(client)

    monkeypatch.setattr(server_module, "handshakes_have_ended", connect_meanwhile)
    async with serving(echo, options=SocketOptions(reuse_port=True)) as server:
        address = server.addresses[0]
        await server.drain(1)
    assert server.statistics().accepted == 0
    async with serving(echo, (str(address.host), address.port)):
        for client in unanswered:
            assert await trio.to_thread.run_sync(answer_of, client) == b"x"


def answer_of(client):
    """What a client gets that tries again after a second, as its system does."""
    with client:
        client.settimeout(10)
        # It waits for the handshake that is under way.
        select.select([], [client], [], 10)
        client.sendall(b"x")
        return client.recv(1)


async def test_who_is_quicker_than_our_own_is_served(ordinary, monkeypatch):
    """A client takes the room of the listener that was to be full."""
    clients = []
    real = draining._probe

    def probe(passive, begin):
        # The third is the one that is to fill it: two have looked for another of the group.
        probes.append(None)
        if len(probes) == 3:
            clients.append(socket.create_connection(passive.address.sockaddr))
        return real(passive, begin)

    probes = []
    monkeypatch.setattr(draining, "_probe", probe)
    async with serving(echo, options=SocketOptions(reuse_port=True)) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain, 5)
            await server.draining.wait()
            await trio.testing.wait_all_tasks_blocked(0.05)
            [client] = clients
            client.settimeout(5)
            client.sendall(b"x")
            with client:
                assert await trio.to_thread.run_sync(client.recv, 1) == b"x"
    assert server.statistics().possibly_lost == 0
    assert server.statistics().accepted == 1


@pytest.mark.parametrize("why", ["it comes to us", "it is refused", "others are always quicker"])
async def test_company_that_does_not_fill(why, ordinary, monkeypatch, sent):
    if why == "it comes to us":
        monkeypatch.setattr(draining, "_came_to_us", lambda *_: True)
    elif why == "it is refused":
        monkeypatch.setattr(draining, "_sibling", refused)
    else:
        monkeypatch.setattr(draining, "_TRIES", 0)
    before = open_descriptors()
    async with serving(echo, options=SocketOptions(reuse_port=True)) as server:
        sent.extend([None] * HALF_OPEN)
        await server.drain(1)
    assert server.statistics().possibly_lost == 1
    assert open_descriptors() == before


def refused(sock):
    raise OSError(errno.EADDRINUSE, "Address already in use")


async def test_what_was_in_the_queue_while_we_looked_for_another():
    async with serving(echo, options=SocketOptions(reuse_port=True)) as server:
        server.pause()
        async with open_socket(server.addresses[0]) as stream:
            await stream.send_all(b"x")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain, 1)
                assert await stream.receive_some() == b"x"
                await stream.aclose()


async def test_an_adopted_socket_is_not_touched():
    """Another process may go on listening on it: a filter would be there, too."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        passive = socket_from_fd(listener.dup(), connect="passive")
        async with serving(echo, passive) as server:
            assert await ask(server.addresses[0]) == b"x"
            await server.drain(1)
        with socket.create_connection(listener.getsockname(), timeout=0.5) as client:
            child, _ = listener.accept()
            with child:
                child.sendall(b"y")
                assert client.recv(1) == b"y"


async def test_a_socket_that_was_handed_over_keeps_its_queue(tmp_path):
    here, there = socket_pair()
    async with here, there, serving(echo) as server:
        await here.send_socket(server.sockets[0])
        server.pause()
        async with open_socket(server.addresses[0]) as client:
            await server.drain(1)
            assert server.statistics().accepted == 0
            async with serving(echo, await there.receive_socket()):
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                await client.aclose()
    assert server.statistics().possibly_lost == 0


async def test_a_drain_that_is_cancelled_has_stopped_accepting():
    async with serve_passive(("127.0.0.1", 0), echo) as server:
        address = server.addresses[0]
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.drain()
        assert server.addresses == ()
        with pytest.raises(OSError, match="refused"):
            await ask(address)


async def test_clients_during_lame_duck_are_served():
    async with serving(echo) as server, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: server.drain(lame_duck=0.2))
        await server.draining.wait()
        assert await ask(server.addresses[0]) == b"x"


async def test_the_network_has_its_own_time(mock_clock):
    """A test's clock that stands still must not keep a server from ending."""
    async with serving(echo) as server:
        assert await ask(server.addresses[0]) == b"x"
    assert server.statistics().finished == 1


async def test_as_long_as_the_slowest_round_trip_takes_twice(autojump_clock):
    class Slow:
        def tcp_info(self):
            return self

        rtt = 300_000

    class Local:
        def tcp_info(self):
            raise OSError(errno.EOPNOTSUPP, "not a TCP stream")

    began = trio.current_time()
    await draining.handshakes_have_ended([Local(), Slow(), Local()])
    assert trio.current_time() - began == pytest.approx(0.6)


async def test_nothing_is_left_open():
    before = open_descriptors()
    for options in (None, SocketOptions(reuse_port=True)):
        async with serving(echo, options=options) as server:
            await ask(server.addresses[0])
    assert open_descriptors() == before


async def test_drains_at_the_same_time_count_each_connection_once(autojump_clock):
    async def stay(stream):
        await trio.sleep(1 if len(kept) < 2 and not kept.append(stream) else 100)

    kept = []
    async with serve_passive(("127.0.0.1", 0), stay) as server:
        clients = [await make_socket(server.addresses[0]) for _ in range(4)]
        await trio.testing.wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            for seconds in (3, 4, 5):
                nursery.start_soon(server.drain, seconds)
    statistics = server.statistics()
    assert (statistics.drained, statistics.cut) == (2, 2)
    for client in clients:
        client.abort()


async def test_who_takes_long_to_end_is_cut_once(autojump_clock):
    async def stubborn(stream):
        with trio.CancelScope(shield=True):
            await trio.sleep(10)

    async with serve_passive(("127.0.0.1", 0), stubborn) as server:
        async with open_socket(server.addresses[0]):
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain, 1)
                nursery.start_soon(server.drain, 2)
    assert (server.statistics().drained, server.statistics().cut) == (0, 1)


async def test_closing_a_listener_ends_however_fast_peers_connect(monkeypatch):
    monkeypatch.setattr(server_module, "_LONGEST_QUEUE", server_module.BATCH)
    async with serve_passive(("127.0.0.1", 0), echo, drain_timeout=0) as server:
        server.pause()
        number = server_module.BATCH + 6
        clients = [await make_socket(server.addresses[0]) for _ in range(number)]
        server.stop_accepting()
        assert server.statistics().accepted == server_module.BATCH
    for client in clients:
        client.abort()
