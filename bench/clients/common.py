"""What every measured client shares: its arguments, its clock, and its report.

A client connects, sends a byte, gets it back and closes, as often as its time allows: one
after the other, or in several tasks at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Awaitable, Callable

HOST = "127.0.0.1"
PORT = int(sys.argv[1])
SECONDS = float(sys.argv[2])
TASKS = int(sys.argv[3])
BYTE = b"\xa5"


def check(answer: bytes) -> None:
    if answer != BYTE:
        raise SystemExit(f"the server sent {answer!r} for {BYTE!r}")


class Stopwatch:
    """CPU time of this process from when it is made until the deadline, and what was done."""

    def __init__(self, seconds: float = SECONDS) -> None:
        self.operations = 0
        self.deadline = time.monotonic() + seconds
        self.start = time.process_time_ns()

    def going_on(self) -> bool:
        """Whether there is time for one more operation, which it counts."""
        if time.monotonic() >= self.deadline:
            return False
        self.operations += 1
        return True

    def report(self) -> None:
        cpu = time.process_time_ns() - self.start
        print(json.dumps({"operations": self.operations, "cpu_ns": cpu}))


async def visit_repeatedly(visit: Callable[[], Awaitable[None]], stopwatch: Stopwatch) -> None:
    while stopwatch.going_on():
        await visit()


def warm_up() -> Stopwatch:
    """A tenth of the time, before it counts: the first visits load and check."""
    return Stopwatch(SECONDS / 10)
