"""``demo``: a server with declared options, its clients, and a timeout on purpose."""

from __future__ import annotations

import argparse
import os
import tempfile
from ipaddress import IPv4Address, IPv6Address
from typing import Final

import trio

from sockscope._addresses.values import Address, InternetAddress, LocalAddress
from sockscope._cli.command import Command
from sockscope._cli.output import say, show_statistics, table, waiting
from sockscope._cli.signals import exit_code_of, stoppable
from sockscope._core.errors import ReceiveTimeoutError
from sockscope._open.open import open_socket
from sockscope._options.features import supports
from sockscope._options.report import Report
from sockscope._options.value_types import KeepAlive
from sockscope._options.values import SocketOptions
from sockscope._serve.serve import serve_passive
from sockscope._serve.server import Server
from sockscope._sockets.stream import StreamSocket

_LISTENER: Final = SocketOptions(reuse_address=True, receive_buffer=65536)
_TCP_CHILD: Final = SocketOptions(
    nodelay=True,
    keepalive=KeepAlive(idle=60, interval=10, count=5),
    user_timeout=30.0,
    send_buffer=65536,
    # Not every system has these.
    preferred=frozenset({"keepalive", "user_timeout"}),
)
_LOCAL_CHILD: Final = SocketOptions(send_buffer=65536)
_SILENCE: Final = b"please say nothing"
_PATIENCE: Final = 0.25
_HEADING: Final = "bold cyan"
_COLUMNS: Final = ("option", "asked for", "in effect", "remark")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """It has none."""


def _run(arguments: argparse.Namespace) -> int:
    return trio.run(_demo)


async def _demo() -> int:
    async with stoppable() as stop:
        with stop.cancels() as scope, tempfile.TemporaryDirectory() as folder:
            await _tell_story(folder)
    return exit_code_of(stop.first) if scope.cancelled_caught else 0


async def _tell_story(folder: str) -> None:
    places, lacking = _places(folder)
    say("1. A server declares the options of its listening sockets", style=_HEADING)
    # What the handler finds on its connection, for the story.
    reports, told = trio.open_memory_channel[Report](1)

    async def answer(stream: StreamSocket) -> None:
        async for words in stream:
            if words != _SILENCE:
                reports.send_nowait(_options_for(stream).check(stream))
                await stream.send_all(b"hello, " + words)

    async with serve_passive(
        list(places.values()), answer, options=_LISTENER, connection_options=_options_for
    ) as server:
        for passive in server.sockets:
            say(f"\nlistening on {passive.address}")
            _show(_LISTENER.check(passive))
        say("\n2. Clients connect; a hook gives each connection its options", style=_HEADING)
        for name, address in zip(places, server.addresses, strict=True):
            say(f"\n{name}: {await _greet(address, name)}")
            _show(await told.receive())
        for name in lacking:
            say(f"\n{name}: skipped, this machine has none")
        say("\n3. A client whose server stays silent times out, as it was told to", style=_HEADING)
        say(f"\n{await _time_out(server)}")
        say(
            "\n4. The server drains: it stops listening and lets its connections end",
            style=_HEADING,
        )
    say()
    show_statistics(server.statistics())
    say("\nEvery socket is closed.")


def _places(folder: str) -> tuple[dict[str, Address], list[str]]:
    """Where to listen, by name; and the names of what this machine lacks."""
    features = {"IPv6": "ipv6", "A local socket": "local"}
    places: dict[str, Address] = {
        "IPv4": InternetAddress(IPv4Address("127.0.0.1"), 0),
        "IPv6": InternetAddress(IPv6Address("::1"), 0),
        "A local socket": LocalAddress(os.fsencode(os.path.join(folder, "demo.sock"))),
    }
    lacking = [name for name, feature in features.items() if not supports(feature)]
    for name in lacking:
        del places[name]
    return places, lacking


def _options_for(connection: StreamSocket) -> SocketOptions:
    """The hook: called for each new connection, before its handler."""
    is_local = isinstance(connection.local_address, LocalAddress)
    return _LOCAL_CHILD if is_local else _TCP_CHILD


async def _greet(address: Address, name: str) -> str:
    async with open_socket(address, timeout=5) as stream:
        words = name.lower() if name.startswith("A ") else name
        await stream.send_all(words.encode())
        answer = await stream.receive_some()
        return f"sent {words!r} to {address}, received {answer.decode()!r}"


async def _time_out(server: Server[StreamSocket]) -> str:
    options = SocketOptions(receive_timeout=_PATIENCE)
    async with open_socket(server.addresses[0], options=options, timeout=5) as stream:
        await stream.send_all(_SILENCE)
        try:
            with waiting("waiting for an answer that does not come"):
                answer = await stream.receive_some()
        except ReceiveTimeoutError as exc:
            return f"{type(exc).__name__}: {exc.strerror}"
    raise RuntimeError(f"the server broke its silence: {answer!r}")


def _show(report: Report) -> None:
    table(_COLUMNS, [(name, r.requested, r.effective, r.reason) for name, r in report.items()])


COMMAND = Command(
    name="demo",
    summary="a server, its clients and their options, told step by step",
    description=(
        "Start a server with declared options and a hook for its connections, connect to it\n"
        "over IPv4, IPv6 and a local socket, let one client time out on purpose, and print\n"
        "the options that were asked for beside those in effect."
    ),
    example="python -m sockscope demo",
    add_arguments=_add_arguments,
    run=_run,
)
