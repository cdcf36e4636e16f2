"""Every operation cancelled at every step: no descriptor left, no task, no half-dead stream."""

from __future__ import annotations

import io
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable

import pytest
import trio

from sockscope._core.errors import HandshakeError
from sockscope._tls.stream import TLSStream
from sockscope._tls.upgrade import tls_upgrade
from sockscope.testing import cancel_everywhere
from tests._tls.certificates import NAME, Certificates

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


async def conversation(
    certificates: Certificates,
    version: ssl.TLSVersion,
    context: object,
    talk: Callable[[TLSStream], Awaitable[object]],
) -> None:
    """A client that does *talk*, and a server that echoes until the end."""
    ends = socket.socketpair()
    left, right = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)

    async def serve() -> None:
        try:
            tls = await tls_upgrade(context, server_side=True)(right)
            async with tls:
                async for data in tls:
                    await tls.send_all(data)
                await tls.send_eof()
        except (trio.BrokenResourceError, OSError):
            pass  # the client was cancelled
        finally:
            await trio.aclose_forcefully(right)

    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            upgrade = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
            async with await upgrade(left) as tls:
                await talk(tls)
    finally:
        for end in (left, right):
            end.socket.close()


async def send_and_receive(tls: TLSStream) -> None:
    await tls.send_all(b"hello")
    assert await tls.receive_some(3) == b"hel"
    assert await tls.receive_some() == b"lo"
    await tls.send_eof()
    assert await tls.receive_some() == b""


async def send_much(tls: TLSStream) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(tls.send_all, bytes(300_000))
        left = 300_000
        while left:
            left -= len(await tls.receive_some())


async def send_file(tls: TLSStream) -> None:
    await tls.send_file(io.BytesIO(bytes(1000)))
    assert len(await tls.receive_some()) == 1000


async def unwrap(tls: TLSStream) -> None:
    await tls.wait_send_all_might_not_block()
    below, _ = await tls.unwrap()
    await below.aclose()


@pytest.mark.parametrize("talk", [send_and_receive, send_much, send_file, unwrap])
async def test_every_step(certificates, version, talk) -> None:
    context = certificates.server_context(version)
    await cancel_everywhere(lambda: conversation(certificates, version, context, talk))


async def test_every_step_of_a_server_that_chooses(certificates, version) -> None:
    context = certificates.server_context(version)
    await cancel_everywhere(
        lambda: conversation(certificates, version, lambda _: context, send_and_receive)
    )


async def test_every_step_of_a_handshake_that_fails(certificates, version) -> None:
    context = certificates.server_context(version, certificate=certificates.expired())

    async def fail() -> None:
        try:
            await conversation(certificates, version, context, send_and_receive)
        except BaseExceptionGroup as group:
            _, rest = group.split(HandshakeError)
            if rest is not None:
                raise rest from None

    await cancel_everywhere(fail)


async def test_a_receive_cancelled_at_every_step_loses_nothing(certificates, version) -> None:
    """The stream goes on after each cancelled receive: every byte still comes, in order."""

    async def talk(tls: TLSStream) -> None:
        for size in range(1, 30):
            await tls.send_all(b"x" * size)
            received = b""
            while len(received) < size:
                with trio.move_on_after(0.0001 * size):
                    received += await tls.receive_some(7)
            assert received == b"x" * size
        await tls.send_eof()
        assert await tls.receive_some() == b""

    await conversation(certificates, version, certificates.server_context(version), talk)
