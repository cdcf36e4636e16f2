"""Runs a client's visits under Trio: ours, Trio's own, anyio's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from common import TASKS, Stopwatch, visit_repeatedly, warm_up


def run(visit: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await visit_repeatedly(visit, warm_up())
        stopwatch = Stopwatch()
        async with trio.open_nursery() as nursery:
            for _ in range(TASKS):
                nursery.start_soon(visit_repeatedly, visit, stopwatch)
        stopwatch.report()

    trio.run(main)
