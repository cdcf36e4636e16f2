"""The types of the options: the constructor is typed field by field, from the table."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import trio

from sockscope._options.access import get_option, set_option
from sockscope._options.features import features, supports
from sockscope._options.report import OptionResult, Report
from sockscope._options.value_types import DeadPeer, KeepAlive, Linger, PathMTUDiscovery
from sockscope._options.values import SocketOptions

if TYPE_CHECKING:
    from typing_extensions import assert_type

options = SocketOptions(
    nodelay=True,
    priority=3,
    user_timeout=3,
    keepalive=KeepAlive(idle=30),
    linger=Linger(1.5),
    dead_peer=None,
    mtu_discovery=PathMTUDiscovery.DO,
    tcp_md5_keys={"10.0.0.0/8": b"key"},
    preferred={"priority"},
    extra={(6, 1): 1, (1, 25): b"lo"},
)
if TYPE_CHECKING:
    assert_type(options.nodelay, bool | None)
    assert_type(options.user_timeout, float | None)
    assert_type(options.dead_peer, DeadPeer | None)
    assert_type(options | options, SocketOptions)
    assert_type(options.replace(nodelay=None), SocketOptions)
    assert_type(SocketOptions.from_mapping({}), SocketOptions)
    assert_type(supports("ipv6"), bool)
    assert_type(features().mptcp, bool)

SocketOptions(True)  # type: ignore[call-arg]  # keyword-only
SocketOptions(no_delay=True)  # type: ignore[call-arg]  # no such field
SocketOptions(nodelay="yes")  # type: ignore[arg-type]  # a bool
SocketOptions(linger=5)  # type: ignore[arg-type]  # a Linger
options.nodelay = False  # type: ignore[misc]  # frozen


def takes_every_socket(stdlib: socket.socket, of_trio: trio.socket.SocketType) -> None:
    """The standard library's sockets and Trio's."""
    for sock in (stdlib, of_trio):
        options.apply(sock)
        SocketOptions.read(sock)
        report: Report = options.check(sock)
        result: OptionResult = report["nodelay"]
        print(result.requested, get_option(sock, "nodelay"))
        assert_bool(set_option(sock, "nodelay", True))


def assert_bool(value: bool) -> None:
    """A type, checked."""
