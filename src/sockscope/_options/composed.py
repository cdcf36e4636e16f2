"""Values that are set or read by several options of the kernel's, or by an odd struct."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import struct
import sys
from dataclasses import replace
from typing import Any

from sockscope._options import kinds
from sockscope._options.codec import BOOL, Bytes, Codec, Int, Raw, Seconds, as_bytes
from sockscope._options.codec_struct import MD5_KEY, Network
from sockscope._options.kernel import NOT_APPLIED, Stage, scratch_socket, stage_of
from sockscope._options.model import Option, RawSocket, Step, Target
from sockscope._options.value_types import DeadPeer, KeepAlive, PeerCredentials, parse_tcp_info

# keepalive and dead_peer ------------------------------------------------------------

KEEPALIVE = Target("SO_KEEPALIVE", 9, kinds.INTERNET | kinds.LOCAL)
_TIMER = Seconds(1, 1, 32767)
KEEPALIVE_OF_TCP = replace(KEEPALIVE, kinds=kinds.TCP)
# macOS calls it TCP_KEEPALIVE, which is no other name on any other system.
KEEPALIVE_IDLE = Target(
    "TCP_KEEPALIVE" if hasattr(socket, "TCP_KEEPALIVE") else "TCP_KEEPIDLE",
    4,
    kinds.TCP,
    codec=_TIMER,
)
KEEPALIVE_INTERVAL = Target("TCP_KEEPINTVL", 5, kinds.TCP, codec=_TIMER)
KEEPALIVE_COUNT = Target("TCP_KEEPCNT", 6, kinds.TCP, codec=Int(1, 127))
USER_TIMEOUT = Target("TCP_USER_TIMEOUT", 18, kinds.TCP, codec=Seconds(1000, 0, 2147483))
KEEPALIVE_TIMERS = (KEEPALIVE_IDLE, KEEPALIVE_INTERVAL, KEEPALIVE_COUNT)


def _step(target: Target, value: Any) -> Step:
    codec: Codec[Any] = target.codec or BOOL
    return Step(target, codec, codec.pack(value))


def expand_keepalive(option: Option, value: KeepAlive | bool, kind: str) -> list[Step]:
    """The timing first, so that the first probe keeps to it."""
    if isinstance(value, bool):
        return [_step(KEEPALIVE, value)]
    parts = zip(KEEPALIVE_TIMERS, (value.idle, value.interval, value.count), strict=True)
    return [_step(t, part) for t, part in parts if part is not None] + [_step(KEEPALIVE, True)]


def gather_keepalive(option: Option, sock: RawSocket, kind: str) -> KeepAlive | bool:
    """False, or on TCP the timing; True elsewhere."""
    on = BOOL.unpack(KEEPALIVE.read(sock, BOOL))
    if not on or kind not in kinds.TCP:
        return on
    return KeepAlive(*_timing(sock))


def brief_keepalive(value: KeepAlive | bool, kind: str) -> KeepAlive | bool:
    """True for the system's own timing, so that what was switched on reads so."""
    if isinstance(value, bool):
        return value
    with scratch_socket(kind) as fresh:
        return True if value == KeepAlive(*_timing(fresh)) else value


def _timing(sock: RawSocket) -> list[int]:
    return [int(_TIMER.unpack(t.read(sock, _TIMER))) for t in KEEPALIVE_TIMERS]


def expand_dead_peer(option: Option, value: DeadPeer, kind: str) -> list[Step]:
    """Keepalive with its timing, and the user timeout in step with it."""
    idle, interval, count, user_timeout = value.timers
    steps = expand_keepalive(option, KeepAlive(idle, interval, count), kind)
    return [*steps, _step(USER_TIMEOUT, user_timeout)]


def gather_dead_peer(option: Option, sock: RawSocket, kind: str) -> DeadPeer | None:
    """The one that makes the timers which the socket has; None if none does."""
    if not BOOL.unpack(KEEPALIVE.read(sock, BOOL)):
        return None
    idle, interval, count = _timing(sock)
    codec = USER_TIMEOUT.codec or BOOL
    user_timeout = codec.unpack(USER_TIMEOUT.read(sock, codec))
    total = idle + interval * count
    if not 2 <= total <= 32767 or user_timeout == 0:
        return None
    found = DeadPeer(float(total))
    return found if found.timers == (idle, interval, count, user_timeout) else None


# max_segment ------------------------------------------------------------------------

TCP_INFO = 11 if sys.platform == "linux" else None
_INFO_SIZE = 256
_CLOSED, _LISTENING = 7, 10
_WITH_TIMESTAMPS, _SIZE_OF_TIMESTAMPS = 1, 12


def judge_max_segment(value: int, effective: int, sock: RawSocket) -> tuple[bool, str | None]:
    """By what the connection offered its peer: what is read is the least of many sizes.

    Unconnected, the option itself is read. Then it is the size of what is sent, which the
    peer, the path and the window bound, too; TCP_INFO has the size that was offered.
    """
    offered = _offered_segment(sock)
    if offered is None:
        if value != effective:
            return False, NOT_APPLIED
        return True, "unset, it reads 536, too" if value == _UNSET_SEGMENT else None
    if offered > value:
        return False, f"{NOT_APPLIED}: the connection offered {offered}"
    if offered < value:
        return True, f"the path takes no more than {offered}"
    return True, "connected, it is the size in use (12 less with timestamps)"


_UNSET_SEGMENT = 536


def _offered_segment(sock: RawSocket) -> int | None:
    """The size that *sock* offered its peer; None if it has none."""
    if TCP_INFO is None:
        # As much as is known: it offered no less than it uses.
        if stage_of(sock) is not Stage.CONNECTED:
            return None
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
    info = parse_tcp_info(sock.getsockopt(socket.IPPROTO_TCP, TCP_INFO, _INFO_SIZE))
    if info.state in (_CLOSED, _LISTENING):
        return None
    return info.advmss + (_SIZE_OF_TIMESTAMPS if info.options & _WITH_TIMESTAMPS else 0)


# mptcp ------------------------------------------------------------------------------

MPTCP = 262
PROTOCOL = Target("SO_PROTOCOL", 38, kinds.TCP)
_PROTOCOL_NUMBER = Int(0, 65535)


def expand_nothing(option: Option, value: Any, kind: str) -> list[Step]:
    """A protocol is chosen when the socket is made; no call changes it."""
    return []


def gather_mptcp(option: Option, sock: RawSocket, kind: str) -> bool:
    """Whether the socket was made with the protocol."""
    return _PROTOCOL_NUMBER.unpack(PROTOCOL.read(sock, _PROTOCOL_NUMBER)) == MPTCP


# multicast_interface ----------------------------------------------------------------

MULTICAST_INTERFACE4 = Target(
    "IP_MULTICAST_IF",
    32,
    kinds.DATAGRAM & kinds.INTERNET4,
    mapped=True,
    readable=False,
)
MULTICAST_INTERFACE6 = Target("IPV6_MULTICAST_IF", 17, kinds.DATAGRAM & kinds.INTERNET6)


def _index_of(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as exc:
        # Python 3.13 gives this error no number.
        raise OSError(errno.ENODEV, f"there is no interface {name!r}") from exc


def expand_multicast_interface(option: Option, value: int | str, kind: str) -> list[Step]:
    """By index for both families: names change, and an interface has several addresses."""
    index = _index_of(value) if isinstance(value, str) else value
    steps = []
    for target in option.targets_for(kind):
        # struct ip_mreqn: group, address, index.
        raw = index if target is MULTICAST_INTERFACE6 else struct.pack("=4s4si", b"", b"", index)
        steps.append(Step(target, option.codec, raw))
    return steps


# tcp_md5_key and tcp_md5_keys -------------------------------------------------------

MD5 = Target("TCP_MD5SIG_EXT", 32, kinds.TCP, readable=False)
_MD5SIG = struct.Struct("=128sBBHi80s")  # struct tcp_md5sig of linux/tcp.h
_FLAG_PREFIX = 1
_MAPPED = ipaddress.IPv6Address("::ffff:0.0.0.0")
_ANY4, _ANY6 = ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0")


def _md5_step(option: Option, network: Network, key: bytes, kind: str) -> Step:
    """The key for *network*; the socket's family decides how an IPv4 one is written."""
    packed = network.network_address.packed
    if kind == kinds.TCP6:
        if network.version == 4:
            packed = _MAPPED.packed[:12] + packed
        address = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, packed, 0)
    else:
        address = struct.pack("=HH4s", socket.AF_INET, 0, packed)
    raw = _MD5SIG.pack(address, _FLAG_PREFIX, network.prefixlen, len(key), 0, key)
    return Step(MD5, MD5_STRUCT, raw)


MD5_STRUCT = Bytes([_MD5SIG.size], "struct tcp_md5sig")


def expand_md5_key(option: Option, value: bytes, kind: str) -> list[Step]:
    """One key for whoever is at the other end."""
    networks = [_ANY6, _ANY4] if kind == kinds.TCP6 else [_ANY4]
    return [
        _md5_step(option, network, MD5_KEY.check(option.name, value), kind) for network in networks
    ]


def expand_md5_keys(option: Option, value: Any, kind: str) -> list[Step]:
    """A key a network. Peers of IPv6 cannot reach a socket of IPv4: theirs are left out there."""
    return [
        _md5_step(option, network, key, kind)
        for network, key in value.items()
        if kind == kinds.TCP6 or network.version == 4
    ]


# peer_credentials -------------------------------------------------------------------

PEER_CREDENTIALS = Target("SO_PEERCRED", 17, kinds.LOCAL)
PEER_GROUPS = Target("SO_PEERGROUPS", 59, kinds.LOCAL)
PEER_SECURITY = Target("SO_PEERSEC", 31, kinds.LOCAL)
_UCRED = struct.Struct("=iII")
_NOBODY = 2**32 - 1
UCRED = Bytes([_UCRED.size], "struct ucred")
# Python reads no more than 1024 bytes: 256 groups.
GROUPS = Bytes([1024], "groups")
LABEL = Bytes([1024], "label")


def unpack_groups(raw: Raw) -> tuple[int, ...]:
    """The array of gid_t that SO_PEERGROUPS gives."""
    raw = as_bytes(raw)
    return struct.unpack(f"={len(raw) // 4}I", raw)


def gather_peer_credentials(option: Option, sock: RawSocket, kind: str) -> PeerCredentials:
    """From three options, of which kernels without a security module lack the last."""
    pid, uid, gid = _UCRED.unpack(as_bytes(PEER_CREDENTIALS.read(sock, UCRED)))
    if uid == _NOBODY and pid == 0:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return PeerCredentials(
        pid, uid, gid, unpack_groups(PEER_GROUPS.read(sock, GROUPS)), _label(sock)
    )


def _label(sock: RawSocket) -> str | None:
    try:
        raw = as_bytes(PEER_SECURITY.read(sock, LABEL))
    except OSError:
        return None  # no security module, or one that labels no sockets
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape") or None
