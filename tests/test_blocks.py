"""What a block raises comes out of it, whatever it closes and whoever cancels meanwhile."""

from __future__ import annotations

import io
import sys
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
import trustme

from sockscope import (
    Linger,
    SocketOptions,
    accept_connection,
    make_socket,
    open_socket,
    serve_datagrams,
    serve_passive,
    tls_upgrade,
)
from sockscope.buffered import BufferedStream, TextStream
from sockscope.testing import open_loopback_listener, open_loopback_pair
from tests._tls.certificates import NAME, Certificates
from tests.wire import no_descriptor_left, receive_all

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

LOCAL = ("127.0.0.1", 0)


@asynccontextmanager
async def of_a_stream():
    async with open_loopback_listener() as listener:
        async with await make_socket(listener.address):
            yield


@asynccontextmanager
async def of_a_listener():
    async with await make_socket(connect="passive", local=LOCAL):
        yield


@asynccontextmanager
async def of_a_datagram_socket():
    async with await make_socket(type="datagram", local=LOCAL):
        yield


@asynccontextmanager
async def of_open_socket():
    async with open_loopback_listener() as listener, open_socket(listener.address):
        yield


@asynccontextmanager
async def of_an_accepted_one():
    async with open_loopback_pair():
        yield


@asynccontextmanager
async def of_a_borrowed_one():
    async with serve_passive(LOCAL) as server, open_socket(server.addresses[0]):
        async with accept_connection(server):
            yield


@asynccontextmanager
async def of_tls():
    certificates = Certificates(trustme.CA(key_type=trustme.KeyType.ECDSA))
    async with open_loopback_pair() as (near, far):
        async with trio.open_nursery() as nursery:
            accept = tls_upgrade(certificates.server_context(), server_side=True)
            nursery.start_soon(accept, far)
            connect = tls_upgrade(certificates.client_context(), server_hostname=NAME)
            stream = await connect(near)
        async with stream:
            yield


@asynccontextmanager
async def of_a_buffer():
    async with open_loopback_pair() as (near, _), BufferedStream(near) as buffered:
        await buffered.write(b"held back")
        yield


@asynccontextmanager
async def of_text():
    async with open_loopback_pair() as (near, _), TextStream(near):
        yield


@asynccontextmanager
async def of_a_session():
    async with serve_datagrams(LOCAL, sessions=True) as server:
        async with open_socket(type="datagram", local=LOCAL) as peer:
            await peer.send_to(b"x", server.addresses[0])
            async with await server.accept():
                yield


KINDS = [
    of_a_stream,
    of_a_listener,
    of_a_datagram_socket,
    of_open_socket,
    of_an_accepted_one,
    of_a_borrowed_one,
    of_tls,
    of_a_buffer,
    of_text,
    of_a_session,
]


@pytest.mark.parametrize("block", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_what_its_body_raises(block, cancelled):
    raised = None
    with no_descriptor_left():
        try:
            with trio.CancelScope() as scope:
                async with block():
                    if cancelled:
                        scope.cancel()
                    raise ZeroDivisionError
        except BaseException as exc:
            raised = exc
        # With a server it comes in a group, as from a nursery.
        while isinstance(raised, BaseExceptionGroup):
            [raised] = raised.exceptions
        assert isinstance(raised, ZeroDivisionError)


async def test_who_failed_does_not_linger():
    """Nor does it wait for the peer to acknowledge what is still to be sent."""
    options = SocketOptions(linger=Linger(3600), send_buffer=4096)

    async def fail(address):
        async with open_socket(address, options=options) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, bytes(10_000_000))
            await trio.testing.wait_all_tasks_blocked()
            raise ZeroDivisionError

    async with open_loopback_listener() as listener:
        with trio.fail_after(5):
            with pytest.RaisesGroup(ZeroDivisionError):
                await fail(listener.address)
            async with await listener.accept() as near:
                assert len(await receive_all(near)) < 10_000_000


class Stubborn(trio.abc.SendStream):
    """A transport that cannot be closed without an error."""

    def __init__(self, error):
        self.error = error

    async def send_all(self, data):
        await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self):
        await trio.lowlevel.checkpoint()

    async def aclose(self):
        raise self.error


@pytest.mark.parametrize("fails", [True, False])
@pytest.mark.parametrize("error", [OSError, trio.BrokenResourceError, trio.ClosedResourceError])
async def test_what_closing_raises_is_told_only_if_the_body_raised_nothing(error, fails):
    transport = trio.StapledStream(Stubborn(error), trio.testing.memory_stream_one_way_pair()[1])

    async def run():
        async with BufferedStream(transport):
            if fails:
                raise ZeroDivisionError

    async def upgrade(stream):
        return transport

    async def run_opened():
        async with (
            open_loopback_listener() as listener,
            open_socket(listener.address, upgrade=upgrade),
        ):
            if fails:
                raise ZeroDivisionError

    for scope in (run, run_opened):
        with no_descriptor_left(), pytest.raises(ZeroDivisionError if fails else error):
            await scope()


async def test_a_body_that_raises_has_its_words_sent():
    """Closing is gentle all the same, if nobody has cancelled."""

    async def fail(stream):
        async with BufferedStream(stream) as buffered:
            await buffered.write(b"sorry")
            raise ZeroDivisionError

    async with open_loopback_pair() as (near, far):
        with pytest.raises(ZeroDivisionError):
            await fail(near)
        assert await receive_all(far) == b"sorry"


@pytest.mark.parametrize(
    "operation",
    [
        "send_all",
        "send",
        "receive_some",
        "send_eof",
        "wait_send_all_might_not_block",
        "send_file",
    ],
)
async def test_cancelled_and_closed_it_is_cancelled(operation):
    """Who shares a scope with the one who closed it shall see its end and no error."""
    async with open_loopback_pair() as (near, far):
        await far.send_all(b"x")
        assert await near.receive_some() == b"x"  # from now on it would wait first
        with trio.CancelScope() as scope:
            await trio.aclose_forcefully(near)
            scope.cancel()
            arguments = {"send_all": (b"x",), "send": (b"x",), "send_file": (io.BytesIO(b"x"),)}
            await getattr(near, operation)(*arguments.get(operation, ()))
        assert scope.cancelled_caught
