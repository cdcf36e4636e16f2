"""asyncio's client: `asyncio.open_connection`, on asyncio's own loop or uvloop's."""

from __future__ import annotations

import asyncio
import importlib
import sys

from common import BYTE, HOST, PORT, TASKS, Stopwatch, check, visit_repeatedly, warm_up


async def visit() -> None:
    reader, writer = await asyncio.open_connection(HOST, PORT)
    writer.write(BYTE)
    check(await reader.read(1))
    writer.close()
    await writer.wait_closed()


async def main() -> None:
    await visit_repeatedly(visit, warm_up())
    stopwatch = Stopwatch()
    await asyncio.gather(*(visit_repeatedly(visit, stopwatch) for _ in range(TASKS)))
    stopwatch.report()


importlib.import_module(sys.argv[4]).run(main())
