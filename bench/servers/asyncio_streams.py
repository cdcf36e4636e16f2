"""asyncio's streams, on asyncio's own loop or uvloop's."""

from __future__ import annotations

import asyncio
import importlib
from asyncio import StreamReader, StreamWriter

from common import BACKLOG, CHUNK, HOST, NUMBER, announce, arguments, blocks


async def echo(reader: StreamReader, writer: StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.close()


async def sink(reader: StreamReader, writer: StreamWriter) -> None:
    received = 0
    while data := await reader.read(CHUNK):
        received += len(data)
    writer.write(NUMBER.pack(received))
    writer.close()


async def source(reader: StreamReader, writer: StreamWriter) -> None:
    (size,) = NUMBER.unpack(await reader.readexactly(NUMBER.size))
    for block in blocks(size):
        writer.write(block)
        await writer.drain()
    writer.close()


HANDLERS = {"echo": echo, "sink": sink, "source": source}


async def main() -> None:
    server = await asyncio.start_server(
        HANDLERS[given.role], HOST, 0, backlog=BACKLOG, ssl=given.context
    )
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


given = arguments()
importlib.import_module(given.loop).run(main())
