"""Measures datagram sockets side by side: datagrams for each second of CPU, more is better."""

from __future__ import annotations

import sys

from harness import goals
from harness.cli import main
from harness.programs import DATAGRAMS
from harness.workloads import Figure, SelfMeasuredWorkload

SIZES = (64, 1200, 1472)

# Where both ends may hand over many datagrams as one, and where each goes by itself.
TRAINS = "Datagrams, trains of equal ones (GSO and GRO, for those who use them)"
SINGLE = "Datagrams, each by itself (no GSO, no GRO)"


def datagrams(direction: str, size: int, group: str, companion: str) -> SelfMeasuredWorkload:
    name = f"udp-{direction}-{size}"
    figure = Figure(
        name,
        f"{direction.partition('-')[0]} {size} B",
        "k / CPU s",
        lambda result: result["operations"] * 1e6 / result["cpu_ns"],
        higher_is_better=True,
    )
    # The blaster and the program both know "receive"; only the blaster knows how it sends.
    told = "receive" if direction.startswith("receive") else direction
    return SelfMeasuredWorkload(
        name,
        group,
        (figure,),
        DATAGRAMS,
        ("load_udp", companion, str(size)),
        (told, str(size)),
    )


WORKLOADS = (
    *(datagrams("send", size, TRAINS, "sink-joined") for size in SIZES),
    *(datagrams("receive", size, TRAINS, "blast-segmented") for size in SIZES),
    *(datagrams("send-scattered", size, SINGLE, "sink") for size in SIZES),
    *(datagrams("receive-single", size, SINGLE, "blast") for size in SIZES),
)

if __name__ == "__main__":
    sys.exit(main("udp", __doc__, WORKLOADS, goals.DATAGRAMS))
