"""A server that has run out of descriptors: everybody is served in the end, or reset at once."""

from __future__ import annotations

import errno
import logging
import os
import socket
import sys
from contextlib import contextmanager

import pytest
import trio

from sockscope import accept_connection, open_socket, serve_passive
from sockscope._serve import overload
from sockscope._serve.accepting import has_waiting
from sockscope._serve.overload import Reserve, Shortage
from sockscope.testing import open_descriptors, open_loopback_listener, serving
from tests._serve.waiting import until

if sys.platform == "win32":
    pytest.skip("no limit of descriptors to lower", allow_module_level=True)
import resource


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


@contextmanager
def descriptors_to_spare(number):
    """Let so many more descriptors be opened and no further."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # The lowest free numbers are what the next ones get: holes count, too.
    free = [os.dup(2) for _ in range(number + 1)]
    limit = free[-1]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def connected(address, number):
    """Clients that have connected and sent their request, each a plain socket."""
    clients = []
    for _ in range(number):
        client = socket.create_connection((str(address.host), address.port))
        client.sendall(b"x")
        client.settimeout(10)
        clients.append(client)
    return clients


def answer(client):
    with client:
        return client.recv(1)


async def answer_or_reset(client):
    try:
        return await trio.to_thread.run_sync(answer, client)
    except ConnectionResetError:
        return "reset"


def lines(caplog):
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "sockscope.server" and record.levelno >= logging.WARNING
    ]


async def test_all_are_served_as_descriptors_come_free(caplog):
    before = open_descriptors()
    async with serving(echo) as server:
        server.pause()
        clients = connected(server.addresses[0], 20)
        with descriptors_to_spare(4):
            server.resume()
            for client in clients:
                with trio.fail_after(10):
                    assert await trio.to_thread.run_sync(answer, client) == b"x"
    assert open_descriptors() == before
    assert server.statistics().shortages >= 1
    start, end = lines(caplog)
    assert "pauses" in start
    assert "Too many open files" in start
    assert "wait" in start
    assert "goes on after" in end


async def test_a_close_of_ours_is_noticed_at_once(monkeypatch):
    """Not after a pause: that one would last for ever."""
    monkeypatch.setattr(overload, "_FIRST_PAUSE", 1e6)
    async with serving(echo) as server:
        server.pause()
        clients = connected(server.addresses[0], 3)
        with descriptors_to_spare(1):
            server.resume()
            for client in clients:
                with trio.fail_after(10):
                    assert await trio.to_thread.run_sync(answer, client) == b"x"


async def test_reject_resets_at_once(caplog):
    before = open_descriptors()
    async with serving(echo, overload="reject") as server:
        server.pause()
        clients = connected(server.addresses[0], 12)
        with descriptors_to_spare(2):
            server.resume()
            assert [await answer_or_reset(client) for client in clients[2:]] == ["reset"] * 10
            for client in clients[:2]:
                assert await trio.to_thread.run_sync(answer, client) == b"x"
            await until(lambda: not server.connections)
            [again] = connected(server.addresses[0], 1)
            assert await trio.to_thread.run_sync(answer, again) == b"x"
    statistics = server.statistics()
    assert statistics.refused == {"overload": 10}
    assert statistics.accepted == 13
    assert statistics.finished == 3
    assert open_descriptors() == before
    assert len(lines(caplog)) == 2
    assert "10 connections were reset" in lines(caplog)[1]


async def test_without_its_reserve_it_waits(caplog):
    async with serving(echo, overload="reject") as server:
        server._connections.reserve.close()
        server.pause()
        clients = connected(server.addresses[0], 3)
        with descriptors_to_spare(1):
            server.resume()
            with trio.fail_after(10):
                assert await trio.to_thread.run_sync(answer, clients[0]) == b"x"
                # Each close is an occasion, either for the reserve or for the next in the queue.
                for client in clients[1:]:
                    assert await answer_or_reset(client) in (b"x", "reset")
        await until(lambda: server._connections.reserve._descriptor is not None)


async def test_a_full_queue_is_told_once(caplog):
    if sys.platform != "linux":
        pytest.skip("no other kernel tells its queue")
    async with serving(echo, max_connections=1, backlog=1) as server:
        clients = connected(server.addresses[0], 1)
        await until(lambda: server.connections)
        clients += connected(server.addresses[0], 2)  # a backlog of 1 holds two
        for client in clients:
            assert await trio.to_thread.run_sync(answer, client) == b"x"
    [line] = lines(caplog)
    assert "so is the queue of" in line
    assert "backlog" in line


async def test_a_drain_waits_for_descriptors():
    """What is in the queue has been promised: it is served as others end."""
    async with serving(echo) as server:
        server.pause()
        clients = connected(server.addresses[0], 3)
        with descriptors_to_spare(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain, 10)
                for client in clients:
                    assert await trio.to_thread.run_sync(answer, client) == b"x"
    statistics = server.statistics()
    assert (statistics.accepted, statistics.cut) == (3, 0)


async def test_a_drain_cannot_wait_for_ever(tmp_path, caplog):
    async with serving(echo, tmp_path / "s") as server:
        server.pause()
        async with open_socket(server.addresses[0]) as client:
            with descriptors_to_spare(0):
                await server.drain(0.05)
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
    assert server.statistics().possibly_lost == 1
    assert "could not be served" in lines(caplog)[-1]


def test_a_reserve_that_fails(monkeypatch):
    """An error of close, a queue that empties meanwhile, and another who takes the descriptor."""

    class Passive:
        """A listener that is said to have somebody waiting, and what `_take` then gives."""

        def __init__(self, *taken):
            self.taken = list(taken)

        def _take(self):
            result = self.taken.pop(0)
            if isinstance(result, OSError):
                raise result
            return result

    def failing_close(descriptor):
        close(descriptor)
        raise OSError(errno.EIO, "Input/output error")

    close = os.close
    reserve = Reserve()
    monkeypatch.setattr(overload, "has_waiting", lambda passive: True)
    monkeypatch.setattr(os, "close", failing_close)
    pairs = [(socket.socket(), None) for _ in range(2)]
    assert reserve.shed(Passive(*pairs, None)) == 2
    assert [pair[0].fileno() for pair in pairs] == [-1, -1]
    assert reserve.shed(Passive(OSError(errno.EMFILE, "Too many open files"))) == 0
    assert reserve._descriptor is not None
    reserve.close()


async def test_a_listener_on_another_kind_of_socket(tmp_path, caplog):
    """No kernel tells the queue of a local socket."""
    async with serving(echo, tmp_path / "s") as server:
        server.pause()
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        for client in clients:
            client.connect(str(tmp_path / "s"))
            client.sendall(b"x")
        with descriptors_to_spare(1):
            server.resume()
            for client in clients:
                assert await trio.to_thread.run_sync(answer, client) == b"x"
    assert "an unknown number wait" in lines(caplog)[0]


async def test_flapping_is_told_once(caplog, autojump_clock):
    async with open_loopback_listener() as passive:
        shortage = Shortage(passive, trio.lowlevel.ParkingLot())
        exc = OSError(errno.EMFILE, "Too many open files")
        for _ in range(5):
            assert shortage.begin(exc, 0)
            assert not shortage.begin(exc, 0)
            shortage.is_over()
            shortage.is_over()
            await trio.sleep(1)
        assert len(lines(caplog)) == 2
        await trio.sleep(60)
        assert shortage.begin(exc, 0)
        assert "4 shortages since" in lines(caplog)[2]


async def test_the_pause_doubles_up_to_a_second(autojump_clock):
    async with open_loopback_listener() as passive:
        shortage = Shortage(passive, trio.lowlevel.ParkingLot())
        pauses = []
        for _ in range(12):
            began = trio.current_time()
            await shortage.pause()
            pauses.append(trio.current_time() - began)
    assert 0.0024 <= pauses[0] <= 0.0051
    assert 0.49 <= pauses[-1] <= 1.01


async def test_a_closed_listener_has_no_queue_to_tell(caplog):
    async with open_loopback_listener() as passive:
        shortage = Shortage(passive, trio.lowlevel.ParkingLot())
        _ = passive.address
    assert shortage.begin(OSError(errno.ENOMEM, "Cannot allocate memory"), 3)
    assert "3 connections are open" in lines(caplog)[0]


async def test_the_reserve_of_a_full_table():
    with descriptors_to_spare(0):
        reserve = Reserve()
        async with trio.open_nursery():
            assert reserve._descriptor is None
            reserve.refill()
            assert reserve._descriptor is None
    reserve.refill()
    assert reserve._descriptor is not None
    reserve.close()
    reserve.close()


async def test_whether_somebody_waits():
    async with open_loopback_listener() as passive:
        assert not has_waiting(passive)
        async with open_socket(passive.address):
            assert has_waiting(passive)


async def test_an_empty_queue_is_no_shortage(caplog):
    """A full table says EMFILE there, too."""
    async with serve_passive(("127.0.0.1", 0), echo) as server:
        server.pause()
        [client] = connected(server.addresses[0], 1)
        with descriptors_to_spare(1):
            server.resume()
            assert await trio.to_thread.run_sync(answer, client) == b"x"
    assert server.statistics().shortages == 0
    assert lines(caplog) == []


async def test_no_waiting_without_a_descriptor_and_without_a_connection():
    """EMFILE comes on an empty queue, too: there is no connection all the same."""
    async with serve_passive(("127.0.0.1", 0)) as server:
        with descriptors_to_spare(0), pytest.raises(trio.WouldBlock):
            await accept_connection(server, wait=False).__aenter__()
