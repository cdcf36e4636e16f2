"""One connection of a server: its options, its upgrade, its handler, and what becomes of each."""

from __future__ import annotations

import logging
import sys

import pytest
import trio
import trio.testing

from sockscope import (
    HandshakeError,
    Linger,
    SocketOptions,
    UnsupportedOptionError,
    current_server,
    make_socket,
    open_socket,
    serve_passive,
)
from sockscope.testing import serving
from tests._serve.test_serve import LOCAL, ask, echo, local
from tests.wire import TCP_KINDS, fill, receive_all

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

__all__ = ["local"]

KEEPALIVE = SocketOptions(keepalive=True)


async def give_async(stream):
    await trio.lowlevel.checkpoint()
    return KEEPALIVE


async def none_async(stream):
    await trio.lowlevel.checkpoint()


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            (KEEPALIVE, True),
            (lambda stream: KEEPALIVE, True),
            (give_async, True),
            (lambda stream: None, False),
            (none_async, False),
            (None, False),
        ],
    )
    async def test_every_form(self, local, given, expected):
        seen = []

        async def handler(stream):
            seen.append(stream.get_option("keepalive"))

        async with serving(handler, local, connection_options=given) as server:
            await ask(server, b"")
        assert seen == [expected]

    async def test_the_hook_is_told_the_stream_and_runs_in_the_childs_task(self, local):
        tasks = []

        def hook(stream):
            assert stream.accepted
            assert stream in current_server().connections
            tasks.append(trio.lowlevel.current_task())

        async def handler(stream):
            tasks.append(trio.lowlevel.current_task())

        async with serving(handler, local, connection_options=hook) as server:
            await ask(server, b"")
        assert tasks[0] is tasks[1]

    async def test_a_slow_hook_holds_up_nobody_else(self, local):
        first = []

        async def hook(stream):
            if not first:
                first.append(stream)
                await trio.sleep_forever()

        async with serving(echo, local, connection_options=hook) as server:
            slow = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            assert await ask(server) == b"ping"
            slow.abort()
            server.cancel_scope.cancel()

    @pytest.mark.parametrize(
        ("hook", "levels"),
        [
            (lambda stream: 1 / 0, [logging.ERROR, logging.ERROR]),
            (lambda stream: "no options", [logging.ERROR, logging.ERROR]),
            # Once for all to see, since each connection will fail so.
            (
                lambda stream: SocketOptions(extra={(12345, 1): 1}),
                [logging.WARNING, logging.DEBUG],
            ),
            (SocketOptions(extra={(12345, 1): 1}), [logging.WARNING, logging.DEBUG]),
        ],
    )
    async def test_one_that_fails_costs_that_connection_only(self, local, hook, levels, caplog):
        caplog.set_level(logging.DEBUG, "sockscope.server")
        outcomes = []

        async def never(stream):
            raise AssertionError("the handler must not run")

        async with serving(
            never, local, connection_options=hook, on_close=lambda s, how: outcomes.append(how)
        ) as server:
            for _ in range(2):
                async with open_socket(server.addresses[0]) as client:
                    assert await client.receive_some() == b""
        statistics = server.statistics()
        assert statistics.option_failures == statistics.accepted == 2
        assert outcomes == ["failed", "failed"]
        assert [r.levelno for r in caplog.records if "options" in r.getMessage()] == levels

    async def test_one_that_takes_too_long(self, local, autojump_clock):
        async def hook(stream):
            await trio.sleep_forever()

        async with serving(echo, local, connection_options=hook, handshake_timeout=3) as server:
            async with open_socket(server.addresses[0]) as client:
                assert await client.receive_some() == b""
            assert trio.current_time() == pytest.approx(3, abs=0.5)
        statistics = server.statistics()
        assert statistics.accepted == statistics.option_failures == 1

    async def test_an_option_that_the_family_lacks(self, tmp_path):
        async with serving(
            echo, tmp_path / "s", connection_options=SocketOptions(nodelay=True)
        ) as server:
            async with open_socket(server.addresses[0]) as client:
                assert await client.receive_some() == b""
        assert server.statistics().option_failures == 1
        assert issubclass(UnsupportedOptionError, OSError)

    @pytest.mark.parametrize("kind", TCP_KINDS)
    async def test_children_that_were_queued_before_a_change(self, kind):
        host = {"ipv4": "127.0.0.1", "ipv6": "::1"}[kind]
        seen = []

        async def handler(stream):
            seen.append((stream.get_option("keepalive"), stream.get_option("nodelay")))

        options = SocketOptions(keepalive=True, nodelay=False)
        async with serving(handler, (host, 0), connection_options=options) as server:
            server.pause()
            clients = [await make_socket(server.addresses[0])]
            server.sockets[0].set_option("keepalive", True)
            server.sockets[0].set_option("nodelay", False)
            clients.append(await make_socket(server.addresses[0]))
            server.resume()
            for client in clients:
                assert await client.receive_some() == b""
                await client.aclose()
        assert [(bool(k), n) for k, n in seen] == [(True, False)] * 2


class TestUpgrades:
    async def test_the_handler_gets_what_it_makes(self, local):
        async def upgrade(stream):
            await trio.lowlevel.checkpoint()
            return {"stream": stream}

        async def handler(upgraded):
            await echo(upgraded["stream"])

        async with serving(handler, local, upgrade=upgrade) as server:
            assert await ask(server) == b"ping"

    async def test_options_come_first(self, local):
        seen = []

        async def upgrade(stream):
            seen.append(stream.get_option("keepalive"))
            return stream

        async with serving(echo, local, upgrade=upgrade, connection_options=KEEPALIVE) as server:
            await ask(server)
        assert seen == [True]

    async def test_its_aclose_is_called(self, local):
        closed = []

        class Upgraded:
            def __init__(self, stream):
                self.stream = stream

            async def aclose(self):
                closed.append(self.stream.is_open)
                await self.stream.send_all(b"farewell")

        async def upgrade(stream):
            return Upgraded(stream)

        async def handler(upgraded):
            await trio.lowlevel.checkpoint()

        async with serving(handler, local, upgrade=upgrade) as server:
            assert await ask(server, b"") == b"farewell"
        assert closed == [True]

    async def test_a_farewell_that_fails_or_hangs(self, autojump_clock, caplog):
        class Upgraded:
            def __init__(self, stream, how):
                self.stream, self.how = stream, how

            async def aclose(self):
                if self.how == "hangs":
                    await trio.sleep_forever()
                raise trio.BrokenResourceError(self.how)

        hows = ["hangs", "fails"]

        async def upgrade(stream):
            return Upgraded(stream, hows.pop())

        async def handler(upgraded):
            await trio.lowlevel.checkpoint()

        async with serving(handler, LOCAL, upgrade=upgrade) as server:
            for _ in range(2):
                assert await ask(server, b"") == b""
        assert server.statistics().finished == 2

    @pytest.mark.parametrize("ended_well", [True, False])
    @pytest.mark.parametrize(
        "error",
        [RuntimeError("of aclose"), ExceptionGroup("of aclose", [trio.BrokenResourceError()])],
        ids=["its own", "group"],
    )
    async def test_a_farewell_that_raises_is_one_connections(self, error, ended_well, caplog):
        class Upgraded:
            async def aclose(self):
                raise error

        async def upgrade(stream):
            return Upgraded()

        async def handler(upgraded):
            await trio.lowlevel.checkpoint()
            if not ended_well:
                raise KeyError("of the handler")

        own = isinstance(error, RuntimeError)
        async with serve_passive(LOCAL, handler, upgrade=upgrade) as server:
            for _ in range(2):
                assert await ask(server, b"") == b""
            statistics = server.statistics()
        if ended_well and not own:
            assert (statistics.finished, statistics.handler_errors) == (2, 0)
            assert not caplog.records
        else:
            assert (statistics.finished, statistics.handler_errors) == (0, 2)
            words = "of aclose" if ended_well else "of the handler"
            told = [r.exc_info[1] for r in caplog.records if r.exc_info]
            assert [words in str(raised) for raised in told] == [True, True]

    async def test_failures_are_counted_by_kind(self, caplog):
        errors = [KeyError("x"), HandshakeError(None, "refused", reason="BAD_CERTIFICATE"), None]

        async def upgrade(stream):
            error = errors.pop(0)
            if error is not None:
                raise error
            with trio.fail_after(5):
                await stream.receive_some()

        async def never(stream):
            raise AssertionError

        async with serving(never, LOCAL, upgrade=upgrade) as server:
            for _ in range(2):
                assert await ask(server, b"") == b""
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            client.abort()
        statistics = server.statistics()
        assert statistics.upgrade_failures == {"KeyError": 1, "BAD_CERTIFICATE": 1, "reset": 1}
        assert statistics.accepted == 3

    async def test_one_that_stalls(self, local, autojump_clock):
        async def upgrade(stream):
            await stream.receive_some()

        async with serving(echo, local, upgrade=upgrade, handshake_timeout=3) as server:
            async with open_socket(server.addresses[0]) as client:
                assert await client.receive_some() == b""
        assert server.statistics().upgrade_failures == {"timeout": 1}


class TestHandlerErrors:
    @staticmethod
    async def fail(stream):
        raise KeyError("from the handler")

    async def test_log(self, local, caplog):
        async with serve_passive(local, self.fail) as server:
            for _ in range(2):
                async with open_socket(server.addresses[0]) as client:
                    assert await client.receive_some() == b""
        records = [r for r in caplog.records if r.levelno >= logging.ERROR]
        assert len(records) == 2
        for record in records:
            assert record.name == "sockscope.server"
            assert isinstance(record.exc_info[1], KeyError)
            if "tcp" in str(local):
                assert "127.0.0.1" in record.getMessage()
        assert server.statistics().handler_errors == 2

    async def test_the_log_names_the_peer(self, caplog):
        async with serve_passive(LOCAL, self.fail) as server:
            async with open_socket(server.addresses[0]) as client:
                peer = str(client.local_address)
                await client.receive_some()
        assert peer in caplog.text

    async def test_raise_ends_all(self, local):
        ended = []

        async def handler(stream):
            if await stream.receive_some() == b"bad":
                raise KeyError("bad")
            try:
                await trio.sleep_forever()
            finally:
                ended.append(True)

        async def body():
            async with serve_passive(local, handler, handler_errors="raise") as server:
                good = await make_socket(server.addresses[0])
                await good.send_all(b"good")
                await trio.testing.wait_all_tasks_blocked()
                try:
                    async with open_socket(server.addresses[0]) as bad:
                        await bad.send_all(b"bad")
                        await trio.sleep_forever()
                finally:
                    good.abort()

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        assert isinstance(caught.value.exceptions[0], KeyError)
        assert ended

    async def test_a_callable_is_told(self, local, caplog):
        told = []

        def policy(exception, stream):
            told.append((exception, stream.accepted))

        async with serve_passive(local, self.fail, handler_errors=policy) as server:
            await ask(server, b"")
        [(exception, accepted)] = told
        assert isinstance(exception, KeyError)
        assert accepted
        assert not [r for r in caplog.records if r.levelno >= logging.ERROR]

    async def test_what_a_callable_raises_goes_up(self):
        def policy(exception, stream):
            raise ValueError("from the policy") from exception

        async def body():
            async with serve_passive(LOCAL, self.fail, handler_errors=policy) as server:
                async with open_socket(server.addresses[0]):
                    await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        assert isinstance(caught.value.exceptions[0], ValueError)

    @pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
    async def test_only_exceptions_are_handled(self, error):
        async def handler(stream):
            raise error

        async def body():
            async with serve_passive(LOCAL, handler) as server:
                async with open_socket(server.addresses[0]):
                    await trio.sleep_forever()

        with pytest.raises(BaseException) as caught:  # its leaf is checked
            await body()
        leaf = caught.value
        while hasattr(leaf, "exceptions"):
            [leaf] = leaf.exceptions
        assert leaf is error

    async def test_a_handler_may_cancel_itself(self, local):
        async def handler(stream):
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.receive_some()

        async with serving(handler, local) as server:
            await ask(server, b"")
        assert server.statistics().finished == 1

    @pytest.mark.parametrize("kind", TCP_KINDS)
    @pytest.mark.parametrize("how", ["receive", "send", "group"])
    async def test_a_reset_is_counted_and_not_told(self, kind, how, caplog):
        host = {"ipv4": "127.0.0.1", "ipv6": "::1"}[kind]

        async def handler(stream):
            if how == "receive":
                await stream.receive_some()
            elif how == "send":
                await fill(stream)
                await stream.send_all(b"x" * 10_000_000)
            else:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.receive_some)
                    nursery.start_soon(stream.send_all, b"x" * 10_000_000)

        async with serving(handler, (host, 0)) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked(0.01)
            client.abort()
        statistics = server.statistics()
        assert (statistics.resets, statistics.handler_errors) == (1, 0)
        assert not [r for r in caplog.records if r.levelno > logging.INFO]

    async def test_a_second_error_after_a_reset_is_one_reset(self):
        """The kernel's next words about the same connection are no error of the handler."""

        async def handler(stream):
            try:
                await stream.receive_some()
            except trio.BrokenResourceError:
                await stream.send_all(b"too late")

        async with serving(handler) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            client.abort()
        assert server.statistics().resets == 1

    async def test_a_reset_of_another_connection_is_an_error(self, caplog):
        async def handler(stream):
            raise trio.BrokenResourceError("of something else")

        async with serve_passive(LOCAL, handler) as server:
            await ask(server, b"")
        assert server.statistics().handler_errors == 1

    async def test_a_group_with_more_than_resets_is_an_error(self, caplog):
        async def handler(stream):
            try:
                await stream.receive_some()
            except trio.BrokenResourceError as exc:
                raise ExceptionGroup("both", [exc, KeyError()]) from None

        async with serve_passive(LOCAL, handler) as server:
            client = await make_socket(server.addresses[0])
            await trio.testing.wait_all_tasks_blocked()
            client.abort()
        assert server.statistics().handler_errors == 1


class TestHooks:
    async def test_on_open_and_on_close(self, local):
        events = []

        async def handler(stream):
            events.append("handler")

        async with serving(
            handler,
            local,
            on_open=lambda stream: events.append(("open", stream.is_open)),
            on_close=lambda stream, how: events.append(("close", stream.is_open, how)),
        ) as server:
            await ask(server, b"")
        assert events == [("open", True), "handler", ("close", False, "finished")]

    async def test_outcomes(self, caplog):
        outcomes = []

        async def handler(stream):
            order = await stream.receive_some()
            if order == b"fail":
                raise KeyError
            await stream.receive_some()

        async with serve_passive(
            LOCAL, handler, drain_timeout=0, on_close=lambda stream, how: outcomes.append(how)
        ) as server:
            address = server.addresses[0]
            for order in (b"fail", b"reset", b"finish"):
                client = await make_socket(address)
                await client.send_all(order)
                await trio.testing.wait_all_tasks_blocked()
                if order == b"reset":
                    client.abort()
                await client.aclose()
                await trio.testing.wait_all_tasks_blocked()
            client = await make_socket(address)
            await client.send_all(b"stay")
            await trio.testing.wait_all_tasks_blocked()
        await client.aclose()
        assert outcomes == ["failed", "reset", "finished", "cancelled"]

    @pytest.mark.parametrize("name", ["on_open", "on_close"])
    async def test_one_that_raises_is_a_failure_of_that_connection(self, name, caplog):
        def fail(*args):
            raise KeyError("from the hook")

        async with serve_passive(LOCAL, echo, **{name: fail}) as server:
            for _ in range(2):
                async with open_socket(server.addresses[0]) as client:
                    await client.send_eof()
                    await receive_all(client)
        assert server.statistics().active == 0
        assert "from the hook" in caplog.text

    async def test_one_that_raises_with_the_policy_raise(self):
        def fail(stream):
            raise KeyError("from the hook")

        async def body():
            async with serve_passive(LOCAL, echo, on_open=fail, handler_errors="raise") as server:
                async with open_socket(server.addresses[0]):
                    await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await body()
        assert isinstance(caught.value.exceptions[0], KeyError)


class TestClosing:
    async def test_the_option_linger_is_kept(self):
        """The reply arrives although the handler has ended long ago."""
        size = 5_000_000

        async def handler(stream):
            await stream.send_all(b"x" * size)

        options = SocketOptions(linger=Linger(60))
        async with serving(handler, connection_options=options, drain_timeout=60) as server:
            assert len(await ask(server, b"")) == size

    async def test_what_was_not_read_costs_no_reply(self):
        """A request with more than the handler reads: the reply must not be reset away."""
        reply = b"y" * 100_000

        async def handler(stream):
            await stream.receive_some(1)
            await stream.send_all(reply)

        async with serving(handler, drain_timeout=30) as server:
            async with open_socket(server.addresses[0]) as client:
                await client.send_all(b"x" * 1000)
                await client.send_eof()
                assert await receive_all(client) == reply


class TestAsyncHooks:
    """A plain hook that is async would silently do nothing."""

    @pytest.mark.parametrize("name", ["on_open", "on_close"])
    async def test_of_the_connection(self, name):
        async def hook(*arguments):
            raise AssertionError("nobody awaits it")

        errors = []
        async with serve_passive(
            ("127.0.0.1", 0), echo, **{name: hook}, handler_errors=lambda exc, s: errors.append(exc)
        ) as server:
            async with open_socket(server.addresses[0]):
                pass
        [error] = errors
        assert isinstance(error, TypeError)
        assert name in str(error)

    async def test_of_errors(self):
        async def tell(exc, stream):
            raise AssertionError("nobody awaits it")

        async def fail(stream):
            raise KeyError

        async def run():
            async with serve_passive(("127.0.0.1", 0), fail, handler_errors=tell) as server:
                async with open_socket(server.addresses[0]) as client:
                    await client.receive_some()
                await trio.sleep_forever()

        with pytest.raises(ExceptionGroup) as caught:
            await run()
        assert caught.group_contains(TypeError, match="handler_errors")
