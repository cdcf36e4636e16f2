"""What every datagram program shares: its arguments, the datagram, its clock and report.

``send``: send as many datagrams as the time allows to a sink. ``send-scattered``: the same to
two sinks by turns, so that nothing can be handed over in trains. ``receive``: ask for datagrams
and take them. In each the first datagram goes to the companion and what comes back is checked.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence

HOST = "127.0.0.1"
PORTS = [int(port) for port in sys.argv[1].split(",")]
SECONDS = float(sys.argv[2])
DIRECTION = sys.argv[3]
SIZE = int(sys.argv[4])
TARGET = (HOST, PORTS[0])
TARGETS = [(HOST, port) for port in PORTS]
PAYLOAD = (bytes(range(251)) * (SIZE // 251 + 1))[:SIZE]
BATCH = 64  # datagrams between two looks at the clock
# The kernel clips it to its own limit; the default of 200 kB holds too few to keep one busy.
RECEIVE_BUFFER = 4 << 20


def check(data: bytes) -> None:
    if data != PAYLOAD:
        raise SystemExit(f"a datagram of {len(data)} bytes came, with other bytes than expected")


class Stopwatch:
    """CPU time of this process until its time is over, and the datagrams of that time."""

    def __init__(self) -> None:
        self.operations = 0
        now = time.monotonic()
        self._starts_at, self._ends_at = now + SECONDS / 10, now + SECONDS * 1.1
        self._started: int | None = None

    def going_on(self, done: int) -> bool:
        """Whether there is time left after `done` more datagrams; the first tenth is free."""
        now = time.monotonic()
        if self._started is None:
            if now >= self._starts_at:
                self._started = time.process_time_ns()
            return True
        self.operations += done
        return now < self._ends_at

    def report(self) -> None:
        cpu = time.process_time_ns() - self._started
        print(json.dumps({"operations": self.operations, "cpu_ns": cpu}))


def in_turn(count: int = BATCH) -> Sequence[tuple[str, int]]:
    """Where `count` datagrams go: all to one, or by turns to both."""
    targets = TARGETS if DIRECTION == "send-scattered" else TARGETS[:1]
    return (targets * count)[:count]
