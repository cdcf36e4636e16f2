"""Typed values of options: what users write, and what the read-only rows give back."""

from __future__ import annotations

import enum
import math
import struct
from dataclasses import dataclass, fields
from itertools import accumulate
from typing import NamedTuple

_MAX_TIMER = 32767  # seconds: MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL of tcp(7)
_MAX_PROBES = 127  # MAX_TCP_KEEPCNT
_MAX_LINGER = 65535  # Windows keeps it in a u_short
# While data is unacknowledged, the user timeout fires up to 0.45 s late (measured on
# Linux 6.18 for 2 s and 4 s alike): so much sooner must it be set.
_USER_TIMEOUT_LATENESS = 0.5
_MAX_DEAD_PEER_PROBES = 3


def _seconds(name: str, value: object, minimum: float, maximum: float) -> None:
    """Refuse all but a number of seconds in [minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not minimum <= value <= maximum:  # NaN, too, is caught by this order
        raise ValueError(f"{name} must be {minimum:g} to {maximum:g} seconds, not {value!r}")


@dataclass(frozen=True)
class KeepAlive:
    """Probes on an idle connection, so that a vanished peer is found (SO_KEEPALIVE, tcp(7)).

    Args:
      idle: seconds without traffic before the first probe (TCP_KEEPIDLE), 1 to 32767.
      interval: seconds between probes (TCP_KEEPINTVL), 1 to 32767.
      count: unanswered probes after which the connection is dead (TCP_KEEPCNT), 1 to 127.

    None leaves the system's. Fractions of a second are rounded up, never down to nothing.
    A user timeout overrides *count*, and nothing is probed while sent data is
    unacknowledged: `DeadPeer` sets all of them in step.
    """

    idle: float | None = None
    interval: float | None = None
    count: int | None = None

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name in ("idle", "interval"):
            value = getattr(self, name)
            if value is not None:
                _seconds(f"KeepAlive.{name}", value, 1, _MAX_TIMER)
        if self.count is None:
            return
        if isinstance(self.count, bool) or not isinstance(self.count, int):
            raise TypeError(f"KeepAlive.count must be an int, not {type(self.count).__name__}")
        if not 1 <= self.count <= _MAX_PROBES:
            raise ValueError(f"KeepAlive.count must be 1 to {_MAX_PROBES}, not {self.count}")


@dataclass(frozen=True)
class Linger:
    """What closing does with data that is not sent yet (SO_LINGER, socket(7)).

    Args:
      seconds: how long closing waits for it, 0 to 65535; 0 resets the connection.

    The kernel counts whole seconds: fractions are rounded up. Streams of sockscope wait by
    Trio's clock, as the kernel's own wait would stop the event loop.
    """

    seconds: float

    def __post_init__(self) -> None:
        """Check the range: Linux accepts a negative time and stores nonsense."""
        _seconds("Linger.seconds", self.seconds, 0, _MAX_LINGER)


class DeadPeerTimers(NamedTuple):
    """The kernel's timers that `DeadPeer` stands for: seconds, and a number of probes."""

    idle: int
    interval: int
    probes: int
    user_timeout: float


@dataclass(frozen=True)
class DeadPeer:
    """Find a peer that vanished, whether the connection is idle or sending.

    Args:
      detect_within: seconds until the connection fails with ETIMEDOUT, 2 to 32767 (the
        kernel's timers count whole seconds: one of silence, one for a probe).

    Sets keepalive's idle, interval and count and the user timeout together; set one by one
    they override each other.

    Example::

        SocketOptions(dead_peer=DeadPeer(detect_within=30.0))
    """

    detect_within: float

    def __post_init__(self) -> None:
        """Check the range."""
        _seconds("DeadPeer.detect_within", self.detect_within, 2, _MAX_TIMER)

    @property
    def timers(self) -> DeadPeerTimers:
        """The timers that find a dead peer in time.

        With a user timeout set the kernel no longer counts probes: the connection dies at
        the first probe time that is not before it. So it is put between the last two
        probe times, and the last one within *detect_within*.
        """
        whole = math.floor(self.detect_within)
        count = min(_MAX_DEAD_PEER_PROBES, whole - 1)
        interval = max(1, whole // 6)
        return DeadPeerTimers(
            idle=whole - count * interval,
            interval=interval,
            probes=count,
            user_timeout=whole - _USER_TIMEOUT_LATENESS,
        )


@dataclass(frozen=True)
class TransmitTime:
    """How each datagram's time of sending is read (SO_TXTIME, Linux 4.19).

    Args:
      clock_id: a ``time.CLOCK_*`` number; CLOCK_TAI (11) needs CAP_NET_ADMIN.
      flags: 1 for deadline mode, 2 to report errors on the error queue.
    """

    clock_id: int
    flags: int = 0

    def __post_init__(self) -> None:
        """Check the types."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(
                    f"TransmitTime.{field.name} must be an int, not {type(value).__name__}"
                )
            if not 0 <= value < 2**31:
                raise ValueError(f"TransmitTime.{field.name} must be 0 to 2**31 - 1, not {value}")


class PathMTUDiscovery(enum.IntEnum):
    """Whether packets may be fragmented (IP_MTU_DISCOVER, ip(7))."""

    DONT = 0
    """Fragment where needed, never set "don't fragment"."""
    WANT = 1
    """Discover the path's MTU, fragment what is larger (what sockets of Linux do)."""
    DO = 2
    """Never fragment: what is larger than the path's MTU fails with EMSGSIZE."""
    PROBE = 3
    """Never fragment, and ignore the path's MTU (for programs that probe it themselves)."""
    INTERFACE = 4
    """Use the interface's MTU, and trust no ICMP (against forged ones)."""
    OMIT = 5
    """As INTERFACE, but fragment what is larger than the interface's MTU."""


class BufferLock(enum.IntFlag):
    """Which buffer sizes were fixed, and so are no longer tuned by the kernel (SO_BUF_LOCK)."""

    SEND = 1
    RECEIVE = 2


class PeerCredentials(NamedTuple):
    """Who is at the other end of a local connection (SO_PEERCRED, unix(7)).

    They are those of the moment of connect (or listen, seen from the client).
    """

    pid: int
    """The process."""
    uid: int
    """Its effective user."""
    gid: int
    """Its effective group."""
    groups: tuple[int, ...]
    """Its further groups (SO_PEERGROUPS, Linux 4.13)."""
    label: str | None
    """Its security label (SO_PEERSEC); None where no security module gives one."""


class MemoryInfo(NamedTuple):
    """A socket's memory in bytes, and its drops (SO_MEMINFO, Linux 4.12)."""

    receive_allocated: int
    receive_buffer: int
    send_allocated: int
    send_buffer: int
    forward_allocated: int
    send_queued: int
    option_memory: int
    backlog: int
    dropped: int
    """Packets that found no room."""


class TcpInfo(NamedTuple):
    """What the kernel knows of a connection (TCP_INFO, ``linux/tcp.h``; names as there).

    Times are microseconds (``rto``, ``ato``, ``rtt``, ``rttvar``, ``rcv_rtt``, ``min_rtt``,
    ``busy_time`` ...) or milliseconds (``last_*``, ``total_rto_time``), rates bytes a second.
    A field that this kernel does not have is None. On a listening socket ``unacked`` is the
    length of the accept queue and ``sacked`` the backlog in effect.
    """

    state: int
    ca_state: int
    retransmits: int
    probes: int
    backoff: int
    options: int
    window_scales: int
    """Four bits each: the receiver's, then the sender's (the lower ones)."""
    flags: int
    rto: int
    ato: int
    snd_mss: int
    rcv_mss: int
    unacked: int
    sacked: int
    lost: int
    retrans: int
    fackets: int
    last_data_sent: int
    last_ack_sent: int
    last_data_recv: int
    last_ack_recv: int
    pmtu: int
    rcv_ssthresh: int
    rtt: int
    rttvar: int
    snd_ssthresh: int
    snd_cwnd: int
    advmss: int
    reordering: int
    rcv_rtt: int
    rcv_space: int
    total_retrans: int
    pacing_rate: int | None = None
    max_pacing_rate: int | None = None
    bytes_acked: int | None = None
    bytes_received: int | None = None
    segs_out: int | None = None
    segs_in: int | None = None
    notsent_bytes: int | None = None
    min_rtt: int | None = None
    data_segs_in: int | None = None
    data_segs_out: int | None = None
    delivery_rate: int | None = None
    busy_time: int | None = None
    rwnd_limited: int | None = None
    sndbuf_limited: int | None = None
    delivered: int | None = None
    delivered_ce: int | None = None
    bytes_sent: int | None = None
    bytes_retrans: int | None = None
    dsack_dups: int | None = None
    reord_seen: int | None = None
    rcv_ooopack: int | None = None
    snd_wnd: int | None = None
    rcv_wnd: int | None = None
    rehash: int | None = None
    total_rto: int | None = None
    total_rto_recoveries: int | None = None
    total_rto_time: int | None = None
    received_ce: int | None = None
    delivered_e1_bytes: int | None = None
    delivered_e0_bytes: int | None = None
    delivered_ce_bytes: int | None = None
    received_e1_bytes: int | None = None
    received_e0_bytes: int | None = None
    received_ce_bytes: int | None = None
    accecn_fail_mode: int | None = None
    accecn_opt_seen: int | None = None


# One format letter a field; "=" as the kernel's struct has no padding between them.
_TCP_INFO_LETTERS = "B" * 8 + "I" * 24 + "QQQQ" + "I" * 6 + "QQQQ" + "II" + "QQ" + "I" * 6
_TCP_INFO_LETTERS += "HHI" + "I" * 7 + "HH"
_TCP_INFO = struct.Struct("=" + _TCP_INFO_LETTERS)
_TCP_INFO_ENDS = tuple(accumulate(struct.calcsize("=" + letter) for letter in _TCP_INFO_LETTERS))


def parse_tcp_info(raw: bytes) -> TcpInfo:
    """The kernel's ``struct tcp_info``, of which older kernels give less and newer ones more."""
    size = _TCP_INFO.size
    values = _TCP_INFO.unpack(raw[:size].ljust(size, b"\0"))
    if len(raw) >= size:
        return TcpInfo._make(values)
    return TcpInfo(*(v for v, end in zip(values, _TCP_INFO_ENDS, strict=True) if end <= len(raw)))


_MEMORY_INFO = struct.Struct("=9I")


def parse_memory_info(raw: bytes) -> MemoryInfo:
    """The nine counters of SO_MEMINFO."""
    size = _MEMORY_INFO.size
    return MemoryInfo._make(_MEMORY_INFO.unpack(raw[:size].ljust(size, b"\0")))


class ExtendedError(NamedTuple):
    """An entry of a socket's error queue (``struct sock_extended_err``, ip(7))."""

    errno: int
    origin: int
    """1 local, 2 ICMP, 3 ICMPv6, 4 transmit timestamps, 5 zero copy."""
    type: int
    code: int
    info: int
    """With EMSGSIZE the path's MTU."""
    data: int


_EXTENDED_ERROR = struct.Struct("=IBBBxII")


def parse_extended_error(raw: bytes) -> tuple[ExtendedError, bytes]:
    """An entry, and the ``sockaddr`` of the offender behind it (a part of what IP_RECVERR brings).

    Raises:
      struct.error: *raw* is shorter than an entry.
    """
    return ExtendedError(*_EXTENDED_ERROR.unpack_from(raw)), raw[_EXTENDED_ERROR.size :]
