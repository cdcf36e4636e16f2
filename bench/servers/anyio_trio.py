"""anyio on Trio, with a `TLSListener` round it with ``--tls``."""

from __future__ import annotations

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSListener
from common import BACKLOG, HOST, NUMBER, announce, arguments, blocks


async def echo(stream: ByteStream) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


async def sink(stream: ByteStream) -> None:
    received = 0
    async with stream:
        async for data in stream:
            received += len(data)
        await stream.send(NUMBER.pack(received))


async def source(stream: ByteStream) -> None:
    async with stream:
        (size,) = NUMBER.unpack(await stream.receive(NUMBER.size))
        for block in blocks(size):
            await stream.send(block)


HANDLERS = {"echo": echo, "sink": sink, "source": source}


async def main() -> None:
    given = arguments()
    listener = await anyio.create_tcp_listener(local_host=HOST, local_port=0, backlog=BACKLOG)
    port = listener.extra(SocketAttribute.local_port)
    if given.context is not None:
        listener = TLSListener(listener, given.context)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, HANDLERS[given.role])
        announce(port)


anyio.run(main, backend="trio")
