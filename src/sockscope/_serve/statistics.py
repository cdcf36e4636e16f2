"""The figures of a server: what `Server.statistics` returns, and the counters behind it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from sockscope._addresses.values import Address
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket


class ListenerStatistics(NamedTuple):
    """One listener of a server, as the kernel has it; None where it does not tell."""

    address: Address
    queue: int | None
    """Connections that wait to be accepted."""
    backlog: int | None
    """How many may wait, as the kernel has cut it."""
    dropped: int | None
    """Connections that the kernel dropped because the queue was full."""


@dataclass(frozen=True)
class ServerStatistics:
    """A snapshot of a server's figures.

    ``accepted`` is the sum of ``active``, ``finished``, ``handler_errors``,
    ``timed_out``, ``resets``, ``option_failures`` and the values of ``refused`` and
    ``upgrade_failures``.
    """

    accepted: int
    """Connections taken from the kernel."""
    active: int
    """Connections that are being prepared, or are with a handler."""
    finished: int
    """Handlers that returned, or were cancelled."""
    handler_errors: int
    """Handlers that raised."""
    timed_out: int
    """Connections that ended by ``lifetime`` or ``idle_timeout``."""
    resets: int
    """Handlers that ended because the peer broke the connection."""
    refused: Mapping[str, int]
    """Connections refused, by the name of the argument that refused them."""
    option_failures: int
    """Connections whose options could not be set."""
    upgrade_failures: Mapping[str, int]
    """Connections whose upgrade failed, by kind: ``"timeout"``, a `HandshakeError`'s reason ..."""
    bytes_received: int
    bytes_sent: int
    shortages: int
    """Times that accepting had to pause for want of descriptors or memory."""
    close_errors: int
    """Errors that close(2) reported; the descriptors are free all the same."""
    drained: int
    """Connections that ended by themselves while the server drained."""
    cut: int
    """Connections that were cancelled when the time for draining was up."""
    lingering: int
    """Connections that are closing, but whose peer is still sending."""
    possibly_lost: int
    """Listeners closed where a handshake that was under way may have been reset, or where
    there were no descriptors for what was in the queue."""
    listeners: tuple[ListenerStatistics, ...]
    """The listeners that are open, in their order."""


@dataclass
class Counters:
    """What a server counts as it goes."""

    accepted: int = 0
    finished: int = 0
    handler_errors: int = 0
    timed_out: int = 0
    resets: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    option_failures: int = 0
    upgrade_failures: dict[str, int] = field(default_factory=dict)
    bytes_received: int = 0
    bytes_sent: int = 0
    shortages: int = 0
    close_errors: int = 0
    drained: int = 0
    cut: int = 0
    possibly_lost: int = 0

    def refuse(self, argument: str, number: int = 1) -> None:
        """So many connections were refused because of *argument*."""
        self.refused[argument] = self.refused.get(argument, 0) + number


def take_snapshot(
    counters: Counters,
    connections: Collection[StreamSocket],
    lingering: int,
    passives: Iterable[PassiveSocket],
) -> ServerStatistics:
    """The figures of now, the kernel's among them."""
    live = [stream.statistics() for stream in connections]
    return ServerStatistics(
        accepted=counters.accepted,
        active=len(connections),
        finished=counters.finished,
        handler_errors=counters.handler_errors,
        timed_out=counters.timed_out,
        resets=counters.resets,
        refused=dict(counters.refused),
        option_failures=counters.option_failures,
        upgrade_failures=dict(counters.upgrade_failures),
        bytes_received=counters.bytes_received + sum(s.bytes_received for s in live),
        bytes_sent=counters.bytes_sent + sum(s.bytes_sent for s in live),
        shortages=counters.shortages,
        close_errors=counters.close_errors,
        drained=counters.drained,
        cut=counters.cut,
        lingering=lingering,
        possibly_lost=counters.possibly_lost,
        listeners=tuple(
            ListenerStatistics(passive.address, *passive.statistics()[1:])
            for passive in passives
            if passive.is_open
        ),
    )
