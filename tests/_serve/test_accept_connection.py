"""`accept_connection`: one connection for the length of a block, from a socket or a server."""

from __future__ import annotations

import math
import sys

import pytest
import trio
import trio.testing

from sockscope import (
    AcceptTimeoutError,
    OptionError,
    SocketOptions,
    accept_connection,
    make_socket,
    open_socket,
    serve,
    serve_passive,
)
from sockscope._serve.lending import Lender
from sockscope.testing import cancel_everywhere, open_loopback_listener
from tests._serve.test_serve import LOCAL, echo, local
from tests._serve.waiting import until
from tests.wire import no_descriptor_left, receive_all

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

__all__ = ["local"]


@pytest.fixture(params=["socket", "server"])
async def source(request, local):
    """What to accept from: a passive socket, or a server without a handler."""
    if request.param == "socket":
        async with open_socket(connect="passive", local=local) as passive:
            yield passive
    else:
        async with serve_passive(local, drain_timeout=0) as server:
            yield server


def address_of(source):
    return source.addresses[0] if hasattr(source, "addresses") else source.address


class TestBoth:
    async def test_it_gives_a_connection_and_closes_it(self, source):
        async with open_socket(address_of(source)) as client:
            async with accept_connection(source) as child:
                await child.send_all(b"hello")
                assert child.accepted
            assert not child.is_open
            assert await receive_all(client) == b"hello"

    async def test_it_waits(self, source):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later():
                await trio.testing.wait_all_tasks_blocked()
                async with open_socket(address_of(source)) as client:
                    await client.receive_some()

            async with accept_connection(source) as child:
                await child.send_all(b"x")

    async def test_a_timeout(self, source, autojump_clock):
        with pytest.raises(AcceptTimeoutError):
            await enter(accept_connection(source, timeout=5))
        assert trio.current_time() == pytest.approx(5, abs=0.1)

    async def test_a_timeout_of_zero(self, source):
        with pytest.raises(AcceptTimeoutError):
            await enter(accept_connection(source, timeout=0))
        async with open_socket(address_of(source)):
            async with accept_connection(source, timeout=0) as child:
                assert child.is_open

    async def test_without_waiting(self, source):
        with pytest.raises(trio.WouldBlock):
            await enter(accept_connection(source, wait=False))
        async with open_socket(address_of(source)):
            async with accept_connection(source, wait=False) as child:
                assert child.is_open
        with pytest.raises(trio.WouldBlock):
            await enter(accept_connection(source, wait=False))

    async def test_it_is_a_checkpoint(self, source):
        for arguments in ({}, {"timeout": 0}, {"wait": False}):
            async with open_socket(address_of(source)):
                manager = accept_connection(source, **arguments)
                with trio.testing.assert_checkpoints():
                    await manager.__aenter__()
                with trio.testing.assert_checkpoints():
                    await manager.__aexit__(None, None, None)

    @pytest.mark.parametrize("bad", [-1, math.nan])
    async def test_no_such_time(self, source, bad):
        with pytest.raises(ValueError, match="timeout"):
            accept_connection(source, timeout=bad)

    async def test_true_is_no_time(self, source):
        with pytest.raises(TypeError, match="timeout"):
            accept_connection(source, timeout=True)

    async def test_the_timeout_does_not_limit_the_body(self, source, autojump_clock):
        async with open_socket(address_of(source)):
            async with accept_connection(source, timeout=1) as child:
                await trio.sleep(100)
                await child.send_all(b"x")

    @pytest.mark.parametrize("error", [KeyError("own"), trio.ClosedResourceError()])
    async def test_the_bodys_exceptions_come_out_bare(self, source, error):
        async def body():
            async with accept_connection(source) as child:
                children.append(child)
                raise error

        children = []
        async with open_socket(address_of(source)):
            with pytest.raises(type(error)) as caught:
                await body()
        assert caught.value is error
        assert not children[0].is_open

    async def test_options(self, source):
        options = SocketOptions(keepalive=True)
        async with open_socket(address_of(source)):
            async with accept_connection(source, options=options) as child:
                assert child.get_option("keepalive")
                assert child.requested_options.keepalive is True

    async def test_an_option_that_fails_closes_that_child(self, source):
        bad = SocketOptions(extra={(12345, 1): 1})
        async with open_socket(address_of(source)) as client:
            with pytest.raises(OptionError):
                await enter(accept_connection(source, options=bad))
            assert await client.receive_some() == b""
        async with open_socket(address_of(source)):
            async with accept_connection(source) as child:
                assert child.is_open

    async def test_cancelled_it_takes_nothing(self, source):
        async with open_socket(address_of(source)) as client:
            with trio.CancelScope() as scope:
                scope.cancel()
                await enter(accept_connection(source))
            assert scope.cancelled_caught
            async with accept_connection(source, wait=False) as child:
                await child.send_all(b"x")
                assert await client.receive_some() == b"x"

    async def test_at_every_step_none_is_lost(self, source):
        """Connections outlive the runs: each is handed out, or is still to be had."""
        clients = [await make_socket(address_of(source)) for _ in range(60)]
        taken = 0

        async def accept_one():
            nonlocal taken
            async with accept_connection(source) as child:
                taken += 1
                child.abort()

        await cancel_everywhere(accept_one)
        assert taken
        while True:
            try:
                async with accept_connection(source, wait=False) as child:
                    child.abort()
            except trio.WouldBlock:
                break
            taken += 1
        assert taken == 60
        for client in clients:
            client.abort()

    async def test_a_connection_that_comes_as_the_time_is_up(self, source, autojump_clock):
        for when in (4.99, 5, 5.01):
            got = 0
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def later(when=when):
                    await trio.sleep(when)
                    async with open_socket(address_of(source)) as client:
                        await client.receive_some()

                for _ in range(2):
                    try:
                        async with accept_connection(source, timeout=5) as child:
                            await child.send_all(b"x")
                            got += 1
                            break
                    except AcceptTimeoutError:
                        pass
            assert got == 1


async def enter(manager):
    async with manager:
        raise AssertionError("nothing should have been accepted")


class TestSocket:
    async def test_a_second_task_is_refused(self):
        async with open_loopback_listener() as passive, trio.open_nursery() as nursery:
            nursery.start_soon(enter, accept_connection(passive))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await enter(accept_connection(passive))
            nursery.cancel_scope.cancel()

    @pytest.mark.parametrize("wait", [True, False])
    async def test_a_closed_one(self, wait):
        async with open_loopback_listener() as passive:
            await passive.aclose()
            with pytest.raises(trio.ClosedResourceError):
                await enter(accept_connection(passive, wait=wait))

    @pytest.mark.parametrize("what", [5, None, "127.0.0.1:80"])
    async def test_what_is_neither(self, what):
        with pytest.raises(TypeError, match="PassiveSocket or a Server"):
            accept_connection(what)


class TestServer:
    async def test_one_with_a_handler(self):
        async with serve_passive(LOCAL, echo) as server:
            with pytest.raises(RuntimeError, match="handler"):
                accept_connection(server)

    async def test_first_come_first_served(self, local):
        order = []

        async def take(number):
            async with accept_connection(server):
                order.append(number)

        async with serve_passive(local) as server, trio.open_nursery() as nursery:
            for number in range(10):
                nursery.start_soon(take, number)
                await trio.testing.wait_all_tasks_blocked()
            for _ in range(10):
                async with open_socket(server.addresses[0]) as client:
                    await client.receive_some()
        assert order == list(range(10))

    async def test_nothing_is_taken_from_the_kernel_before_somebody_asks(self, local):
        async with serve_passive(local, drain_timeout=0) as server:
            clients = [await make_socket(server.addresses[0]) for _ in range(3)]
            await trio.testing.wait_all_tasks_blocked()
            assert server.statistics().accepted == 0
            async with accept_connection(server):
                assert server.statistics().accepted == 1
            for client in clients:
                client.abort()

    async def test_options_and_upgrade_are_done(self, local):
        async def upgrade(stream):
            await trio.lowlevel.checkpoint()
            return ["upgraded", stream]

        async with serve_passive(
            local, upgrade=upgrade, connection_options=SocketOptions(keepalive=True)
        ) as server:
            async with open_socket(server.addresses[0]):
                async with accept_connection(server) as (word, stream):
                    assert word == "upgraded"
                    assert stream.get_option("keepalive")

    @pytest.mark.parametrize("arguments", [{}, {"timeout": 0}, {"wait": False}])
    async def test_one_whose_upgrade_fails_is_passed_over(self, arguments, caplog):
        fails = [True, False]

        async def upgrade(stream):
            await trio.lowlevel.checkpoint()
            if fails.pop(0):
                raise KeyError
            return stream

        async with serve_passive(LOCAL, upgrade=upgrade) as server:
            async with open_socket(server.addresses[0]), open_socket(server.addresses[0]):
                while True:
                    try:
                        async with accept_connection(server, **arguments) as child:
                            assert child.is_open
                            break
                    except (trio.WouldBlock, AcceptTimeoutError):
                        pass
        statistics = server.statistics()
        assert statistics.upgrade_failures == {"KeyError": 1}
        assert statistics.finished == 1

    async def test_a_slow_upgrade_and_no_waiting(self, autojump_clock):
        async def upgrade(stream):
            await trio.sleep(5)
            return stream

        async with serve_passive(LOCAL, upgrade=upgrade) as server:
            async with open_socket(server.addresses[0]):
                async with accept_connection(server, wait=False) as child:
                    assert child.is_open

    async def test_draining_tells_who_waits(self, local):
        async with serve_passive(local) as server, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def wait():
                with pytest.raises(trio.ClosedResourceError):
                    await enter(accept_connection(server))

            await trio.testing.wait_all_tasks_blocked()
            await server.drain()
            for arguments in ({}, {"timeout": 0}, {"wait": False}, {"timeout": 5}):
                with pytest.raises(trio.ClosedResourceError):
                    await enter(accept_connection(server, **arguments))

    async def test_draining_hands_out_what_is_in_the_queue_first(self, local):
        async with serve_passive(local) as server:
            clients = [await make_socket(server.addresses[0]) for _ in range(3)]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.drain)
                await trio.testing.wait_all_tasks_blocked()
                for _ in range(3):
                    async with accept_connection(server) as child:
                        await child.send_all(b"x")
                with pytest.raises(trio.ClosedResourceError):
                    await enter(accept_connection(server))
            for client in clients:
                assert await client.receive_some() == b"x"
                await client.aclose()

    async def test_leaving_the_block_waits_for_children_that_are_out(self, local, autojump_clock):
        async def use(task_status):
            async with accept_connection(server) as child:
                task_status.started()
                await trio.sleep(10)
                await child.send_all(b"still here")

        async with trio.open_nursery() as nursery:
            async with serve_passive(local) as server:
                client = await make_socket(server.addresses[0])
                await nursery.start(use)
            assert trio.current_time() >= 10
            assert await receive_all(client) == b"still here"
            await client.aclose()
        assert server.statistics().finished == 1

    async def test_a_failing_body_is_not_the_servers(self, caplog):
        async with serve_passive(LOCAL, handler_errors="raise") as server:
            async with open_socket(server.addresses[0]):
                with pytest.raises(KeyError):
                    await fail_in(server)
            async with open_socket(server.addresses[0]):
                async with accept_connection(server) as child:
                    assert child.is_open

    async def test_cancelled_everywhere_with_many_waiting(self):
        async def run():
            async with serve_passive(LOCAL, drain_timeout=0) as server:
                async with trio.open_nursery() as nursery:

                    async def take():
                        async with accept_connection(server) as child:
                            await child.send_all(b"x")

                    for _ in range(2):
                        nursery.start_soon(take)
                    for _ in range(2):
                        async with open_socket(server.addresses[0]) as client:
                            assert await client.receive_some() == b"x"

        with no_descriptor_left():
            await cancel_everywhere(run)


async def fail_in(server):
    async with accept_connection(server):
        raise KeyError("own")


class TestWithoutWaiting:
    """``wait=False`` on a server: what is there already, and nothing else."""

    async def test_a_paused_server_has_nothing(self, local):
        async with serve_passive(local, drain_timeout=0) as server:
            server.pause()
            async with open_socket(server.addresses[0]):
                with pytest.raises(trio.WouldBlock):
                    async with accept_connection(server, wait=False):
                        pass  # pragma: no cover  # there is none
                assert server.statistics().accepted == 0

    async def test_what_is_refused_is_passed_over(self):
        async with serve_passive(("127.0.0.1", 0), deny="127.0.0.2", drain_timeout=0) as server:
            address = server.addresses[0]
            async with (
                open_socket(address, local=("127.0.0.2", 0)),
                open_socket(address, local=("127.0.0.3", 0)) as second,
                accept_connection(server, wait=False) as child,
            ):
                assert child.remote_address == second.local_address
            assert server.statistics().refused == {"deny": 1}

    @pytest.mark.parametrize("in_time", [True, False], ids=["in time", "too late"])
    async def test_one_whose_asker_has_gone(self, in_time):
        """It is kept for the next, until its lifetime is over."""
        may_be_ready = trio.Event()

        async def upgrade(stream):
            await may_be_ready.wait()
            return stream

        lifetime = math.inf if in_time else 0.05
        async with serve_passive(
            ("127.0.0.1", 0), upgrade=upgrade, lifetime=lifetime, drain_timeout=0
        ) as server:
            async with open_socket(server.addresses[0]):
                with pytest.raises(AcceptTimeoutError):
                    async with accept_connection(server, timeout=0.01):
                        pass  # pragma: no cover  # it is not ready
                [stream] = server.connections
                may_be_ready.set()
                await trio.testing.wait_all_tasks_blocked()
                if in_time:
                    async with accept_connection(server, wait=False) as child:
                        assert child is stream
                    return
                await until(lambda: not server.connections)
                with pytest.raises(trio.WouldBlock):
                    async with accept_connection(server, wait=False):
                        pass  # pragma: no cover  # it is over


class TestAServerThatEnds:
    """However it does, nobody may wait for it for ever."""

    @pytest.mark.parametrize("how", ["cancelled", "raised", "cancel_scope", "left", "serve"])
    async def test_who_waits_is_told(self, how):
        servers, told = [], []

        async def run(task_status):
            with trio.CancelScope() as scope:
                try:
                    async with serve_passive(LOCAL) as server:
                        servers.append(server)
                        task_status.started(scope)
                        await go.wait()
                        if how == "raised":
                            raise KeyError
                        if how == "cancel_scope":
                            server.cancel_scope.cancel()
                            await trio.lowlevel.checkpoint()
                except ExceptionGroup:
                    if how != "raised":
                        raise

        async def wait_for_one():
            with pytest.raises(trio.ClosedResourceError):
                await enter(accept_connection(servers[0]))
            told.append(True)

        go = trio.Event()
        async with trio.open_nursery() as nursery:
            if how == "serve":
                scope = trio.CancelScope()

                async def in_its_own_nursery():
                    with scope:
                        async with trio.open_nursery() as own:
                            servers.append(await own.start(serve, LOCAL))

                nursery.start_soon(in_its_own_nursery)
                await trio.testing.wait_all_tasks_blocked()
            else:
                scope = await nursery.start(run)
            nursery.start_soon(wait_for_one)
            await trio.testing.wait_all_tasks_blocked()
            go.set()
            if how in ("cancelled", "serve"):
                scope.cancel()
        assert told == [True]
        for arguments in ({}, {"timeout": 1}, {"wait": False}):
            with pytest.raises(trio.ClosedResourceError):
                await enter(accept_connection(servers[0], **arguments))


@pytest.mark.parametrize("what", ["upgrade", "connection_options"])
async def test_one_that_stalls_holds_up_nobody(what, autojump_clock):
    first = []

    async def prepare(stream):
        if not first:
            first.append(stream)
            await trio.sleep_forever()
        return stream if what == "upgrade" else None

    async with serve_passive(LOCAL, **{what: prepare}, drain_timeout=0) as server:
        async with open_socket(server.addresses[0]), open_socket(server.addresses[0]):
            async with accept_connection(server) as child:
                assert trio.current_time() == 0
                assert child is not first[0]


@pytest.mark.parametrize("error", [GeneratorExit, KeyboardInterrupt, SystemExit])
async def test_what_a_borrower_raises_is_its_own(error):
    async def body():
        async with accept_connection(server) as child:
            children.append(child)
            raise error

    children = []
    async with serve_passive(LOCAL, handler_errors="raise") as server:
        async with open_socket(server.addresses[0]):
            with pytest.raises(error):
                await body()
        assert not children[0].is_open
        async with open_socket(server.addresses[0]), accept_connection(server) as child:
            assert child.is_open


@pytest.mark.parametrize("wait", ["x", None, 1])
async def test_wait_is_a_bool(wait):
    async with open_loopback_listener() as passive:
        with pytest.raises(TypeError, match="wait"):
            accept_connection(passive_or_server=passive, wait=wait)


async def test_one_that_fails_leaves_the_others_waiting():
    async def upgrade(stream):
        if await stream.receive_some() == b"bad":
            raise KeyError
        return stream

    async with serve_passive(LOCAL, upgrade=upgrade) as server, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def take():
            async with accept_connection(server) as child:
                await child.send_all(b"x")

        await trio.testing.wait_all_tasks_blocked()
        for word, answer in ((b"bad", b""), (b"good", b"x")):
            async with open_socket(server.addresses[0]) as client:
                await client.send_all(word)
                assert await client.receive_some() == answer


async def test_no_waiting_and_the_only_one_fails():
    async def upgrade(stream):
        await trio.lowlevel.checkpoint()
        raise KeyError

    async with serve_passive(LOCAL, upgrade=upgrade) as server:
        async with open_socket(server.addresses[0]):
            with pytest.raises(trio.WouldBlock):
                await enter(accept_connection(server, wait=False))
            with pytest.raises(AcceptTimeoutError):
                await enter(accept_connection(server, timeout=0))


async def test_who_was_lent_what_had_ended_stays_first_in_line():
    lender = Lender(prepares=False)
    got = []

    async def borrow(name):
        loan = await lender.borrow()
        got.append((name, loan.connection))
        loan.give_back(None)

    def lend(connection):
        stream = object()
        lender.begin(stream)
        return lender.lend(stream, connection)

    async with trio.open_nursery() as nursery:
        for name in ("first", "second"):
            nursery.start_soon(borrow, name)
            await trio.testing.wait_all_tasks_blocked()
        # It is lent, and its server's task ends before the borrower has its turn.
        ended = lend("ended")
        ended.send(None)
        ended.close()
        await trio.testing.wait_all_tasks_blocked()
        assert got == []
        await lend("good")
        await lend("better")
    assert got == [("first", "good"), ("second", "better")]
