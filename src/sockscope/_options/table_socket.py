"""The option table, third part: level SOL_SOCKET (socket(7), unix(7)).

The order of the rows is the order in which they are set.
"""

# Annotations are the table's data: they must be objects, not text.

from dataclasses import dataclass
from typing import Annotated

from sockscope._options import kinds
from sockscope._options.codec import BOOL, INT_MAX, BufferSize, Flags, Int, Text, Timeout
from sockscope._options.codec_struct import (
    DeadPeerCodec,
    KeepAliveCodec,
    LingerCodec,
    TransmitTimeCodec,
)
from sockscope._options.composed import (
    KEEPALIVE,
    KEEPALIVE_OF_TCP,
    KEEPALIVE_TIMERS,
    USER_TIMEOUT,
    brief_keepalive,
    expand_dead_peer,
    expand_keepalive,
    gather_dead_peer,
    gather_keepalive,
)
from sockscope._options.model import Option, Phase, Target
from sockscope._options.table_transport import TransportOptions
from sockscope._options.value_types import BufferLock, DeadPeer, KeepAlive, Linger, TransmitTime

_CONFINES = "it is bound with its listening socket, and changing the device needs privilege"
# The kernel doubles what it is given, in an int.
_MAX_BUFFER = 2**30 - 1


def _sol(constant: str, number: int | None, of: frozenset[str] = kinds.ALL) -> tuple[Target, ...]:
    return (Target(constant, number, of),)


@dataclass(frozen=True, kw_only=True, slots=True, init=False, repr=False, eq=False)
class SocketLevelOptions(TransportOptions):
    """The fields for the level SOL_SOCKET."""

    reuse_address: Annotated[
        bool | None,
        Option(
            "Bind although connections of an earlier program linger at the port. Passive "
            "sockets have it on. On datagram sockets it lets another program take the port over.",
            BOOL,
            _sol("SO_REUSEADDR", 2),
            phase=Phase.BIND,
            ignored=kinds.LOCAL,
            platforms="all; on Windows it lets any program take the port over",
        ),
    ] = None
    exclusive_address_use: Annotated[
        bool | None,
        Option(
            "No other program may bind to the port. Passive sockets have it on.",
            BOOL,
            _sol("SO_EXCLUSIVEADDRUSE", None, kinds.INTERNET),
            phase=Phase.BIND,
            excludes=frozenset({"reuse_address"}),
            platforms="Windows",
        ),
    ] = None
    reuse_port: Annotated[
        bool | None,
        Option(
            "Several sockets of one user share the port, and Linux spreads connections and "
            "datagrams over them. All of them must state it. Closing one resets what waits in "
            "its queue, unless net.ipv4.tcp_migrate_req is on.",
            BOOL,
            _sol("SO_REUSEPORT", 15, kinds.INTERNET),
            phase=Phase.BIND,
            platforms="Linux 3.9, BSD and macOS (without spreading)",
        ),
    ] = None
    bind_to_device: Annotated[
        str | None,
        Option(
            "Send and receive through this interface only; an empty name takes it back.",
            Text("an interface's name", minimum=0),
            _sol("SO_BINDTODEVICE", 25),
            ignored=kinds.LOCAL,
            child=_CONFINES,
            privilege="CAP_NET_RAW to change it once it is set",
        ),
    ] = None
    bind_to_interface_index: Annotated[
        int | None,
        Option(
            "As bind_to_device, by index: proof against renaming; 0 is any. An index that is not "
            "there is found out only when connecting.",
            Int(0, INT_MAX),
            _sol("SO_BINDTOIFINDEX", 62),
            ignored=kinds.LOCAL,
            child=_CONFINES,
            copied=False,  # bind_to_device is the same, and is copied
            privilege="CAP_NET_RAW to change it once it is set",
            platforms="Linux 5.0",
        ),
    ] = None
    send_buffer: Annotated[
        int | None,
        Option(
            "Room for what is sent. Fixes it: the kernel no longer tunes it. Above the system's "
            "limit it is forced where the process may.",
            BufferSize(0, _MAX_BUFFER, "bytes"),
            _sol("SO_SNDBUF", 7),
            force=Target("SO_SNDBUFFORCE", 32, kinds.ALL),
            limits=("net.core.wmem_max",),
            volatile=True,  # tuning may reach the same figure without fixing it
            rounds=True,
            readback="Linux doubles it, for its own overhead; at least 4608",
            platforms="all",
        ),
    ] = None
    receive_buffer: Annotated[
        int | None,
        Option(
            "Room for what is received. Fixes it: the kernel no longer tunes it. Set on a "
            "listening or not yet connected socket it also sets the window's scale. Above the "
            "system's limit it is forced where the process may.",
            BufferSize(0, _MAX_BUFFER, "bytes"),
            _sol("SO_RCVBUF", 8),
            force=Target("SO_RCVBUFFORCE", 33, kinds.ALL),
            limits=("net.core.rmem_max",),
            volatile=True,
            rounds=True,
            readback="Linux doubles it, for its own overhead; at least 2304",
            platforms="all",
        ),
    ] = None
    # After the buffers: setting one locks it, writing 0 hands it back.
    buffer_lock: Annotated[
        BufferLock | None,
        Option(
            "Which buffers keep their size; BufferLock(0) hands both back to the kernel's tuning.",
            Flags(BufferLock),
            _sol("SO_BUF_LOCK", 72),
            platforms="Linux 5.15",
        ),
    ] = None
    reserve_memory: Annotated[
        int | None,
        Option(
            "Memory set aside for the socket, from its control group's.",
            Int(0, INT_MAX, "bytes"),
            _sol("SO_RESERVE_MEM", 73, kinds.INTERNET),
            inherited=kinds.NONE,
            platforms="Linux 5.16",
            untested="needs a memory control group",
        ),
    ] = None
    broadcast: Annotated[
        bool | None,
        Option(
            "Allow sending to broadcast addresses (receiving needs nothing).",
            BOOL,
            _sol("SO_BROADCAST", 6),
            ignored=kinds.TCP | kinds.LOCAL,
            platforms="all",
        ),
    ] = None
    dont_route: Annotated[
        bool | None,
        Option(
            "Send to directly connected networks only, past the routing table.",
            BOOL,
            _sol("SO_DONTROUTE", 5),
            ignored=kinds.LOCAL,
            platforms="all; ignored on Windows",
        ),
    ] = None
    keepalive: Annotated[
        bool | KeepAlive | None,
        Option(
            "Probe an idle connection, so that a vanished peer is found; with KeepAlive also when "
            "and how often. See dead_peer.",
            KeepAliveCodec(),
            (KEEPALIVE, *KEEPALIVE_TIMERS),
            ignored=kinds.DATAGRAM | kinds.LOCAL,
            expand=expand_keepalive,
            gather=gather_keepalive,
            brief=brief_keepalive,
            readback="whole seconds, rounded up",
            platforms="all",
        ),
    ] = None
    dead_peer: Annotated[
        DeadPeer | None,
        Option(
            "Fail the connection within this time when the peer vanished, idle or sending: "
            "keepalive and the user timeout, set in step.",
            DeadPeerCodec(),
            (USER_TIMEOUT, KEEPALIVE_OF_TCP, *KEEPALIVE_TIMERS),
            expand=expand_dead_peer,
            gather=gather_dead_peer,
            readback="whole seconds, rounded down",
            copied=False,  # keepalive and user_timeout are
            excludes=frozenset({"keepalive", "user_timeout"}),
        ),
    ] = None
    linger: Annotated[
        Linger | bool | None,
        Option(
            "How long closing waits for unsent data; Linger(0) resets the connection, False is "
            "the system's own: close at once, go on sending.",
            LingerCodec(),
            _sol("SO_LINGER", 13),
            ignored=kinds.ALL - kinds.TCP,
            readback="whole seconds, rounded up",
            platforms="all",
        ),
    ] = None
    oob_inline: Annotated[
        bool | None,
        Option(
            "Leave urgent data in the stream.",
            BOOL,
            _sol("SO_OOBINLINE", 10),
            ignored=kinds.ALL - kinds.TCP - {kinds.LOCAL_STREAM},
            platforms="all",
        ),
    ] = None
    # After traffic_class, which overwrites it on IPv4.
    priority: Annotated[
        int | None,
        Option(
            "The priority in this machine's queues; a later traffic_class overwrites it on IPv4.",
            Int(0, INT_MAX),
            _sol("SO_PRIORITY", 12),
            moved="a later traffic_class overwrites it on IPv4",
            inherited=kinds.NONE,
            privilege="CAP_NET_ADMIN above 6",
            ignored=kinds.LOCAL,
        ),
    ] = None
    mark: Annotated[
        int | None,
        Option(
            "A mark on each packet, for routing and filters.",
            Int(0, 2**32 - 1),
            _sol("SO_MARK", 36),
            privilege="CAP_NET_ADMIN, or CAP_NET_RAW since Linux 5.17",
            ignored=kinds.LOCAL,
        ),
    ] = None
    receive_mark: Annotated[
        bool | None,
        Option(
            "Tell with each datagram its mark.",
            BOOL,
            _sol("SO_RCVMARK", 75, kinds.INTERNET),
            platforms="Linux 5.19",
        ),
    ] = None
    receive_priority: Annotated[
        bool | None,
        Option(
            "Tell with each datagram its priority.",
            BOOL,
            _sol("SO_RCVPRIORITY", 82, kinds.INTERNET),
            platforms="Linux 6.14",
        ),
    ] = None
    max_pacing_rate: Annotated[
        int | None,
        Option(
            "The highest rate to send at; 2**64 - 1 is none. Datagrams are paced by the queueing "
            "discipline fq only.",
            Int(0, 2**64 - 1, "bytes a second", size=8),
            _sol("SO_MAX_PACING_RATE", 47),
            platforms="Linux 4.20",
            ignored=kinds.LOCAL,
        ),
    ] = None
    transmit_time: Annotated[
        TransmitTime | None,
        Option(
            "Each datagram may say when it is to be sent; needs the queueing discipline fq or etf.",
            TransmitTimeCodec(),
            _sol("SO_TXTIME", 61),
            copied=False,  # reads CLOCK_REALTIME where it is off
            privilege="CAP_NET_ADMIN for CLOCK_TAI",
            platforms="Linux 4.19",
            ignored=kinds.LOCAL,
        ),
    ] = None
    busy_poll: Annotated[
        int | None,
        Option(
            "Poll the network card so long, before waiting for its interrupt.",
            Int(0, INT_MAX, "microseconds"),
            _sol("SO_BUSY_POLL", 46),
            privilege="CAP_NET_ADMIN to raise it, on older kernels",
            platforms="Linux 3.11",
            ignored=kinds.LOCAL,
        ),
    ] = None
    prefer_busy_poll: Annotated[
        bool | None,
        Option(
            "Prefer polling to interrupts.",
            BOOL,
            _sol("SO_PREFER_BUSY_POLL", 69),
            privilege="CAP_NET_ADMIN",
            platforms="Linux 5.11",
            ignored=kinds.LOCAL,
        ),
    ] = None
    busy_poll_budget: Annotated[
        int | None,
        Option(
            "How many packets one poll takes.",
            Int(0, 65535, "packets"),
            (Target("SO_BUSY_POLL_BUDGET", 70, kinds.ALL, readable=False),),
            readback="the system does not give it back",
            privilege="CAP_NET_ADMIN",
            platforms="Linux 5.11",
            ignored=kinds.LOCAL,
        ),
    ] = None
    incoming_cpu: Annotated[
        int | None,
        Option(
            "With reuse_port: which processor's packets this socket is to get. Read on a "
            "connection it is the one that handled the last packet.",
            Int(-1, 65535),
            _sol("SO_INCOMING_CPU", 49),
            inherited=kinds.NONE,
            child="on a child it tells which processor handled the last packet",
            volatile=True,
            moved="a connection puts the one there that handled its last packet",
            copied=False,
            platforms="Linux 4.4",
        ),
    ] = None
    receive_low_water: Annotated[
        int | None,
        Option(
            "Readable only with so many bytes; a receive that does not have to wait still takes "
            "what is there.",
            Int(1, INT_MAX, "bytes"),
            _sol("SO_RCVLOWAT", 18),
            limits=("net.ipv4.tcp_rmem",),
            readback="at most half the largest receive buffer",
            platforms="Linux, BSD, macOS",
            ignored=kinds.ALL - kinds.TCP - {kinds.LOCAL_STREAM},
        ),
    ] = None
    send_low_water: Annotated[
        int | None,
        Option(
            "Writable only with so much room. On Linux a constant: see unsent_low_water.",
            Int(1, INT_MAX, "bytes"),
            _sol("SO_SNDLOWAT", 19),
            copied=False,
            platforms="BSD, macOS",
            untested="a constant on Linux: setting it is ENOPROTOOPT",
        ),
    ] = None
    receive_timeout: Annotated[
        float | None,
        Option(
            "How long a stream may receive nothing before ReceiveTimeoutError. Kept by Trio's "
            "clock: SO_RCVTIMEO does nothing on a socket that does not block.",
            Timeout(),
            user=True,
            inherited=kinds.NONE,
            platforms="all",
        ),
    ] = None
    send_timeout: Annotated[
        float | None,
        Option(
            "How long a stream may get nothing sent before SendTimeoutError. Kept by Trio's "
            "clock: SO_SNDTIMEO does nothing on a socket that does not block.",
            Timeout(),
            user=True,
            inherited=kinds.NONE,
            platforms="all",
        ),
    ] = None
    zero_copy: Annotated[
        bool | None,
        Option(
            "Allow MSG_ZEROCOPY. Its completions come by the error queue, which the program must "
            "read: unread, it keeps Trio awake for ever.",
            BOOL,
            _sol("SO_ZEROCOPY", 60, kinds.TCP | kinds.UDP),
            platforms="Linux 4.14",
        ),
    ] = None
    microsecond_timestamps: Annotated[
        bool | None,
        Option(
            "Tell with each datagram when it came, in microseconds; switches timestamps off.",
            BOOL,
            _sol("SO_TIMESTAMP", 29),
            excludes=frozenset({"timestamps"}),
            copied=False,  # one of the two at a time: timestamps is copied
            platforms="all but Windows",
        ),
    ] = None
    timestamps: Annotated[
        bool | None,
        Option(
            "Tell with each datagram when it came, in nanoseconds.",
            BOOL,
            _sol("SO_TIMESTAMPNS", 35),
        ),
    ] = None
    timestamping: Annotated[
        int | None,
        Option(
            "Which time stamps to take, by the SOF_TIMESTAMPING bits. Those of sending come by "
            "the error queue, which the program must read: unread, it keeps Trio awake for ever.",
            Int(0, INT_MAX),
            _sol("SO_TIMESTAMPING", 37),
        ),
    ] = None
    receive_drops: Annotated[
        bool | None,
        Option(
            "Tell with each datagram how many the kernel had to drop so far.",
            BOOL,
            _sol("SO_RXQ_OVFL", 40),
            ignored=kinds.TCP | kinds.LOCAL,
        ),
    ] = None
    select_error_queue: Annotated[
        bool | None,
        Option(
            "Report the error queue as an exceptional condition, too.",
            BOOL,
            _sol("SO_SELECT_ERR_QUEUE", 45),
        ),
    ] = None
    peek_offset: Annotated[
        int | None,
        Option(
            "Where the next peek begins, moved on by each; -1 is off.",
            Int(-1, INT_MAX, "bytes"),
            _sol("SO_PEEK_OFF", 42, kinds.TCP | kinds.UDP | kinds.LOCAL),
            moved="each peek moves it on",
            platforms="Linux 3.4; TCP and UDP later",
        ),
    ] = None
    use_loopback: Annotated[
        bool | None,
        Option(
            "Whether a routing socket hears its own messages.",
            BOOL,
            _sol("SO_USELOOPBACK", None, frozenset({kinds.OTHER})),
            platforms="BSD, macOS",
        ),
    ] = None
    no_sigpipe: Annotated[
        bool | None,
        Option(
            "No SIGPIPE when sending to a closed peer; Python ignores that signal anyway.",
            BOOL,
            _sol("SO_NOSIGPIPE", None),
            platforms="BSD, macOS",
        ),
    ] = None
    debug: Annotated[
        bool | None,
        Option(
            "Record debugging information.",
            BOOL,
            _sol("SO_DEBUG", 1),
            privilege="CAP_NET_ADMIN to switch on",
            platforms="all",
        ),
    ] = None
    pass_credentials: Annotated[
        bool | None,
        Option(
            "Tell with each message who sent it.",
            BOOL,
            _sol("SO_PASSCRED", 16, kinds.LOCAL),
            inherited=kinds.LOCAL,
        ),
    ] = None
    pass_pidfd: Annotated[
        bool | None,
        Option(
            "Bring with each message a descriptor of the process that sent it.",
            BOOL,
            _sol("SO_PASSPIDFD", 76, kinds.LOCAL),
            inherited=kinds.LOCAL,
            platforms="Linux 6.5",
        ),
    ] = None
    pass_security: Annotated[
        bool | None,
        Option(
            "Tell with each message the sender's security label.",
            BOOL,
            _sol("SO_PASSSEC", 34, kinds.LOCAL),
            inherited=kinds.LOCAL,
        ),
    ] = None
    pass_rights: Annotated[
        bool | None,
        Option(
            "Whether descriptors may be sent here (the system's default); off, their sender "
            "fails with EPERM.",
            BOOL,
            _sol("SO_PASSRIGHTS", 83, kinds.LOCAL),
            inherited=kinds.LOCAL,
            platforms="Linux 6.16",
        ),
    ] = None
    # Last of all: a lock is for good.
    lock_filter: Annotated[
        bool | None,
        Option(
            "The socket's filter can no longer be changed, nor this be taken back.",
            BOOL,
            _sol("SO_LOCK_FILTER", 44),
        ),
    ] = None
