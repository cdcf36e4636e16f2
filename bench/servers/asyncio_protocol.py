"""asyncio's callbacks, on asyncio's own loop or uvloop's: no coroutine for a connection."""

from __future__ import annotations

import asyncio
import importlib

from common import BACKLOG, HOST, NUMBER, announce, arguments, blocks


class Echo(asyncio.Protocol):
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)


class Sink(Echo):
    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)

    def eof_received(self) -> None:
        self.transport.write(NUMBER.pack(self.received))


class Source(Echo):
    writable = True

    def data_received(self, data: bytes) -> None:
        self.blocks = iter(blocks(*NUMBER.unpack(data)))
        self.write_some()

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True
        self.write_some()

    def write_some(self) -> None:
        while self.writable:
            block = next(self.blocks, None)
            if block is None:
                self.transport.close()
                return
            self.transport.write(block)


PROTOCOLS = {"echo": Echo, "sink": Sink, "source": Source}


async def main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        PROTOCOLS[given.role], HOST, 0, backlog=BACKLOG, ssl=given.context
    )
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


given = arguments()
importlib.import_module(given.loop).run(main())
