"""``echo``: send everything back."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Sequence

import trio

from sockscope._cli.command import ADDRESSES, Command, local_address
from sockscope._cli.output import note, say, show_statistics
from sockscope._cli.signals import Stop, stoppable
from sockscope._serve.serve import serve
from sockscope._serve.server import Server
from sockscope._sockets.stream import StreamSocket


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", nargs="+", type=local_address)


def _run(arguments: argparse.Namespace) -> int:
    return trio.run(_echo, arguments.address)


async def _echo(addresses: Sequence[str]) -> int:
    server: Server[StreamSocket] | None = None
    try:
        async with stoppable() as stop, trio.open_nursery() as nursery:
            start = functools.partial(serve, addresses, _send_back, handler_errors=_tell)
            with stop.cancels():
                server = await nursery.start(start)
            if server is not None:
                await _until_drained(server, stop)
    finally:
        if server is not None:
            show_statistics(server.statistics())
    return stop.exit_code


async def _until_drained(server: Server[StreamSocket], stop: Stop) -> None:
    for address in server.addresses:
        say(f"listening on {address}")
    await stop.asked.wait()
    server.stop_accepting()
    if server.connections:
        note(f"draining {len(server.connections)} connections; a second signal ends at once")
    await server.drain()


async def _send_back(stream: StreamSocket) -> None:
    async for data in stream:
        await stream.send_all(data)


def _tell(exc: Exception, stream: StreamSocket) -> None:
    note(f"the connection from {stream.remote_address} failed: {exc!r}")


COMMAND = Command(
    name="echo",
    summary="serve: send everything back",
    description=(
        "Listen on every ADDRESS, print the addresses, and send back what comes.\n"
        "The first Ctrl-C or SIGTERM stops listening and lets the connections end, for at\n"
        "most 30 s; a second one ends at once. Then the statistics are printed.\n\n" + ADDRESSES
    ),
    example="python -m sockscope echo localhost:7000 unix:/tmp/echo.sock",
    add_arguments=_add_arguments,
    run=_run,
)
