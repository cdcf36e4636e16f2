"""What is measured: every server and every client, as data."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from harness.build import BENCH, BINARIES, build

OURS = "sockscope"


@dataclass(frozen=True, slots=True)
class Program:
    """A program to measure: its short name, its label, its script and the script's arguments."""

    name: str
    label: str
    script: str
    arguments: tuple[str, ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def command(self, *further: object) -> list[str]:
        """The command line that runs it; `further` come before its own arguments."""
        if self.script in BINARIES:
            start = [str(build(self.script))]
        else:
            start = [sys.executable, str(BENCH / self.script)]
        return [*start, *map(str, further), *self.arguments]


_UVLOOP = ("--loop", "uvloop")

SERVERS = (
    Program("c", "C, epoll", "epoll"),
    Program("bare", "CPython, bare epoll loop", "servers/bare_epoll.py"),
    Program("uvloop-protocol", "uvloop protocol", "servers/asyncio_protocol.py", _UVLOOP),
    Program("uvloop", "uvloop streams", "servers/asyncio_streams.py", _UVLOOP),
    Program("asyncio-protocol", "asyncio protocol", "servers/asyncio_protocol.py"),
    Program("asyncio", "asyncio streams", "servers/asyncio_streams.py"),
    Program("anyio", "anyio on Trio", "servers/anyio_trio.py"),
    Program("trio", "Trio serve_tcp", "servers/trio_serve_tcp.py"),
    Program(OURS, "sockscope serve_passive", "servers/sockscope_serve_passive.py"),
)

TLS_SERVERS = (
    Program("bare", "CPython, bare SSLObject", "servers/bare_epoll_tls.py"),
    Program("uvloop", "uvloop streams", "servers/asyncio_streams.py", _UVLOOP),
    Program("asyncio", "asyncio streams", "servers/asyncio_streams.py"),
    Program("anyio", "anyio on Trio", "servers/anyio_trio.py"),
    Program("trio", "Trio serve_ssl_over_tcp", "servers/trio_serve_tcp.py"),
    Program(OURS, "sockscope tls_upgrade", "servers/sockscope_serve_passive.py"),
)

_ASYNCIO_CLIENT = "clients/asyncio_open_connection.py"

CLIENTS = (
    Program("blocking", "blocking sockets", "clients/blocking_sockets.py"),
    Program("uvloop", "uvloop open_connection", _ASYNCIO_CLIENT, ("uvloop",)),
    Program("asyncio", "asyncio open_connection", _ASYNCIO_CLIENT, ("asyncio",)),
    Program("anyio", "anyio connect_tcp on Trio", "clients/anyio_connect_tcp.py"),
    Program("trio", "Trio open_tcp_stream", "clients/trio_open_tcp_stream.py"),
    Program(OURS, "sockscope open_socket", "clients/sockscope_open_socket.py"),
)

_LAYER_SERVER = "servers/sockscope_layers.py"

# Each layer adds to serve_passive alone what its name says; the last has them all.
LAYERS = (
    Program("raw", "trio.socket, no stream", _LAYER_SERVER, ("--layer", "raw")),
    Program("stream", "StreamSocket, accepted by hand", _LAYER_SERVER, ("--layer", "stream")),
    Program("serve_passive", "serve_passive", _LAYER_SERVER),
    Program(
        "no-engine",
        "serve_passive, engine off",
        _LAYER_SERVER,
        environment=(("SOCKSCOPE_ENGINE", "trio"),),
    ),
    *(
        Program(name, f"+ {label}", _LAYER_SERVER, ("--layer", name))
        for name, label in (
            ("options", "options"),
            ("hook", "connection hook"),
            ("limits", "limits"),
            ("statistics", "statistics, 10 reads/s"),
            ("timers", "timers"),
            ("all", "all of these"),
        )
    ),
)

_DATAGRAM_ASYNCIO = "datagrams/asyncio_protocol.py"

DATAGRAMS = (
    Program("trio", "trio.socket", "datagrams/trio_socket.py"),
    Program("anyio", "anyio on Trio", "datagrams/anyio_trio.py"),
    Program("asyncio", "asyncio DatagramProtocol", _DATAGRAM_ASYNCIO, ("asyncio",)),
    Program("uvloop", "uvloop DatagramProtocol", _DATAGRAM_ASYNCIO, ("uvloop",)),
    Program(OURS, "sockscope, one by one", "datagrams/sockscope_single.py"),
    Program("sockscope-batch", "sockscope, batches of 64", "datagrams/sockscope_batches.py"),
)
