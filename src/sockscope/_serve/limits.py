"""Limits of a server: how many connections, how fast, and from whom.

Who connects is known only after accept(2), so what depends on it (`allow`, `deny`,
the limit per host) always refuses. What does not (`max_connections`, `accept_rate`) can
also leave the connection in the kernel's queue.
"""

from __future__ import annotations

import math
import socket
from collections.abc import Callable, Iterable
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_network,
)
from typing import Any, Final, Literal, NamedTuple, TypeAlias

import trio
from trio.lowlevel import ParkingLot

from sockscope._addresses.values import InternetAddress
from sockscope._sockets.stream import StreamSocket

Network: TypeAlias = str | IPv4Network | IPv6Network | IPv4Address | IPv6Address
"""A network or a single address, or the text of one: ``"192.0.2.0/24"``, ``"::1"``."""

Overload: TypeAlias = Literal["wait", "reject"]
"""What a server does with connections for which it has no room."""

# A site has at least a /64, and a host of it may use any address there (RFC 4291, 7721).
_HOST_PREFIX: Final = 64
_MAPPED: Final = bytes(10) + b"\xff\xff"
_MAPPED_NETWORK: Final = IPv6Network("::ffff:0:0/96")


class Networks:
    """A set of networks that is asked once for each connection.

    Args:
      networks: at least one. IPv4-mapped ones count as the IPv4 networks that they are.
    """

    def __init__(self, networks: Iterable[IPv4Network | IPv6Network]) -> None:
        # For each length of an address in bytes the prefixes, by how many bits they lack:
        # a look-up costs as many steps as there are lengths of prefixes, not networks.
        self._prefixes: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for network in map(_unmapped, networks):
            shift = network.max_prefixlen - network.prefixlen
            prefixes = self._prefixes[network.max_prefixlen // 8]
            prefixes.setdefault(shift, set()).add(int(network.network_address) >> shift)

    def __contains__(self, host: bytes) -> bool:
        number = int.from_bytes(host, "big")
        by_shift = self._prefixes[len(host)]
        return any(number >> shift in prefixes for shift, prefixes in by_shift.items())


def _unmapped(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    if isinstance(network, IPv6Network) and network.subnet_of(_MAPPED_NETWORK):
        packed = network.network_address.packed[-4:]
        return IPv4Network((packed, network.prefixlen - _MAPPED_NETWORK.prefixlen))
    return network


def parse_networks(networks: Iterable[Network] | Network | None, argument: str) -> Networks | None:
    """The networks of *argument*, checked; None for None.

    Raises:
      TypeError: one is neither a network nor the text of one.
      ValueError: one is malformed, or has bits of a host set.
    """
    if networks is None:
        return None
    if isinstance(networks, (str, IPv4Network, IPv6Network, IPv4Address, IPv6Address)):
        networks = [networks]
    elif isinstance(networks, (bytes, int)) or not isinstance(networks, Iterable):
        raise TypeError(f"{argument} must be networks or their texts, not {networks!r}")
    return Networks(_parse_network(network, argument) for network in networks)


def _parse_network(network: object, argument: str) -> IPv4Network | IPv6Network:
    if not isinstance(network, (str, IPv4Network, IPv6Network, IPv4Address, IPv6Address)):
        raise TypeError(f"{argument} must be networks or their texts, not {network!r}")
    try:
        return ip_network(network)
    except ValueError as exc:
        raise ValueError(f"{argument}: {exc}") from None


def packed_host(stream: StreamSocket) -> bytes | None:
    """The peer's host, IPv4-mapped ones as IPv4; None for a local socket's peer."""
    peer: Any = stream._peer
    if isinstance(peer, InternetAddress):  # somebody has asked for it before
        return peer.unmapped.host.packed
    family = int(stream._sock.family)
    if family == socket.AF_INET:
        return socket.inet_pton(socket.AF_INET, peer[0])
    if family == socket.AF_INET6:
        packed = socket.inet_pton(socket.AF_INET6, peer[0].partition("%")[0])
        return packed[12:] if packed[:12] == _MAPPED else packed
    return None


class HostNumber(NamedTuple):
    """How many connections a host may have, and how many bits of an IPv6 address make one."""

    number: int
    prefix_length: int = _HOST_PREFIX


class HostLimit:
    """Counts connections by host."""

    def __init__(self, limit: HostNumber) -> None:
        self._number = limit.number
        self._shift = 128 - limit.prefix_length
        self._counts: dict[bytes | int, int] = {}
        self._hosts: dict[StreamSocket, bytes | int] = {}

    def enter(self, stream: StreamSocket, host: bytes) -> bool:
        """Count *stream* for *host*; False, and not counted, if that has its number."""
        key = host if len(host) == 4 else int.from_bytes(host, "big") >> self._shift
        count = self._counts.get(key, 0)
        if count >= self._number:
            return False
        self._counts[key] = count + 1
        self._hosts[stream] = key
        return True

    def leave(self, stream: StreamSocket) -> None:
        """*stream* is gone."""
        key = self._hosts.pop(stream, None)
        if key is None:
            return
        self._counts[key] -= 1
        if not self._counts[key]:
            del self._counts[key]


def parse_host_limit(value: int | tuple[int, int] | None) -> HostNumber | None:
    """The checked ``max_connections_per_host``.

    Raises:
      TypeError: it is neither a number nor a pair of them.
      ValueError: a number is out of range.
    """
    name = "max_connections_per_host"
    if value is None:
        return None
    if not isinstance(value, tuple):
        return HostNumber(check_count(value, name))
    if len(value) != 2:
        raise ValueError(f"{name} must be a number or (number, prefix_length), not {value!r}")
    number, prefix_length = value
    if check_count(prefix_length, f"the prefix length of {name}") > 128:
        raise ValueError(f"the prefix length of {name} must be at most 128, not {prefix_length}")
    return HostNumber(check_count(number, name), prefix_length)


def check_count(value: object, argument: str) -> int:
    """*value*, if it is a whole number from 1.

    Raises:
      TypeError: it is no int.
      ValueError: it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be an int, not {value!r}")
    if value < 1:
        raise ValueError(f"{argument} must be at least 1, not {value}")
    return value


def check_rate(value: object) -> float:
    """*value*, if it is a rate: positive, in connections a second.

    Raises:
      TypeError: it is no number.
      ValueError: it is zero, negative or NaN.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"accept_rate must be connections a second, not {value!r}")
    if math.isnan(value) or value <= 0:
        raise ValueError(f"accept_rate must be above 0 connections a second, not {value!r}")
    return float(value)


class Admission:
    """Who may connect at all: ``deny``, ``allow`` and the limit per host, in this order.

    Local sockets have no hosts: what they may do their paths' permissions say.
    """

    def __init__(
        self, allow: Networks | None, deny: Networks | None, hosts: HostLimit | None
    ) -> None:
        self._allow = allow
        self._deny = deny
        self._hosts = hosts

    @classmethod
    def of(
        cls, allow: Networks | None, deny: Networks | None, hosts: HostNumber | None
    ) -> Admission | None:
        """One for these; None if all are."""
        if allow is None and deny is None and hosts is None:
            return None
        return cls(allow, deny, None if hosts is None else HostLimit(hosts))

    def refusal(self, stream: StreamSocket) -> str | None:
        """The argument that refuses *stream*; None, and it counts for its host, if none does."""
        host = packed_host(stream)
        if host is None:
            return None
        if self._deny is not None and host in self._deny:
            return "deny"
        if self._allow is not None and host not in self._allow:
            return "allow"
        if self._hosts is not None and not self._hosts.enter(stream, host):
            return "max_connections_per_host"
        return None

    def leave(self, stream: StreamSocket) -> None:
        """*stream* is gone for good."""
        if self._hosts is not None:
            self._hosts.leave(stream)


class TokenBucket:
    """So many connections a second, with one second's worth at once.

    Args:
      rate: connections a second.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        # A rate below one a second still has to let one pass.
        self._most = max(rate, 1.0)
        self._tokens = self._most
        self._filled = trio.current_time()

    def _fill(self) -> None:
        now = trio.current_time()
        self._tokens = min(self._most, self._tokens + (now - self._filled) * self._rate)
        self._filled = now

    def available(self) -> float:
        """How many may pass now, with a fraction; below 1 none may."""
        self._fill()
        return self._tokens

    def take(self) -> None:
        """One has passed."""
        self._tokens -= 1

    async def wait(self) -> None:
        """Wait until one may pass. A checkpoint."""
        # A hair more: rounding must not leave a billionth of a token to be waited for.
        await trio.sleep(max(0.0, 1 - self._tokens) / self._rate + 1e-6)


class Gate:
    """How much room there is: ``max_connections`` and ``accept_rate``.

    Args:
      most: ``max_connections``, or None.
      rate: ``accept_rate``, or None.
      overload: whether what finds no room waits in the kernel's queue or is refused.
      taken: tells how many connections there are, lingering ones included.
      freed: is unparked whenever there is one fewer.
    """

    def __init__(
        self,
        most: int | None,
        rate: float | None,
        overload: Overload,
        taken: Callable[[], int],
        freed: ParkingLot,
    ) -> None:
        self._most = math.inf if most is None else most
        self._bucket = None if rate is None or rate == math.inf else TokenBucket(rate)
        self._taken = taken
        self._freed = freed
        self._rejects = overload == "reject"
        # Taken from a queue that was about to close: they wait here for their turn instead.
        self._held: set[StreamSocket] = set()
        self._turns = ParkingLot()

    @classmethod
    def of(
        cls,
        most: int | None,
        rate: float | None,
        overload: Overload,
        taken: Callable[[], int],
        freed: ParkingLot,
    ) -> Gate | None:
        """One for these; None if there is nothing to keep."""
        if most is None and rate in (None, math.inf):
            return None
        return cls(most, rate, overload, taken, freed)

    def room(self) -> float:
        """How many connections may be taken from the kernel now; none if below 1."""
        return math.inf if self._rejects else self._space()

    def _space(self) -> float:
        space = self._most - self._taken() + len(self._held)
        return space if self._bucket is None else min(space, self._bucket.available())

    def refusal(self, stream: StreamSocket) -> str | None:
        """The argument for which *stream* is one too many; None, and it counts, if none is.

        Where nothing is rejected it is held instead, if it comes from a queue that closes.
        """
        if self._most - self._taken() < 1:
            if self._rejects:
                return "max_connections"
            self._held.add(stream)
        if self._bucket is not None:
            if self._rejects and self._bucket.available() < 1:
                return "accept_rate"
            self._bucket.take()
        return None

    async def wait(self) -> None:
        """Wait until there may be room; look again after. A checkpoint."""
        if self._bucket is not None and self._bucket.available() < 1:
            await self._bucket.wait()
        else:
            await self._freed.park()

    async def turn(self, stream: StreamSocket) -> None:
        """Wait, if *stream* is held, until another one's place is free."""
        if stream not in self._held:
            return
        try:
            while self._most - self._taken() + len(self._held) < 1:
                await self._turns.park()
        finally:
            self._held.discard(stream)

    def leave(self) -> None:
        """A connection is gone."""
        self._turns.unpark()
