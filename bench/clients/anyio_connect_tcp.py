"""anyio's client on Trio: `anyio.connect_tcp`."""

from __future__ import annotations

import anyio
from common import BYTE, HOST, PORT, check
from trio_tasks import run


async def visit() -> None:
    async with await anyio.connect_tcp(HOST, PORT) as stream:
        await stream.send(BYTE)
        check(await stream.receive(1))


run(visit)
