"""Sockets of every kind, in every state, and an independent reader."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from sockscope._options import kinds

LOCALHOST = {"4": "127.0.0.1", "6": "::1"}
STREAMS = (kinds.TCP4, kinds.TCP6, kinds.LOCAL_STREAM, kinds.LOCAL_SEQPACKET)
EVERY_KIND = tuple(sorted(kinds.ALL - {kinds.OTHER}))


def make(kind, proto=0):
    """A fresh socket, or a skip that says what is missing."""
    family, type_ = kinds.family_and_type(kind)
    if kind in kinds.RAW:
        proto = socket.IPPROTO_ICMP if kind == kinds.RAW4 else socket.IPPROTO_ICMPV6
    try:
        return socket.socket(family, type_, proto)
    except PermissionError:
        pytest.skip("raw sockets need CAP_NET_RAW")
    except OSError as exc:
        pytest.skip(f"this system makes no {kind} socket: {exc}")


def bind(sock, kind):
    """Bind to the loopback, or to an abstract name that the kernel picks."""
    try:
        sock.bind("" if kind in kinds.LOCAL else (LOCALHOST[kind[-1]], 0))
    except OSError as exc:
        pytest.skip(f"cannot bind a {kind} socket here: {exc}")


@contextlib.contextmanager
def listener(kind, before=lambda sock: None):
    """A listening socket; *before* is called with it when it is fresh."""
    with make(kind) as sock:
        before(sock)
        bind(sock, kind)
        sock.listen()
        yield sock


@contextlib.contextmanager
def accepted(listening, data=b""):
    """One more connection: the client's end, which has sent *data*, and the child."""
    with socket.socket(listening.family, listening.type, listening.proto) as client:
        client.connect(listening.getsockname())
        if data:
            client.send(data)
        child, _ = listening.accept()
        with child:
            yield client, child


@contextlib.contextmanager
def connected(kind):
    """A connected socket of *kind*."""
    if kind in STREAMS:
        with listener(kind) as listening, accepted(listening) as (client, _):
            yield client
    else:
        with make(kind) as peer, make(kind) as sock:
            bind(peer, kind)
            sock.connect(peer.getsockname())
            yield sock


def read(sock, target, size=0):
    """getsockopt, past everything that is tested."""
    if size:
        return sock.getsockopt(target.level, target.number, size)
    return sock.getsockopt(target.level, target.number)


def is_root():
    return hasattr(os, "geteuid") and os.geteuid() == 0


def has_capability(name):
    """Whether this process has a capability in its network namespace, as the kernel says."""
    number = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13, "CAP_SYS_ADMIN": 21}[name]
    with open("/proc/self/status") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff"))
    return bool(int(effective, 16) >> number & 1)
