"""Measures what each layer of ours costs: from a bare trio.socket to everything turned on."""

from __future__ import annotations

import sys

from harness import goals
from harness.cli import main
from harness.programs import LAYERS
from harness.tcp import accept, echo, memory

WORKLOADS = (
    echo("echo-1", "64 B, 1 conn", 1, 64, LAYERS),
    echo("echo-64", "64 B, 64 conns", 64, 64, LAYERS),
    echo("echo-512", "64 B, 512 conns", 512, 64, LAYERS),
    echo("echo-16k", "16 KiB, 64 conns", 64, 16384, LAYERS),
    accept(LAYERS),
    memory(LAYERS),
)

if __name__ == "__main__":
    sys.exit(main("layers", __doc__, WORKLOADS, [goals.LAYERS]))
