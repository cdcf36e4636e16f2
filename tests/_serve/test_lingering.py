"""Lingering close: a peer that is still sending gets all of our last bytes, and then the end."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
import trustme

from sockscope import (
    Linger,
    SocketOptions,
    accept_connection,
    open_socket,
    serve_passive,
    tls_upgrade,
)
from sockscope._serve import lingering
from sockscope.testing import open_descriptors, serving
from tests._serve.waiting import until
from tests._tls.certificates import NAME, Certificates

REPLY = b"y" * 1_000_000


async def answer_without_reading(stream):
    await stream.receive_some(1)
    await stream.send_all(REPLY)


async def receive_all(stream):
    return b"".join([bytes(data) async for data in stream])


@pytest.fixture(params=["ipv4", "local"])
def local(request, tmp_path):
    return ("127.0.0.1", 0) if request.param == "ipv4" else tmp_path / "socket"


async def open_lingering(server):
    """A client whose connection lingers, for it has sent what nobody reads."""
    client = await open_socket(server.addresses[0]).__aenter__()
    await client.send_all(b"x" * 1000)
    await until(lambda: server.statistics().lingering)
    return client


async def quit_at_once(stream):
    await stream.send_all(b"bye")
    # Not before there is something unread, for which it has to linger.
    while 0 < len(await stream.receive(1000, peek=True)) < 1000:
        pass


async def ends_in_reset(stream):
    """Whether that is how it ends, at the latest when something is sent after the end."""
    try:
        await receive_all(stream)
        await stream.send_all(b"x")
        await receive_all(stream)
    except trio.BrokenResourceError:
        return True
    return False


async def gets_nothing(address):
    """Whether a client at *address* is reset; a local socket knows no resets, but an end."""
    try:
        async with open_socket(address) as stream:
            return await stream.receive_some() == b""
    except (OSError, trio.BrokenResourceError):
        return True


async def test_all_of_the_reply_arrives_and_then_the_end(local):
    async with serving(answer_without_reading, local) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x" * 100_000)
            assert await receive_all(client) == REPLY
    assert server.statistics().resets == 0


async def test_a_peer_that_goes_on_sending_gets_it_too():
    async with serving(answer_without_reading) as server:
        async with open_socket(server.addresses[0]) as client, trio.open_nursery() as nursery:

            async def chatter():
                while True:
                    await client.send_all(b"x" * 1000)
                    await trio.sleep(0.001)

            nursery.start_soon(chatter)
            assert await receive_all(client) == REPLY
            nursery.cancel_scope.cancel()


async def test_it_counts_until_it_is_gone(local):
    outcomes = []
    async with serving(
        quit_at_once,
        local,
        max_connections=1,
        overload="reject",
        on_close=lambda stream, outcome: outcomes.append((stream.is_open, outcome)),
    ) as server:
        client = await open_lingering(server)
        statistics = server.statistics()
        assert (statistics.lingering, statistics.active, statistics.finished) == (1, 0, 1)
        assert outcomes == [(False, "finished")]
        assert await gets_nothing(server.addresses[0])
        assert server.statistics().refused == {"max_connections": 1}
        assert await receive_all(client) == b"bye"
        await client.aclose()
        await until(lambda: not server.statistics().lingering)
        async with open_socket(server.addresses[0]) as third:
            await third.send_all(b"x" * 1000)
            assert await third.receive_some() == b"bye"


async def test_the_drains_deadline_cuts_it():
    before = open_descriptors()
    async with serve_passive(("127.0.0.1", 0), quit_at_once, drain_timeout=0.05) as server:
        client = await open_lingering(server)
    assert server.statistics().lingering == 0
    async with client:
        assert await ends_in_reset(client)
    assert open_descriptors() == before


@pytest.mark.parametrize("bound", ["_IDLE_SECONDS", "_WHOLE_SECONDS", "_MOST_BYTES"])
async def test_every_bound_ends_it(bound, monkeypatch):
    monkeypatch.setattr(lingering, bound, 0.05 if bound != "_MOST_BYTES" else 500)
    async with serving(quit_at_once) as server:
        client = await open_lingering(server) if bound != "_MOST_BYTES" else None
        if client is None:
            client = await open_socket(server.addresses[0]).__aenter__()
            await client.send_all(b"x" * 1000)
            await until(lambda: server.statistics().finished)
        await until(lambda: not server.statistics().lingering)
        await client.aclose()


async def test_not_where_there_is_nothing_to_lose():
    async def handler(stream):
        await stream.receive_some()
        await stream.send_all(b"bye")

    async with serving(handler) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x")
            assert await receive_all(client) == b"bye"
            await trio.testing.wait_all_tasks_blocked()
            assert server.statistics().lingering == 0


@pytest.mark.parametrize("linger", [Linger(0), Linger(1)], ids=str)
async def test_not_where_the_user_has_said_how_it_ends(linger):
    options = SocketOptions(linger=linger)
    async with serving(quit_at_once, connection_options=options) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x" * 1000)
            await ends_in_reset(client)
            assert server.statistics().lingering == 0


async def test_a_reset_connection_does_not_linger():
    broken = trio.Event()

    async def handler(stream):
        await broken.wait()

    async with serving(handler) as server:
        client = await open_socket(server.addresses[0]).__aenter__()
        await client.send_all(b"x")
        client.abort()
        broken.set()
    assert server.statistics().lingering == 0


async def test_a_failed_handler_lingers_as_well(caplog):
    async def handler(stream):
        await stream.receive_some(1)
        await stream.send_all(b"500")
        raise ValueError("the handler's own")

    async with serve_passive(("127.0.0.1", 0), handler) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x" * 1000)
            assert await receive_all(client) == b"500"
    assert server.statistics().handler_errors == 1


class Farewell:
    """An upgraded stream that says goodbye and closes the one below."""

    def __init__(self, stream):
        self.stream = stream

    async def aclose(self):
        await self.stream.send_all(b"bye")
        await self.stream.aclose()


async def test_below_an_upgraded_stream():
    async def upgrade(stream):
        return Farewell(stream)

    async def handler(connection):
        await connection.stream.receive_some(1)
        await connection.stream.send_all(REPLY)

    before = open_descriptors()
    async with serving(handler, upgrade=upgrade) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x" * 1000)
            assert await receive_all(client) == REPLY + b"bye"
            client_done = server.statistics().lingering
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x")  # nothing is left unread
            assert await receive_all(client) == REPLY + b"bye"
    assert client_done <= 1
    assert open_descriptors() == before


def tls_upgrades():
    certificates = Certificates(trustme.CA())
    return (
        tls_upgrade(certificates.server_context()),
        tls_upgrade(certificates.client_context(), server_hostname=NAME),
    )


@pytest.mark.parametrize("closes", [False, True], ids=["returns", "closes"])
@pytest.mark.parametrize("upgrades", [lambda: (None, None), tls_upgrades], ids=["plain", "tls"])
async def test_whoever_closes_it(upgrades, closes):
    """The server after the handler, or the handler itself, also with work left to do."""
    server_upgrade, client_upgrade = upgrades()
    may_go = trio.Event()

    async def handler(stream):
        await answer_without_reading(stream)
        if closes:
            await stream.aclose()
            await may_go.wait()

    async with serving(handler, upgrade=server_upgrade) as server:
        async with open_socket(server.addresses[0], upgrade=client_upgrade) as client:
            await client.send_all(b"x" * 100_000)
            assert await receive_all(client) == REPLY
        await until(lambda: not server.statistics().lingering)
        may_go.set()
    assert server.statistics().finished == 1


async def test_one_that_was_lent():
    async with serve_passive(("127.0.0.1", 0)) as server, trio.open_nursery() as nursery:

        async def borrow():
            async with accept_connection(server) as stream:
                await answer_without_reading(stream)

        nursery.start_soon(borrow)
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x" * 100_000)
            assert await receive_all(client) == REPLY


async def test_a_socket_that_was_reset_meanwhile():
    """shutdown says ENOTCONN, or the wait for more ends in the reset."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        client = socket.create_connection(listener.getsockname())
        child, _ = listener.accept()
    child.setblocking(False)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lingering.linger, child)
        await trio.testing.wait_all_tasks_blocked()
        client.close()
    assert child.fileno() == -1
    unconnected = socket.socket()
    assert await lingering.linger(unconnected)


async def test_a_wake_without_data():
    """Readiness is a hint: it goes on waiting."""

    class Moody(socket.socket):
        refusals = 1

        def recv_into(self, buffer):
            if self.refusals:
                self.refusals -= 1
                raise BlockingIOError
            return super().recv_into(buffer)

    near, far = socket.socketpair()
    near = Moody(near.family, near.type, near.proto, fileno=near.detach())
    near.setblocking(False)
    far.send(b"x")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lingering.linger, near)
        await until(lambda: not near.refusals)
        await trio.testing.wait_all_tasks_blocked()
        assert near.fileno() != -1
        far.close()
    assert near.fileno() == -1
