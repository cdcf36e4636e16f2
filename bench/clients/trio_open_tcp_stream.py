"""Trio's own client: `trio.open_tcp_stream`."""

from __future__ import annotations

import trio
from common import BYTE, HOST, PORT, check
from trio_tasks import run


async def visit() -> None:
    async with await trio.open_tcp_stream(HOST, PORT) as stream:
        await stream.send_all(BYTE)
        check(await stream.receive_some(1))


run(visit)
