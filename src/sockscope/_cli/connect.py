"""``connect``: the standard input to a socket, and what it sends to the standard output."""

from __future__ import annotations

import argparse
import math
import os
import select
import stat
from collections.abc import Callable
from typing import Final

import trio

from sockscope._cli.command import ADDRESSES, Command, remote_address, seconds
from sockscope._cli.output import progress, writing
from sockscope._cli.signals import Stop, stoppable
from sockscope._core.errors import words_for
from sockscope._open.open import make_socket
from sockscope._sockets.stream import StreamSocket

_INPUT: Final = 0
_OUTPUT: Final = 1
_CHUNK: Final = 65536
# Once the peer has ended, input may go on as long as it comes without such a pause
# (socat's own time): whether the peer still reads is only found out by sending.
_PAUSE: Final = 0.5
# After the first signal: for what is on its way, and for the peer to end as well.
_FAREWELL: Final = 2.0


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("address", metavar="ADDRESS", type=remote_address)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=seconds,
        default=math.inf,
        help="for looking up and connecting; default: as long as the system tries",
    )


def _run(arguments: argparse.Namespace) -> int:
    return trio.run(_connect, arguments.address, arguments.timeout)


async def _connect(address: str, timeout: float) -> int:
    async with stoppable() as stop:
        stream: StreamSocket | None = None
        with stop.cancels():
            stream = await make_socket(address, timeout=timeout)
        if stream is not None:
            with progress(f"sending to {address}", _input_size()) as advance:
                async with stream:
                    await _exchange(stream, stop, Input(advance))
    return stop.exit_code


class Input:
    """The standard input: terminal, pipe, file or nothing.

    It is read in Trio's threads, which do not keep the process from ending: not every
    kind can be waited for, and to make it non-blocking would change it for other
    processes as well.
    """

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance
        self._patience = math.inf
        self._scope = trio.CancelScope()

    async def read(self) -> bytes:
        """The next bytes; none at the end, or when `hurry` has lost its patience. A checkpoint."""
        data = b""
        with trio.move_on_after(self._patience) as self._scope:
            data = await trio.to_thread.run_sync(_read, abandon_on_cancel=True)
        return data

    def hurry(self, patience: float) -> None:
        """From now on, an input that pauses for *patience* seconds has ended."""
        self._patience = min(self._patience, patience)
        self._scope.deadline = min(self._scope.deadline, trio.current_time() + patience)

    def sent(self, count: int) -> None:
        """So many bytes have been sent."""
        self._advance(count)


async def _exchange(stream: StreamSocket, stop: Stop, source: Input) -> None:
    """Both directions, until both have ended."""
    broken: list[trio.BrokenResourceError] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_asked, stop, source, nursery.cancel_scope)
        async with trio.open_nursery() as directions:
            directions.start_soon(_send, source, stream, broken)
            await _receive(stream)
            source.hurry(_PAUSE)
        nursery.cancel_scope.cancel()
    if broken:
        raise broken[0]


async def _end_when_asked(stop: Stop, source: Input, scope: trio.CancelScope) -> None:
    await stop.asked.wait()
    source.hurry(0)
    scope.deadline = trio.current_time() + _FAREWELL


async def _send(
    source: Input, stream: StreamSocket, broken: list[trio.BrokenResourceError]
) -> None:
    """The input, then the end of it.

    A connection that breaks is told later: what the peer had sent before comes first.
    """
    try:
        while data := await source.read():
            await stream.send_all(data)
            source.sent(len(data))
        await stream.send_eof()
    except trio.BrokenResourceError as exc:
        broken.append(exc)


async def _receive(stream: StreamSocket) -> None:
    async for data in stream:
        await trio.to_thread.run_sync(_write, data, abandon_on_cancel=True)


def _read() -> bytes:
    while True:
        try:
            return os.read(_INPUT, _CHUNK)
        except BlockingIOError:
            # Another process has made it non-blocking.
            select.select([_INPUT], [], [])
        except OSError as exc:
            message = f"cannot read the standard input: {words_for(exc)}"
            raise OSError(exc.errno, message) from exc


def _write(data: bytes | bytearray) -> None:
    rest = memoryview(data)
    with writing():
        while rest:
            try:
                rest = rest[os.write(_OUTPUT, rest) :]
            except BlockingIOError:
                select.select([], [_OUTPUT], [])


def _input_size() -> int:
    """How many bytes the input has left; 0 where that is not known."""
    status = os.fstat(_INPUT)
    if not stat.S_ISREG(status.st_mode):
        return 0
    return max(status.st_size - os.lseek(_INPUT, 0, os.SEEK_CUR), 0)


COMMAND = Command(
    name="connect",
    summary="the standard input to a socket, and back",
    description=(
        "Connect to ADDRESS, send the standard input, and print what comes back, byte for\n"
        "byte. The end of the input ends the sending only; the command ends when the peer\n"
        "does. The first Ctrl-C or SIGTERM ends the input and gives the peer 2 s; a second\n"
        "one ends at once.\n\n" + ADDRESSES
    ),
    example="echo hello | python -m sockscope connect localhost:7000 --timeout 5",
    add_arguments=_add_arguments,
    run=_run,
)
