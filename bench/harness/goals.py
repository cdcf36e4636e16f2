"""Who is compared with whom, and what the library is to reach, as ratios within one run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.programs import OURS


@dataclass(frozen=True, slots=True)
class Comparison:
    """A program, its peers, and by figure and peer the ratio that it is to reach."""

    subject: str
    peers: tuple[str, ...]
    goals: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


_PEERS = ("trio", "asyncio", "uvloop")

TCP = Comparison(
    OURS,
    _PEERS,
    {
        "echo-1": {"trio": 0.92},
        "echo-64": {"trio": 0.64, "asyncio": 1.0},
        "echo-512": {"trio": 0.63, "asyncio": 0.92},
        "echo-4000": {"trio": 0.56, "asyncio": 0.80},
        "echo-16k": {"trio": 0.72, "asyncio": 1.0, "uvloop": 0.88},
        "accept": {"trio": 0.38, "asyncio": 0.62},
        "client-1": {"trio": 0.60, "asyncio": 0.70},
        "client-16": {"trio": 0.62, "asyncio": 0.80},
        "memory": {"trio": 0.60},
        "latency-p99": {"trio": 1.0},
    },
)

TLS = Comparison(
    OURS,
    _PEERS,
    {
        "tls-1": {"trio": 0.80, "asyncio": 1.0},
        "tls-64": {"trio": 0.46, "asyncio": 0.85},
        "tls-16k": {"trio": 0.62, "asyncio": 1.0},
        "tls-handshake": {"trio": 0.76, "asyncio": 0.92},
    },
)

_OPTIONAL = ("echo-1", "echo-64", "echo-512", "echo-16k", "accept", "memory")

# Everything optional, turned on together, is to cost a tenth at most.
LAYERS = Comparison(
    "all",
    ("serve_passive", "stream", "raw"),
    {name: {"serve_passive": 1.10} for name in _OPTIONAL},
)

_SIZES = (64, 1200, 1472)
_TRAINS = [f"udp-{direction}-{size}" for direction in ("send", "receive") for size in _SIZES]
_SINGLE = [
    f"udp-{direction}-{size}"
    for direction in ("send-scattered", "receive-single")
    for size in _SIZES
]

# Datagrams for each second of CPU: here more is better.
DATAGRAMS = (
    Comparison(OURS, _PEERS, {name: {"trio": 1.0} for name in (*_TRAINS, *_SINGLE)}),
    Comparison(
        "sockscope-batch",
        _PEERS,
        {name: {"trio": 20.0} for name in _TRAINS} | {name: {"trio": 3.0} for name in _SINGLE},
    ),
)
