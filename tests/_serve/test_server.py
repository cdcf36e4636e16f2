"""A running server: pausing, stopping, draining."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from sockscope import current_server, make_socket, open_socket, serve, serve_passive
from sockscope.testing import open_loopback_listener, serving
from tests._serve.test_serve import LOCAL, ask, echo, local
from tests.wire import receive_all

__all__ = ["local"]


async def forever(stream):
    await trio.sleep_forever()


class TestDrain:
    async def test_at_the_end_of_the_block_handlers_may_finish(self, local, autojump_clock):
        async def slow(stream):
            await trio.sleep(20)
            await stream.send_all(b"done")

        async with serve_passive(local, slow) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
        assert await receive_all(client) == b"done"
        await client.aclose()
        statistics = server.statistics()
        assert (statistics.drained, statistics.cut, statistics.finished) == (1, 0, 1)

    async def test_what_is_left_is_cut(self, local, autojump_clock):
        async with serve_passive(local, forever, drain_timeout=7) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            began = trio.current_time()
        assert trio.current_time() - began == pytest.approx(7, abs=0.5)
        await client.aclose()
        statistics = server.statistics()
        assert (statistics.drained, statistics.cut) == (0, 1)
        assert statistics.active == 0

    async def test_what_the_kernel_has_accepted_is_served(self, local):
        """None in the queue is reset."""
        async with serve_passive(local, echo) as server:
            clients = [await make_socket(server.addresses[0]) for _ in range(100)]
            for client in clients:
                await client.send_all(b"ping")
                await client.send_eof()
            # Left at once: many are still in the queue.
        for client in clients:
            assert await receive_all(client) == b"ping"
            await client.aclose()
        assert server.statistics().accepted == 100
        assert server.statistics().finished == 100

    async def test_no_new_ones_are_taken(self, local):
        async with serve_passive(local, echo) as server:
            address = server.addresses[0]
            await server.drain()
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                await make_socket(address)
            assert server.sockets == ()
            assert server.addresses == ()

    async def test_it_is_a_checkpoint(self, local):
        async with serve_passive(local, echo) as server:
            with trio.testing.assert_checkpoints():
                await server.drain()
            with trio.testing.assert_checkpoints():
                await server.drain()

    async def test_two_at_once(self, autojump_clock):
        async with serve_passive(LOCAL, forever) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain, 50)
                nursery.start_soon(server.drain, 5)
            assert trio.current_time() == pytest.approx(5, abs=0.5)
            await client.aclose()
        assert server.statistics().cut == 1

    @pytest.mark.parametrize("bad", [-1, math.nan])
    async def test_bad_times(self, bad):
        async with serve_passive(LOCAL, echo) as server:
            with pytest.raises(ValueError, match="timeout"):
                await server.drain(bad)
            with pytest.raises(ValueError, match="lame_duck"):
                await server.drain(lame_duck=bad)
            assert not server.draining.is_set()
            assert await ask(server) == b"ping"

    async def test_lame_duck(self, local, autojump_clock):
        async with serve_passive(local, echo) as server, trio.open_nursery() as nursery:
            nursery.start_soon(lambda: server.drain(lame_duck=5))
            await trio.testing.wait_all_tasks_blocked()
            assert server.draining.is_set()
            assert await ask(server) == b"ping"

    async def test_draining_is_set_first(self, local):
        seen = []

        async def handler(stream):
            await current_server().draining.wait()
            await stream.send_all(b"bye")
            seen.append(current_server().draining.is_set())

        async with serving(handler, local) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            assert not server.draining.is_set()
        assert seen == [True]
        assert await receive_all(client) == b"bye"
        await client.aclose()

    async def test_cancel_when_draining(self, local):
        async def handler(stream):
            requests = 0
            while True:
                with current_server().cancel_when_draining() as scope:
                    data = await stream.receive_some()
                if scope.cancelled_caught:
                    await stream.send_all(b"%d served" % requests)
                    return
                requests += len(data)

        async with serving(handler, local) as server:
            client = await make_socket(server.addresses[0])
            await client.send_all(b"abc")
            await trio.testing.wait_all_tasks_blocked()
        assert await receive_all(client) == b"3 served"
        await client.aclose()

    async def test_cancel_when_draining_has_begun(self):
        async with serve_passive(LOCAL, echo) as server:
            await server.drain()
            with server.cancel_when_draining() as scope:
                await trio.sleep_forever()
            assert scope.cancelled_caught

    async def test_from_within_a_handler(self, autojump_clock):
        async def handler(stream):
            with trio.move_on_after(50):
                await current_server().drain(5)

        async with serve_passive(LOCAL, handler) as server:
            async with open_socket(server.addresses[0]) as client:
                assert await receive_all(client) == b""

    async def test_a_cancelled_one_can_be_repeated(self, autojump_clock):
        async with serve_passive(LOCAL, echo) as server:
            client = await make_socket(server.addresses[0])
            await client.send_all(b"x")
            with trio.move_on_after(1):
                await server.drain(10)
            assert await client.receive_some() == b"x"
            await client.aclose()
            await server.drain(10)
        assert server.statistics().finished == 1

    async def test_the_log_says_how_it_went(self, caplog):
        caplog.set_level("INFO", "sockscope.server")
        async with serve_passive(LOCAL, echo) as server:
            await ask(server)
        [record] = caplog.records
        assert "drained" in record.getMessage()

    async def test_a_handler_that_is_cut_may_clean_up(self, autojump_clock):
        cleaned = []

        async def handler(stream):
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await trio.sleep(3)
                cleaned.append(True)

        async with serve_passive(LOCAL, handler, drain_timeout=0) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
        assert cleaned
        await client.aclose()


class TestStopAccepting:
    async def test_connections_go_on(self, local):
        async with serve_passive(local, echo) as server:
            address = server.addresses[0]
            async with open_socket(address) as client:
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                server.stop_accepting()
                server.stop_accepting()
                await client.send_all(b"y")
                assert await client.receive_some() == b"y"
                assert server.addresses == ()
                with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                    await make_socket(address)

    async def test_what_is_in_the_queue_is_taken(self, local):
        async with serve_passive(local, echo) as server:
            clients = [await make_socket(server.addresses[0]) for _ in range(3)]
            server.stop_accepting()
            for client in clients:
                await client.send_all(b"x")
                assert await client.receive_some() == b"x"
                await client.aclose()

    async def test_from_within_a_handler(self, local):
        async def handler(stream):
            current_server().stop_accepting()
            await echo(stream)

        async with serving(handler, local) as server:
            assert await ask(server) == b"ping"

    async def test_addresses_are_known_until_then(self, local):
        async with serve_passive(local, echo) as server:
            [passive] = server.sockets
            address = passive.address
            server.stop_accepting()
            assert passive.address == address


class TestPause:
    async def test_connections_wait_in_the_queue(self, local):
        async with serve_passive(local, echo) as server:
            server.pause()
            server.pause()
            async with open_socket(server.addresses[0]) as client:
                await client.send_all(b"x")
                await trio.testing.wait_all_tasks_blocked()
                assert server.statistics().accepted == 0
                server.resume()
                assert await client.receive_some() == b"x"
            server.resume()

    async def test_connections_that_are_there_go_on(self, local):
        async with serve_passive(local, echo) as server:
            async with open_socket(server.addresses[0]) as client:
                await client.send_all(b"x")
                await client.receive_some()
                server.pause()
                await client.send_all(b"y")
                assert await client.receive_some() == b"y"

    async def test_draining_a_paused_server_serves_the_queue(self, local):
        async with serve_passive(local, echo) as server:
            server.pause()
            client = await make_socket(server.addresses[0])
            await client.send_all(b"x")
            await client.send_eof()
        assert await receive_all(client) == b"x"
        await client.aclose()

    async def test_a_pause_in_the_middle_of_a_burst(self, local):
        """Nothing is taken after it, though the loop was woken before."""

        async def handler(stream):
            current_server().pause()
            await echo(stream)

        async with serving(handler, local) as server:
            clients = [await make_socket(server.addresses[0]) for _ in range(200)]
            await trio.testing.wait_all_tasks_blocked()
            taken = server.statistics().accepted
            assert taken < 200
            server.resume()
            for client in clients:
                await client.send_eof()
                await client.receive_some()
                server.resume()
                await client.aclose()


class TestManyAtOnce:
    async def test_all_are_answered(self, local):
        async with serving(echo, local) as server, trio.open_nursery() as nursery:
            for _ in range(150):
                nursery.start_soon(ask, server)
        assert server.statistics().finished == 150

    async def test_a_stopped_server_ends_serve(self):
        async with open_loopback_listener() as passive, trio.open_nursery() as nursery:
            server = await nursery.start(serve, passive, echo)
            assert await ask(server) == b"ping"
            nursery.start_soon(server.drain)
