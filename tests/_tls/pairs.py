"""Pairs of connected streams: plain ones below, TLS over them."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import trio

from sockscope._tls.stream import TLSStream
from tests._tls.certificates import NAME, Certificates

Streams = tuple[trio.abc.Stream, trio.abc.Stream]


def socket_pair() -> Streams:
    """Two ends of a local connection whose buffers hold a few records."""
    ends = socket.socketpair()
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
    first, second = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in ends)
    return first, second


async def tcp_pair() -> Streams:
    """Two ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.testing.open_stream_to_socket_listener(listener)
        return client, await listener.accept()


def over(
    below: Streams,
    certificates: Certificates,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    *,
    https_compatible: bool = False,
) -> tuple[TLSStream, TLSStream]:
    """A client and a server over *below*, before the handshake."""
    client, server = below
    return (
        TLSStream(
            client,
            certificates.client_context(version),
            server_hostname=NAME,
            https_compatible=https_compatible,
        ),
        TLSStream(
            server,
            certificates.server_context(version),
            server_side=True,
            https_compatible=https_compatible,
        ),
    )


async def shaken(pair: tuple[TLSStream, TLSStream]) -> tuple[TLSStream, TLSStream]:
    """*pair* with hands shaken."""
    async with trio.open_nursery() as nursery:
        for stream in pair:
            nursery.start_soon(stream.do_handshake)
    return pair


@asynccontextmanager
async def tls_pair(
    certificates: Certificates,
    version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
    make: Callable[[], Streams] = socket_pair,
    *,
    https_compatible: bool = False,
) -> AsyncGenerator[tuple[TLSStream, TLSStream], None]:
    """A connected pair, client first; closed by force at the end."""
    below = make()
    pair = over(below, certificates, version, https_compatible=https_compatible)
    try:
        yield await shaken(pair)
    finally:
        for stream in (*pair, *below):
            await trio.aclose_forcefully(stream)
