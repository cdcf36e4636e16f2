"""Passive sockets: accepting one connection after another, and losing none."""

from __future__ import annotations

import errno
import math
import os
import resource
import socket
import sys
from pathlib import Path

import pytest
import trio
import trio.testing

from sockscope import (
    AcceptTimeoutError,
    OptionError,
    SocketError,
    SocketOptions,
    SocketTimeoutError,
    UnsupportedOptionError,
    make_socket,
    open_socket,
)
from sockscope.testing import cancel_everywhere, open_loopback_listener
from tests.wire import no_descriptor_left

only_linux_tells = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux tells about the queue"
)


def queued(passive):
    """How many connections wait: they are taken and reset."""
    count = 0
    while True:
        try:
            passive.accept_nowait().abort()
        except trio.WouldBlock:
            return count
        count += 1


def plain_client(passive):
    """A client that is connected without a turn of Trio's loop."""
    client = socket.socket(passive.socket.family)
    client.connect(passive.address.sockaddr)
    return client


class open_clients:
    """So many connections in the queue of a passive socket."""

    def __init__(self, passive, count):
        self.passive, self.count = passive, count

    async def __aenter__(self):
        self.streams = [await make_socket(self.passive.address) for _ in range(self.count)]
        return self.streams

    async def __aexit__(self, *exc_info):
        for stream in self.streams:
            stream.abort()


class TestAccept:
    async def test_one_after_another(self, loopback_listener):
        async with open_clients(loopback_listener, 3) as clients:
            for client in clients:
                with trio.testing.assert_checkpoints():
                    child = await loopback_listener.accept()
                async with child:
                    await client.send_all(b"mine")
                    assert await child.receive_some() == b"mine"
        assert loopback_listener.statistics().accepted == 3

    async def test_it_waits(self, loopback_listener):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept():
                with trio.testing.assert_checkpoints():
                    child = await loopback_listener.accept()
                await child.aclose()

            await trio.testing.wait_all_tasks_blocked()
            async with open_socket(loopback_listener.address):
                pass

    async def test_somebody_else_is_faster(self, loopback_listener):
        """Another process has the listener, too, and takes what this one was woken for."""
        shared = os.dup(loopback_listener.fileno())
        family, kind = loopback_listener._sock.family, loopback_listener._sock.type
        with socket.socket(family, kind, fileno=shared) as other:
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def thief():
                    while True:
                        await trio.lowlevel.wait_readable(other)
                        try:
                            stolen.append(other.accept()[0])
                        except BlockingIOError:
                            continue

                stolen, taken = [], []
                # Who of the two is woken first is Trio's choice, and it throws dice.
                for _ in range(20):
                    with trio.CancelScope() as scope:
                        async with trio.open_nursery() as inner:

                            @inner.start_soon
                            async def take():
                                taken.append(await loopback_listener.accept())

                            await trio.testing.wait_all_tasks_blocked()
                            async with open_socket(loopback_listener.address):
                                await trio.testing.wait_all_tasks_blocked()
                            scope.cancel()
                nursery.cancel_scope.cancel()
        assert len(stolen) + len(taken) == 20
        for child in (*stolen, *(child._sock for child in taken)):
            child.close()

    async def test_nowait(self, loopback_listener):
        with pytest.raises(trio.WouldBlock):
            loopback_listener.accept_nowait()
        async with open_clients(loopback_listener, 1):
            loopback_listener.accept_nowait().abort()
        with pytest.raises(trio.WouldBlock):
            loopback_listener.accept_nowait()

    async def test_a_second_task_is_refused(self, loopback_listener):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept():
                await (await loopback_listener.accept()).aclose()

            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await loopback_listener.accept()
            with pytest.raises(trio.BusyResourceError):
                loopback_listener.accept_nowait()
            async with open_clients(loopback_listener, 1):
                pass

    async def test_a_child_that_was_reset_while_it_waited(self, loopback_listener, loopback_kind):
        """Linux hands it out all the same: its failure is its own."""
        async with open_clients(loopback_listener, 1) as [client]:
            client.abort()
            async with await loopback_listener.accept() as child:
                child.set_option("keepalive", True)
                if loopback_kind == "local":
                    assert await child.receive_some() == b""
                else:
                    with pytest.raises(trio.BrokenResourceError):
                        await child.receive_some()


class TestTimeouts:
    async def test_it_expires(self, loopback_listener, autojump_clock):
        with pytest.raises(AcceptTimeoutError) as caught:
            await loopback_listener.accept(timeout=7)
        assert trio.current_time() == pytest.approx(7)
        assert str(loopback_listener.address) in str(caught.value)
        assert isinstance(caught.value, (TimeoutError, trio.TooSlowError, SocketTimeoutError))
        assert caught.value.errno == errno.ETIMEDOUT

    async def test_zero_takes_what_is_there(self, loopback_listener):
        with trio.testing.assert_checkpoints(), pytest.raises(AcceptTimeoutError):
            await loopback_listener.accept(timeout=0)
        async with open_clients(loopback_listener, 1):
            await (await loopback_listener.accept(timeout=0)).aclose()

    async def test_one_that_came_in_time(self, loopback_listener, autojump_clock):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def later():
                await trio.sleep(5)
                async with open_socket(loopback_listener.address):
                    pass

            await (await loopback_listener.accept(timeout=7)).aclose()
            assert trio.current_time() == pytest.approx(5)

    @pytest.mark.parametrize("timeout", [-1, math.nan, -0.001])
    async def test_no_such_time(self, timeout):
        async with open_loopback_listener() as passive:
            with pytest.raises(ValueError, match="timeout"):
                await passive.accept(timeout=timeout)

    @pytest.mark.parametrize("timeout", [True, "1", None])
    async def test_no_number(self, timeout):
        async with open_loopback_listener() as passive:
            with pytest.raises(TypeError, match="timeout"):
                await passive.accept(timeout=timeout)

    async def test_none_is_lost(self, loopback_listener, autojump_clock):
        """The connection comes in the very moment in which the time is up."""
        clients = []
        for when in (4.999, 5, 5.001):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def later(when=when):
                    await trio.sleep(when)
                    clients.append(plain_client(loopback_listener))

                taken = 0
                try:
                    (await loopback_listener.accept(timeout=5)).abort()
                    taken += 1
                except AcceptTimeoutError:
                    pass
                await trio.sleep(1)
                assert taken + queued(loopback_listener) == 1
        for client in clients:
            client.close()


class TestCancelled:
    async def test_nothing_is_taken(self, loopback_listener):
        async with open_clients(loopback_listener, 1):
            with trio.CancelScope() as scope:
                scope.cancel()
                await loopback_listener.accept()
            assert scope.cancelled_caught
            assert queued(loopback_listener) == 1

    async def test_at_every_step_none_is_lost(self, loopback_listener):
        async with open_clients(loopback_listener, 40):
            taken = 0

            async def accept_one():
                nonlocal taken
                child = await loopback_listener.accept(timeout=60)
                taken += 1
                child.abort()

            await cancel_everywhere(accept_one)
            assert taken
            assert taken + queued(loopback_listener) == 40

    async def test_at_every_step_while_it_waits(self, loopback_listener):
        """The connection comes while accept sleeps: it is handed out, or it stays queued."""
        clients = []
        taken = 0

        async def connect():
            await trio.testing.wait_all_tasks_blocked()
            clients.append(plain_client(loopback_listener))

        async def accept_one():
            nonlocal taken
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connect)
                child = await loopback_listener.accept()
                taken += 1
                child.abort()
            # Each run must end as it began.
            clients.pop().close()

        async def accept_or_not():
            nonlocal taken
            before = taken
            try:
                await accept_one()
            finally:
                if clients:
                    assert taken - before + queued(loopback_listener) == 1
                    clients.pop().close()

        await cancel_everywhere(accept_or_not)
        assert taken


class TestClosing:
    @pytest.mark.parametrize("how", ["aclose", "socket"])
    async def test_it_wakes_who_waits(self, loopback_listener, how):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def accept():
                with pytest.raises(trio.ClosedResourceError):
                    await loopback_listener.accept()

            await trio.testing.wait_all_tasks_blocked()
            if how == "aclose":
                await loopback_listener.aclose()
            else:
                loopback_listener.socket.close()

    async def test_nothing_works_after(self, loopback_listener):
        address = loopback_listener.address
        await loopback_listener.aclose()
        await loopback_listener.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await loopback_listener.accept()
        with pytest.raises(trio.ClosedResourceError):
            loopback_listener.accept_nowait()
        with pytest.raises(trio.ClosedResourceError):
            loopback_listener.statistics()
        assert loopback_listener.address == address
        assert not loopback_listener.is_listening
        assert "closed" in repr(loopback_listener)

    async def test_it_is_a_checkpoint_and_closes_when_cancelled(self, loopback_kind):
        async with open_loopback_listener(loopback_kind) as passive:
            with trio.CancelScope() as scope:
                scope.cancel()
                await passive.aclose()
            assert scope.cancelled_caught
            assert not passive.is_open
            with trio.testing.assert_checkpoints():
                await passive.aclose()

    async def test_clients_in_the_queue_are_reset_and_later_ones_refused(self, loopback_listener):
        async with open_clients(loopback_listener, 1) as [client]:
            address = loopback_listener.address
            await loopback_listener.aclose()
            with pytest.raises(trio.BrokenResourceError):
                await client.receive_some()
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                await make_socket(address)

    async def test_the_path_goes_with_it(self):
        async with open_loopback_listener("local") as passive:
            path = trio.Path(os.fsdecode(passive.address.path))
            assert await path.exists()
            await passive.aclose()
            assert not await path.exists()

    async def test_shut_down_behind_our_back(self):
        async with open_loopback_listener() as passive:
            passive.socket.shutdown(socket.SHUT_RD)
            with pytest.raises(SocketError, match="accept") as caught:
                await passive.accept()
            assert caught.value.errno == errno.EINVAL


class TestOptions:
    async def test_of_one_child(self, loopback_listener):
        async with open_clients(loopback_listener, 2):
            async with await loopback_listener.accept(options=SocketOptions(keepalive=True)) as one:
                assert one.get_option("keepalive")
                assert one.requested_options.keepalive is True
            async with await loopback_listener.accept() as other:
                assert not other.get_option("keepalive")

    async def test_one_that_fails_costs_that_child_only(self, loopback_listener, loopback_kind):
        bad = SocketOptions(extra={(12345, 1): 1})
        async with open_clients(loopback_listener, 2) as (first, second):
            with no_descriptor_left(), pytest.raises(OptionError):
                await loopback_listener.accept(options=bad)
            with pytest.raises(OptionError):
                loopback_listener.accept_nowait(options=bad)
            for client in (first, second):
                try:
                    assert await client.receive_some() == b""
                except trio.BrokenResourceError:
                    pass
        async with open_clients(loopback_listener, 1):
            await (await loopback_listener.accept()).aclose()

    async def test_one_that_the_family_lacks(self):
        async with open_loopback_listener("local") as passive, open_clients(passive, 1):
            with pytest.raises(UnsupportedOptionError, match="nodelay"):
                await passive.accept(options=SocketOptions(nodelay=True))

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    @pytest.mark.parametrize("how", ["set_option", "apply", "socket"])
    async def test_a_child_that_was_queued_before_a_change(self, kind, how):
        """It carries the listener's old values: so they are set explicitly."""
        wanted = SocketOptions(nodelay=False, keepalive=True)
        async with open_loopback_listener(kind) as passive, open_clients(passive, 1):
            if how == "set_option":
                passive.set_option("nodelay", False)
                passive.set_option("keepalive", True)
            elif how == "apply":
                wanted.apply(passive)
            else:
                passive.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
                passive.socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            async with await passive.accept(options=wanted) as child:
                assert child.get_option("nodelay") is False
                assert child.get_option("keepalive")

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_many_options_in_turn(self, kind):
        """Plans are kept for a few of them: the next is right all the same."""
        async with open_loopback_listener(kind) as passive:
            for size in range(20_000, 40_000, 1000):
                async with open_clients(passive, 1):
                    options = SocketOptions(send_buffer=size)
                    async with await passive.accept(options=options) as child:
                        assert child.get_option("send_buffer") == 2 * size

    async def test_reuse_of_the_address_is_ours_by_default_and_stays_off_if_stated(self):
        async with open_loopback_listener() as passive:
            assert passive.get_option("reuse_address") is True
        options = SocketOptions(reuse_address=False)
        async with open_socket(
            connect="passive", local=("127.0.0.1", 0), options=options
        ) as passive:
            assert passive.get_option("reuse_address") is False

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_a_restart_while_children_live(self, kind):
        """Over ESTABLISHED and TIME_WAIT: all three sockets need the reuse of the address."""
        async with open_loopback_listener(kind) as passive:
            address = passive.address
            async with open_socket(address) as client:
                child = await passive.accept(options=SocketOptions(keepalive=True))
                await child.aclose()  # TIME_WAIT is then on the server's side
                assert await client.receive_some() == b""
            async with open_socket(address), await passive.accept():
                await passive.aclose()
                async with open_socket(connect="passive", local=address) as second:
                    assert second.address == address

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_a_second_one_on_the_same_port(self, kind):
        async with open_loopback_listener(kind) as passive:
            with pytest.raises(SocketError, match="bind to") as caught:
                await make_socket(connect="passive", local=passive.address)
            assert caught.value.errno == errno.EADDRINUSE
            assert caught.value.identifier == "address-in-use"


class TestWhatItTells:
    async def test_port(self, loopback_listener, loopback_kind):
        if loopback_kind == "local":
            with pytest.raises(ValueError, match="port"):
                _ = loopback_listener.port
        else:
            assert loopback_listener.port == loopback_listener.address.port > 0

    @only_linux_tells
    @pytest.mark.parametrize("kind", ["ipv4", "ipv6"])
    async def test_the_kernels_queue(self, kind):
        host = {"ipv4": "127.0.0.1", "ipv6": "::1"}[kind]
        async with open_socket(connect="passive", local=(host, 0), backlog=7) as passive:
            assert passive.backlog == 7
            assert passive.statistics() == (0, 0, 7, 0)
            async with open_clients(passive, 3):
                assert passive.statistics().queue == 3
                await (await passive.accept()).aclose()
                assert passive.statistics()[:2] == (1, 2)

    async def test_a_system_that_does_not_tell(self, loopback_listener, monkeypatch):
        def get_option(self, name):
            raise UnsupportedOptionError(errno.ENOPROTOOPT, "not here", option=name)

        monkeypatch.setattr(type(loopback_listener), "get_option", get_option)
        assert loopback_listener.statistics() == (0, None, None, None)

    async def test_a_local_queue(self):
        async with open_loopback_listener("local") as passive, open_clients(passive, 1):
            await (await passive.accept()).aclose()
            assert passive.statistics().accepted == 1

    @only_linux_tells
    async def test_the_default_backlog_is_the_systems(self):
        async with open_loopback_listener() as passive:
            assert passive.backlog is None
            limit = Path("/proc/sys/net/core/somaxconn").read_text()  # noqa: ASYNC240  # not on a disk
            assert passive.statistics().backlog == min(int(limit), 65535)

    async def test_detach(self, loopback_listener):
        address = loopback_listener.address
        number = loopback_listener.detach()
        assert not loopback_listener.is_open
        with socket.socket(fileno=number) as plain:
            assert plain.getsockname() == address.sockaddr or address.sockaddr == os.fsencode(
                plain.getsockname()
            )


class TestErrors:
    @pytest.fixture
    def failing(self, monkeypatch):
        """Let accept(2) fail with these errnos, one after another, before it works."""

        def fail(*numbers):
            remaining = list(numbers)
            accept = socket.socket._accept

            def failing(sock):
                if remaining:
                    number = remaining.pop(0)
                    raise OSError(number, os.strerror(number))
                return accept(sock)

            monkeypatch.setattr(socket.socket, "_accept", failing)
            return remaining

        return fail

    @pytest.mark.parametrize(
        "name", ["ECONNABORTED", "EPROTO", "EPERM", "ENETDOWN", "EHOSTUNREACH", "ETIMEDOUT"]
    )
    async def test_the_next_one_is_taken(self, failing, name):
        async with open_loopback_listener() as passive, open_clients(passive, 1):
            failing(getattr(errno, name))
            await (await passive.accept()).aclose()

    @pytest.mark.parametrize("name", ["EMFILE", "ENFILE", "ENOBUFS", "ENOMEM", "EINVAL", "EBADF"])
    async def test_it_comes_out_with_its_number(self, failing, name):
        number = getattr(errno, name)
        async with open_loopback_listener() as passive, open_clients(passive, 1):
            failing(number)
            with pytest.raises(SocketError, match="accept on 127") as caught:
                await passive.accept()
            assert caught.value.errno == number
            # And the connection is where it was.
            await (await passive.accept()).aclose()

    async def test_one_that_never_ends_is_told(self, failing):
        async with open_loopback_listener() as passive, open_clients(passive, 1):
            failing(*[errno.ECONNABORTED] * 16)
            with pytest.raises(SocketError) as caught:
                await passive.accept()
            assert caught.value.errno == errno.ECONNABORTED
            await (await passive.accept()).aclose()

    async def test_an_interruption_is_waited_out(self, failing):
        async with open_loopback_listener() as passive, open_clients(passive, 1):
            failing(errno.EINTR)
            await (await passive.accept()).aclose()

    async def test_the_descriptor_table_is_full(self):
        """The real thing: the connection stays queued."""
        async with open_loopback_listener() as passive, open_clients(passive, 1):
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(SocketError) as caught:
                    await passive.accept()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert caught.value.errno == errno.EMFILE
            assert caught.value.identifier == "too-many-open-files"
            await (await passive.accept()).aclose()

    async def test_the_wait_itself_fails(self, monkeypatch):
        async def fail(sock):
            await trio.lowlevel.checkpoint()
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        async with open_loopback_listener() as passive:
            monkeypatch.setattr(trio.lowlevel, "wait_readable", fail)
            with pytest.raises(SocketError, match="accept") as caught:
                await passive.accept()
            assert caught.value.errno == errno.ENOMEM


async def test_a_child_that_cannot_be_made_non_blocking_costs_that_child(monkeypatch):
    real = socket.socket.setblocking
    failures = [OSError(errno.EINVAL, "not this one")]

    def setblocking(self, flag):
        if not flag and failures:
            raise failures.pop()
        real(self, flag)

    async with open_loopback_listener() as passive:
        async with open_socket(passive.address) as first, open_socket(passive.address) as second:
            monkeypatch.setattr(socket.socket, "setblocking", setblocking)
            async with await passive.accept() as child:
                await second.send_all(b"second")
                assert await child.receive_some() == b"second"
            assert await first.receive_some() == b""
