"""The work over TCP that more than one script measures, for whichever programs."""

from __future__ import annotations

from harness.programs import Program
from harness.workloads import Figure, ServerWorkload, Settings, cpu_per_operation

ECHO = "Echo, CPU of the server per message"
CONNECTIONS = "Connections"


def scaled(connections: int, settings: Settings) -> int:
    """Large numbers shrink for a quick look."""
    return int(connections * settings.many) if connections > 1000 else connections


def echo(
    name: str, title: str, connections: int, size: int, programs: tuple[Program, ...]
) -> ServerWorkload:
    """Every connection sends its next message as soon as the last one is back."""
    return ServerWorkload(
        name,
        ECHO,
        (cpu_per_operation(name, title),),
        programs,
        ("echo", "--size", str(size)),
        sized=lambda settings: {"connections": scaled(connections, settings)},
    )


def accept(programs: tuple[Program, ...]) -> ServerWorkload:
    """16 visitors at a time connect, echo a byte, and close first."""
    return ServerWorkload(
        "accept",
        CONNECTIONS,
        (cpu_per_operation("accept", "accept, echo 1 B, close"),),
        programs,
        ("churn", "--connections", "16"),
    )


def memory(programs: tuple[Program, ...]) -> ServerWorkload:
    """Resident bytes of the process for each of 5,000 that have echoed once."""
    figure = Figure(
        "memory",
        "memory of an idle one",
        "bytes",
        lambda result: result["bytes"] / result["operations"],
    )
    return ServerWorkload(
        "memory",
        CONNECTIONS,
        (figure,),
        programs,
        ("memory", "--size", "64"),
        sized=lambda settings: {"connections": scaled(5000, settings)},
    )
