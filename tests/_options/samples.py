"""A value for each option, not its default, and what getsockopt then has to give.

One line an option: `Sample(value, raw)`, where *raw* is the integer or the bytes, or a
mapping of the constants that differ.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from sockscope._options.value_types import (
    BufferLock,
    DeadPeer,
    KeepAlive,
    Linger,
    PathMTUDiscovery,
    TransmitTime,
)


class Sample(NamedTuple):
    value: Any
    raw: Any  # None: the kernel does not tell


LOOPBACK = socket.if_nametoindex("lo")
ON = Sample(True, 1)

SAMPLES: dict[str, Sample] = {
    "ipv6_only": ON,
    "free_bind": ON,
    "transparent": ON,
    "bind_address_no_port": ON,
    "local_port_range": Sample((20000, 30000), 30000 << 16 | 20000),
    "header_include": ON,
    "traffic_class": Sample(0xB8, 0xB8),
    "hop_limit": Sample(37, 37),
    "min_hop_limit": Sample(5, 5),
    "mtu_discovery": Sample(PathMTUDiscovery.DO, 2),
    "dont_fragment": ON,
    "ipv6_mtu": Sample(1400, None),
    "auto_flow_label": Sample(False, 0),
    "address_preferences": Sample(1, 0x0401),
    "unicast_interface": Sample(LOOPBACK, socket.htonl(LOOPBACK)),
    "packet_info": ON,
    "receive_hop_limit": ON,
    "receive_traffic_class": ON,
    "receive_errors": ON,
    "receive_errors_rfc4884": ON,
    "receive_original_destination": ON,
    "receive_fragment_size": ON,
    "multicast_interface": Sample("lo", {"IPV6_MULTICAST_IF": LOOPBACK, "IP_MULTICAST_IF": 0}),
    "multicast_hops": Sample(9, 9),
    "multicast_loop": Sample(False, 0),
    "multicast_all": Sample(False, 0),
    "icmp_filter": Sample(0xFFFFFFFE, struct.pack("=I", 0xFFFFFFFE)),
    "mptcp": Sample(False, socket.IPPROTO_TCP),
    "nodelay": ON,
    "cork": ON,
    "no_push": ON,
    "no_options": ON,
    "max_segment": Sample(1000, 1000),
    "user_timeout": Sample(2.0004, 2001),
    "syn_retries": Sample(3, 3),
    "defer_accept": Sample(2.0, 3),
    "fast_open": Sample(64, 64),
    "fast_open_connect": ON,
    "fast_open_key": Sample(bytes(range(16)), bytes(range(16))),
    "fast_open_no_cookie": ON,
    "unsent_low_water": Sample(16384, 16384),
    "congestion": Sample("reno", b"reno".ljust(16, b"\0")),
    "quick_ack": Sample(False, 0),
    "window_clamp": Sample(30000, 30000),
    "fin_wait_timeout": Sample(7.5, 8),
    "thin_linear_timeouts": ON,
    "thin_dupack": Sample(True, 0),
    "save_syn": Sample(2, 2),
    "receive_pending": Sample(True, {"TCP_INQ": 1, "SO_INQ": None}),
    "transmit_delay": Sample(0.0015, 1500),
    "rto_max": Sample(30.0, 30000),
    "rto_min": Sample(0.1, 100000),
    "delayed_ack_max": Sample(0.02, 20000),
    "tcp_md5_key": Sample(b"squeamish ossifrage", None),
    "tcp_md5_keys": Sample({"192.0.2.0/24": b"squeamish", "2001:db8::1": b"ossifrage"}, None),
    "repair": ON,
    "upper_layer": Sample("tls", b"tls"),
    "gso_segment_size": Sample(1200, 1200),
    "gro": ON,
    "no_checksum": ON,
    "reuse_address": ON,
    "exclusive_address_use": ON,
    "reuse_port": ON,
    "bind_to_device": Sample("lo", b"lo\0"),
    "bind_to_interface_index": Sample(LOOPBACK, LOOPBACK),
    "send_buffer": Sample(70000, 140000),
    "receive_buffer": Sample(70000, 140000),
    "buffer_lock": Sample(BufferLock.SEND, 1),
    "reserve_memory": Sample(4096, 4096),
    "broadcast": ON,
    "dont_route": ON,
    "keepalive": Sample(
        KeepAlive(11, 3.5, 4),
        {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 11, "TCP_KEEPINTVL": 4, "TCP_KEEPCNT": 4},
    ),
    "dead_peer": Sample(
        DeadPeer(30.0),
        {
            "SO_KEEPALIVE": 1,
            "TCP_KEEPIDLE": 15,
            "TCP_KEEPINTVL": 5,
            "TCP_KEEPCNT": 3,
            "TCP_USER_TIMEOUT": 29500,
        },
    ),
    "linger": Sample(Linger(1.2), struct.pack("ii", 1, 2)),
    "oob_inline": ON,
    "priority": Sample(5, 5),
    "mark": Sample(0x80000001, -0x7FFFFFFF),
    "receive_mark": ON,
    "receive_priority": ON,
    "max_pacing_rate": Sample(5_000_000_000, struct.pack("=Q", 5_000_000_000)),
    "transmit_time": Sample(TransmitTime(1, 2), struct.pack("iI", 1, 2)),
    "busy_poll": Sample(50, 50),
    "prefer_busy_poll": ON,
    "busy_poll_budget": Sample(32, None),
    "incoming_cpu": Sample(0, 0),
    "receive_low_water": Sample(100, 100),
    "send_low_water": Sample(100, 100),
    "receive_timeout": Sample(5.0, None),
    "send_timeout": Sample(5.0, None),
    "zero_copy": ON,
    "microsecond_timestamps": ON,
    "timestamps": ON,
    "timestamping": Sample(0x18, 0x18),
    "receive_drops": ON,
    "select_error_queue": ON,
    "peek_offset": Sample(3, 3),
    "use_loopback": ON,
    "no_sigpipe": ON,
    "debug": ON,
    "pass_credentials": ON,
    "pass_pidfd": ON,
    "pass_security": ON,
    "pass_rights": Sample(False, 0),
    "lock_filter": ON,
}


# Timing is TCP's alone.
ELSEWHERE = {"keepalive": True}
