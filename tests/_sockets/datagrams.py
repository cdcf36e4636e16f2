"""Datagram sockets for tests, opened and closed by fixtures or in an `opened` block."""

from __future__ import annotations

import socket as stdlib_socket
from contextlib import asynccontextmanager

import pytest
import trio

from sockscope._addresses.designators import parse_designator
from sockscope._open.datagram import DatagramRequest, open_datagram
from sockscope._options.features import supports
from sockscope._options.values import SocketOptions

BIG = SocketOptions(receive_buffer=4 << 20, send_buffer=4 << 20)
LOOPBACK = {"ipv4": ("127.0.0.1", 0), "ipv6": ("::1", 0)}

needs_ipv6 = pytest.mark.skipif(not supports("ipv6"), reason="this machine has no IPv6")
needs_trains = pytest.mark.skipif(
    not (supports("gso") and supports("gro")), reason="this kernel neither cuts nor joins trains"
)
INTERNET = ["ipv4", pytest.param("ipv6", marks=needs_ipv6)]


def request_for(remote=None, local=None, **arguments):
    if local is not None:
        local = parse_designator(local, argument="local", passive=True)
    if remote is not None:
        remote = parse_designator(remote)
    return DatagramRequest(remote=remote, local=local, **arguments)


async def make(remote=None, local=None, **arguments):
    return await open_datagram(request_for(remote, local, **arguments))


@asynccontextmanager
async def opened(remote=None, local=None, **arguments):
    async with await make(remote, local, **arguments) as sock:
        yield sock


@asynccontextmanager
async def pair(family="ipv4", *, options=None, sender_options=None, tmp_path=None):
    """A receiver that is bound, and a sender that is, too."""
    options, sender_options = options or SocketOptions(), sender_options or SocketOptions()
    if family == "local":
        ends = tmp_path / "receiver", tmp_path / "sender"
    else:
        ends = LOOPBACK[family], LOOPBACK[family]
    async with opened(local=ends[0], options=options) as receiver:
        async with opened(local=ends[1], options=sender_options) as sender:
            yield receiver, sender


def closed_port(family=stdlib_socket.AF_INET):
    """An address at which nobody receives."""
    with stdlib_socket.socket(family, stdlib_socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1" if family == stdlib_socket.AF_INET else "::1", 0))
        return sock.getsockname()[:2]


async def drain(sock):
    """All datagrams that are there."""
    found = []
    while batch := await sock.receive_many(256, max_wait=0):
        found += batch
    return found


async def soon(condition):
    """Wait for what comes by itself, such as an ICMP message; not for long."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # the kernel sets no event
            await trio.sleep(0.001)
