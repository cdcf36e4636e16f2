"""The option table, second part: TCP and UDP (tcp(7), udp(7)).

The order of the rows is the order in which they are set.
"""

# Annotations are the table's data: they must be objects, not text.

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated

from sockscope._options import kinds
from sockscope._options.codec import BOOL, INT_MAX, Bytes, Int, Seconds, Text
from sockscope._options.codec_struct import MD5_KEY, MD5Keys
from sockscope._options.composed import (
    MD5,
    PROTOCOL,
    USER_TIMEOUT,
    expand_md5_key,
    expand_md5_keys,
    expand_nothing,
    gather_mptcp,
    judge_max_segment,
)
from sockscope._options.model import Option, Phase, Target
from sockscope._options.table_ip import IPOptions

_LISTENERS = "it is the listening socket's own"
_UDP4, _UDP6 = frozenset({kinds.UDP4}), frozenset({kinds.UDP6})


def _tcp(constant: str, number: int | None) -> tuple[Target, ...]:
    return (Target(constant, number, kinds.TCP),)


def _udp(constant: str, number: int, of: frozenset[str] = kinds.UDP) -> tuple[Target, ...]:
    return (Target(constant, number, of),)


@dataclass(frozen=True, kw_only=True, slots=True, init=False, repr=False, eq=False)
class TransportOptions(IPOptions):
    """The fields for TCP and UDP."""

    mptcp: Annotated[
        bool | None,
        Option(
            "Make the socket one of Multipath TCP, which falls back to TCP with a peer that has "
            "none. Many other options do not work on it, or are silently ignored.",
            BOOL,
            (PROTOCOL,),  # not an option but the protocol
            phase=Phase.CREATION,
            expand=expand_nothing,
            gather=gather_mptcp,
            copied=False,  # nothing can make one socket like the other
            platforms="Linux 5.6",
        ),
    ] = None
    nodelay: Annotated[
        bool | None,
        Option(
            "Send small segments at once (no Nagle). Streams of sockscope have it on.",
            BOOL,
            _tcp("TCP_NODELAY", 1),
            platforms="all",
        ),
    ] = None
    cork: Annotated[
        bool | None,
        Option(
            "Hold back what does not fill a segment or datagram until it is taken off. On TCP "
            "for one retransmission time-out at most (0.2 s to 1.8 s): never leave it on and wait.",
            BOOL,
            _tcp("TCP_CORK", 3) + _udp("UDP_CORK", 1),
        ),
    ] = None
    no_push: Annotated[
        bool | None,
        Option("BSD's and macOS's cork.", BOOL, _tcp("TCP_NOPUSH", None), platforms="BSD, macOS"),
    ] = None
    no_options: Annotated[
        bool | None,
        Option(
            "Send no TCP options.",
            BOOL,
            _tcp("TCP_NOOPT", None),
            phase=Phase.HANDSHAKE,
            platforms="BSD, macOS",
        ),
    ] = None
    max_segment: Annotated[
        int | None,
        Option(
            "The largest segment to offer the peer.",
            Int(88, 32767, "bytes"),
            _tcp("TCP_MAXSEG", 2),
            phase=Phase.HANDSHAKE,
            volatile=True,
            copied=False,
            judge=judge_max_segment,
            readback="connected, it is the size in use (12 less with timestamps); unset 536",
            platforms="all but Windows",
        ),
    ] = None
    user_timeout: Annotated[
        float | None,
        Option(
            "How long sent data may stay unacknowledged before the connection fails; 0 is the "
            "system's. Bounds connecting, too, and overrides keepalive's count: see dead_peer.",
            Seconds(1000, 0, 2147483),
            (USER_TIMEOUT,),
            readback="kept in milliseconds, rounded up",
        ),
    ] = None
    syn_retries: Annotated[
        int | None,
        Option(
            "How often a connect is tried again: 1 gives up after 3 s, 2 after 7 s.",
            Int(1, 127),
            _tcp("TCP_SYNCNT", 7),
            phase=Phase.HANDSHAKE,
        ),
    ] = None
    defer_accept: Annotated[
        float | None,
        Option(
            "Hold back a new connection until its first data comes, so long at most; 0 is off. "
            "An accept timeout fires meanwhile.",
            Seconds(1, 0, 32767),
            _tcp("TCP_DEFER_ACCEPT", 9),
            child=_LISTENERS,
            inherited=kinds.NONE,
            rounds=True,
            readback="rounded up to 1, 3, 7, 15, 31, 63 s ... (kept as a number of retries)",
        ),
    ] = None
    fast_open: Annotated[
        int | None,
        Option(
            "TCP Fast Open on a listening socket: how many may wait for their handshake's end.",
            Int(0, INT_MAX),
            _tcp("TCP_FASTOPEN", 23),
            phase=Phase.HANDSHAKE,  # EINVAL on a connected one
            child=_LISTENERS,
            inherited=kinds.NONE,
            limits=("net.core.somaxconn",),
            readback="clamped, and without effect unless net.ipv4.tcp_fastopen has bit 2",
            platforms="Linux, FreeBSD, macOS, Windows",
        ),
    ] = None
    fast_open_connect: Annotated[
        bool | None,
        Option(
            "TCP Fast Open for connecting: connect returns at once, and its errors come when "
            "sending, so Happy Eyeballs cannot choose.",
            BOOL,
            _tcp("TCP_FASTOPEN_CONNECT", 30),
            phase=Phase.HANDSHAKE,
            platforms="Linux 4.11",
        ),
    ] = None
    fast_open_key: Annotated[
        bytes | None,
        Option(
            "The key of Fast Open's cookies, with a second one the key before it. Never shown.",
            Bytes((16, 32), "16 or 32 bytes"),
            _tcp("TCP_FASTOPEN_KEY", 33),
            child=_LISTENERS,
            inherited=kinds.NONE,
            secret=True,
            copied=False,  # reads the system's where the socket has none
            platforms="Linux 5.5",
        ),
    ] = None
    fast_open_no_cookie: Annotated[
        bool | None,
        Option(
            "Fast Open without a cookie, in networks where nobody forges addresses.",
            BOOL,
            _tcp("TCP_FASTOPEN_NO_COOKIE", 34),
            phase=Phase.HANDSHAKE,
            platforms="Linux 4.15",
        ),
    ] = None
    unsent_low_water: Annotated[
        int | None,
        Option(
            "Writable only while less than this is unsent, so that what is queued stays fresh; "
            "0 is the system's. It limits waiting, not send. Streams of sockscope have 16384.",
            Int(0, 2**32 - 1, "bytes"),
            _tcp("TCP_NOTSENT_LOWAT", 25),
            platforms="Linux, macOS",
        ),
    ] = None
    congestion: Annotated[
        str | None,
        Option(
            "The congestion control algorithm, such as cubic, bbr or reno.",
            Text("an algorithm's name"),
            _tcp("TCP_CONGESTION", 13),
            privilege="CAP_NET_ADMIN for those that net.ipv4.tcp_allowed_congestion_control lacks",
            platforms="Linux, FreeBSD",
        ),
    ] = None
    quick_ack: Annotated[
        bool | None,
        Option(
            "Acknowledge at once, or not. A hint: the kernel goes its own way soon after.",
            BOOL,
            _tcp("TCP_QUICKACK", 12),
            after=True,  # set before listen it is lost, after listen children inherit it
            volatile=True,
            moved="a connection switches it by what it sends and receives",
            copied=False,
            readback="tells the moment's state",
        ),
    ] = None
    window_clamp: Annotated[
        int | None,
        Option(
            "An upper limit for the window that is offered; 0 is none, before the handshake only. "
            "It does not last: a connection moves it with its receive buffer as data comes.",
            Int(0, INT_MAX, "bytes"),
            _tcp("TCP_WINDOW_CLAMP", 10),
            volatile=True,
            moved="a connection moves it with its receive buffer",
            copied=False,
            rounds=True,
            readback="at least half the smallest receive buffer (1152)",
        ),
    ] = None
    fin_wait_timeout: Annotated[
        float | None,
        Option(
            "How long a closed connection waits for the peer's end (FIN-WAIT-2); 0 is the "
            "system's.",
            Seconds(1, 0, 32767),
            _tcp("TCP_LINGER2", 8),
            rounds=True,  # 0
            readback="0 reads the system's; above 120 s is 120 s",
        ),
    ] = None
    thin_linear_timeouts: Annotated[
        bool | None,
        Option(
            "No exponential back-off on a connection that sends little.",
            BOOL,
            _tcp("TCP_THIN_LINEAR_TIMEOUTS", 16),
        ),
    ] = None
    thin_dupack: Annotated[
        bool | None,
        Option(
            "Retransmit after one duplicate acknowledgement; no longer does anything.",
            BOOL,
            _tcp("TCP_THIN_DUPACK", 17),
            ignored=kinds.TCP,
            inherited=kinds.NONE,
            readback="Linux removed the feature: it is taken, and reads off",
        ),
    ] = None
    save_syn: Annotated[
        int | None,
        Option(
            "Keep the first packet of each connection for saved_syn: 1 from the IP header on, "
            "2 with the link header.",
            Int(0, 2),
            _tcp("TCP_SAVE_SYN", 27),
            phase=Phase.HANDSHAKE,
            platforms="Linux 4.3",
        ),
    ] = None
    receive_pending: Annotated[
        bool | None,
        Option(
            "Tell with what recvmsg receives how many bytes are left.",
            BOOL,
            (
                *_tcp("TCP_INQ", 36),
                Target("SO_INQ", 84, frozenset({kinds.LOCAL_STREAM}), readable=False),
            ),
            readback="the system does not give it back on local sockets",
            platforms="Linux 4.18; local sockets: Linux 6.17",
        ),
    ] = None
    transmit_delay: Annotated[
        float | None,
        Option(
            "Delay what is sent. Needs the queueing discipline fq: without it nothing is delayed, "
            "yet TCP_INFO's times are off.",
            Seconds(1_000_000, 0, 2147),
            _tcp("TCP_TX_DELAY", 37),
            platforms="Linux 5.3",
        ),
    ] = None
    rto_max: Annotated[
        float | None,
        Option(
            "The longest retransmission time-out.",
            Seconds(1000, 1, 120),
            _tcp("TCP_RTO_MAX_MS", 44),
            platforms="Linux 6.15",
        ),
    ] = None
    rto_min: Annotated[
        float | None,
        Option(
            "The shortest retransmission time-out.",
            Seconds(1_000_000, 0.004001, 0.2),
            _tcp("TCP_RTO_MIN_US", 45),
            rounds=True,
            readback="rounded up to the kernel's tick",
            platforms="Linux 6.15",
        ),
    ] = None
    delayed_ack_max: Annotated[
        float | None,
        Option(
            "How long an acknowledgement may be put off.",
            Seconds(1_000_000, 0.004001, 0.2),
            _tcp("TCP_DELACK_MAX_US", 46),
            rounds=True,
            readback="rounded up to the kernel's tick",
            platforms="Linux 6.15",
        ),
    ] = None
    tcp_md5_key: Annotated[
        bytes | None,
        Option(
            "Sign every segment with this key (RFC 2385), whoever the peer is; a peer with "
            "another key, or none, is not heard: connecting times out. Never shown.",
            MD5_KEY,
            (MD5,),
            phase=Phase.HANDSHAKE,
            expand=expand_md5_key,
            secret=True,
            readback="the system never gives a key back",
            platforms="Linux 4.13",
        ),
    ] = None
    tcp_md5_keys: Annotated[
        Mapping[
            str | IPv4Address | IPv6Address | IPv4Network | IPv6Network,
            bytes,
        ]
        | None,
        Option(
            "A key for each address or network of peers, as tcp_md5_key; the longest prefix "
            "decides, and peers that none matches are served unsigned. Never shown.",
            MD5Keys(),
            (MD5,),
            phase=Phase.HANDSHAKE,
            expand=expand_md5_keys,
            secret=True,
            readback="the system never gives a key back",
            platforms="Linux 4.13",
        ),
    ] = None
    repair: Annotated[
        bool | None,
        Option(
            "Checkpoint and restore: the connection's state can be read and written.",
            BOOL,
            _tcp("TCP_REPAIR", 19),
            privilege="CAP_NET_ADMIN",
        ),
    ] = None
    upper_layer: Annotated[
        str | None,
        Option(
            "The protocol in the kernel above a connection, such as tls.",
            Text("a protocol's name"),
            _tcp("TCP_ULP", 31),
            after=True,  # connections only
            inherited=kinds.NONE,
            copied=False,
            platforms="Linux 4.13",
            untested="needs the kernel's module tls",
        ),
    ] = None
    gso_segment_size: Annotated[
        int | None,
        Option(
            "Cut each send into datagrams of this size, 0 is off. Better said with each call "
            "(send_many does): left on, it cuts every send.",
            Int(0, 65535, "bytes"),
            _udp("UDP_SEGMENT", 103),
            inherited=kinds.NONE,
            platforms="Linux 4.18",
        ),
    ] = None
    gro: Annotated[
        bool | None,
        Option(
            "Receive several datagrams of one sender as one. Needs room for 65535 bytes each "
            "time: what does not fit is lost.",
            BOOL,
            _udp("UDP_GRO", 104),
            inherited=kinds.NONE,
            platforms="Linux 5.0",
        ),
    ] = None
    no_checksum: Annotated[
        bool | None,
        Option(
            "Send datagrams without a checksum.",
            BOOL,
            (Target("SO_NO_CHECK", 11, _UDP4, mapped=True), *_udp("UDP_NO_CHECK6_TX", 101, _UDP6)),
            inherited=kinds.NONE,
        ),
    ] = None
