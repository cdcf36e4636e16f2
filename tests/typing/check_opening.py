"""The types of opening and serving: what comes out follows from what was asked for."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sockscope import (
    PassiveSocket,
    Server,
    SocketOptions,
    StreamSocket,
    accept_connection,
    make_socket,
    open_socket,
    serve_passive,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type


class Client:
    """What an upgrade makes of a stream."""


async def upgrade(stream: StreamSocket) -> Client:
    return Client()


async def handle_client(client: Client) -> None: ...


async def handle_stream(stream: StreamSocket) -> None: ...


async def opens() -> None:
    assert_type(await make_socket(("localhost", 80)), StreamSocket)
    assert_type(await make_socket(("localhost", "http"), upgrade=upgrade), Client)
    assert_type(await make_socket(connect="passive", local=(None, 0)), PassiveSocket)
    async with open_socket("[::1]:80", timeout=1, options=SocketOptions(nodelay=True)) as stream:
        assert_type(stream, StreamSocket)
    async with open_socket(("localhost", 80), upgrade=upgrade) as client:
        assert_type(client, Client)

    await make_socket(connect="passive")  # type: ignore[call-overload]
    open_socket(("localhost", 80), timeout="1")  # type: ignore[call-overload]
    open_socket(("localhost", 80), frobnicate=1)  # type: ignore[call-overload]
    SocketOptions(frobnicate=1)  # type: ignore[call-arg]
    SocketOptions(True)  # type: ignore[call-arg]


async def serves(passive: PassiveSocket) -> None:
    async with serve_passive(("localhost", 0), handle_stream) as server:
        assert_type(server, Server[StreamSocket])
    async with serve_passive(("localhost", 0), handle_client, upgrade=upgrade) as clients:
        assert_type(clients, Server[Client])
        async with accept_connection(clients) as client:
            assert_type(client, Client)
    async with accept_connection(passive, timeout=1) as child:
        assert_type(child, StreamSocket)

    # A handler takes what the upgrade makes.
    serve_passive(("localhost", 0), handle_client)  # type: ignore[arg-type]
    serve_passive(("localhost", 0), handle_stream, upgrade=upgrade)  # type: ignore[misc]


def listens(passive: PassiveSocket, stream: StreamSocket) -> None:
    listener: trio.abc.Listener[StreamSocket] = passive
    half_closeable: trio.abc.HalfCloseableStream = stream
    del listener, half_closeable
