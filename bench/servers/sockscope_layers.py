"""Ours, with one layer more or less: which one is said by ``--layer``."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from common import BACKLOG, CHUNK, HOST, announce, arguments
from trio_handlers import echo

import sockscope

OPTIONS = sockscope.SocketOptions(
    keepalive=sockscope.KeepAlive(idle=60, interval=10, count=5), priority=4
)
TIMERS = sockscope.SocketOptions(receive_timeout=60.0, send_timeout=60.0)
LIMITS = {
    "max_connections": 20_000,
    "max_connections_per_host": 20_000,
    "accept_rate": 1_000_000.0,
    "deny": ["192.0.2.0/24", "2001:db8::/32"],
}
LIFETIMES = {"lifetime": 3600.0, "idle_timeout": 600.0}


def hook(stream: sockscope.StreamSocket) -> None:
    """Chooses nothing: its own cost is what is measured."""


def choose_all(stream: sockscope.StreamSocket) -> sockscope.SocketOptions:
    return OPTIONS | TIMERS


# What each layer gives to serve_passive.
LAYERS: dict[str, Mapping[str, object]] = {
    "serve_passive": {},
    "options": {"connection_options": OPTIONS},
    "hook": {"connection_options": hook},
    "limits": LIMITS,
    "statistics": {},
    "timers": {"connection_options": TIMERS, **LIFETIMES},
    "all": {"connection_options": choose_all, **LIMITS, **LIFETIMES},
}
WATCHED = ("statistics", "all")


async def serve_layer(layer: str) -> None:
    async with sockscope.serve_passive((HOST, 0), echo, **LAYERS[layer]) as server:
        announce(server.port)
        while layer in WATCHED:
            await trio.sleep(0.1)
            server.statistics()
        await trio.sleep_forever()


async def serve_streams() -> None:
    """Stream sockets without a server round them."""

    async def handle(stream: sockscope.StreamSocket) -> None:
        async with stream:
            await echo(stream)

    passive = await sockscope.make_socket(connect="passive", local=(HOST, 0))
    async with passive, trio.open_nursery() as nursery:
        announce(passive.port)
        while True:
            nursery.start_soon(handle, await passive.accept())


async def serve_raw_sockets() -> None:
    """No stream either: Trio's sockets as they are."""

    async def handle(connection: trio.socket.SocketType) -> None:
        with connection:
            while data := await connection.recv(CHUNK):
                await connection.send(data)

    listener = trio.socket.socket()
    await listener.bind((HOST, 0))
    listener.listen(BACKLOG)
    async with trio.open_nursery() as nursery:
        announce(listener.getsockname()[1])
        while True:
            connection, _ = await listener.accept()
            nursery.start_soon(handle, connection)


async def main() -> None:
    layer = arguments().layer
    if layer == "raw":
        await serve_raw_sockets()
    elif layer == "stream":
        await serve_streams()
    else:
        await serve_layer(layer)


trio.run(main)
