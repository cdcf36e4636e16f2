"""``options``: the table, as JSON and to read."""

from __future__ import annotations

import json
import socket
import sys

import pytest

from sockscope import supports
from sockscope._cli import options
from sockscope._cli.main import main
from sockscope._options.table import TABLE

COLUMNS = ["name", "type", "unit", "phase", "supported", "default", "inherited"]


@pytest.fixture
def rows(capsys):
    def rows(*names):
        assert main(["options", "--json", *names]) == 0
        found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
        return {row["name"]: row for row in found}

    return rows


def test_every_option_once(rows):
    found = rows()
    assert list(found) == list(TABLE)
    for name, row in found.items():
        assert list(row) == COLUMNS
        assert row["supported"] == supports(name)
        assert row["phase"] == TABLE[name].phase.value
        assert row["type"]
        assert isinstance(row["inherited"], bool)
        assert row["unit"] is None or row["unit"]
        if not row["supported"]:
            assert row["default"] is None


@pytest.mark.parametrize(
    ("name", "type_name", "unit", "phase", "inherited"),
    [
        ("nodelay", "bool", None, "any time", True),
        ("reuse_address", "bool", None, "before bind", True),
        ("send_buffer", "int", "bytes", "any time", True),
        ("busy_poll", "int", "microseconds", "any time", True),
        ("max_pacing_rate", "int", "bytes a second", "any time", True),
        ("hop_limit", "int", None, "any time", True),
        ("user_timeout", "float", "seconds", "any time", True),
        ("receive_timeout", "float", "seconds", "any time", False),
        ("priority", "int", None, "any time", False),
        ("gro", "bool", None, "any time", False),
        ("congestion", "str", None, "any time", True),
        ("tcp_md5_key", "bytes", None, "before listen or connect", True),
        ("local_port_range", "(lowest, highest) port", None, "before listen or connect", True),
        ("mtu_discovery", "PathMTUDiscovery", None, "any time", True),
        ("linger", "Linger, or False", None, "any time", True),
        ("keepalive", "bool or KeepAlive", None, "any time", True),
        ("mptcp", "bool", None, "creation", True),
        ("pass_credentials", "bool", None, "any time", True),
        ("tcp_info", "TcpInfo", None, "read only", False),
    ],
)
def test_a_row(rows, name, type_name, unit, phase, inherited):
    [row] = rows(name).values()
    assert (row["type"], row["unit"], row["phase"]) == (type_name, unit, phase)
    assert row["inherited"] is inherited


@pytest.mark.parametrize(
    ("name", "level", "number"),
    [
        ("send_buffer", socket.SOL_SOCKET, socket.SO_SNDBUF),
        ("receive_buffer", socket.SOL_SOCKET, socket.SO_RCVBUF),
        ("nodelay", socket.IPPROTO_TCP, socket.TCP_NODELAY),
        ("hop_limit", socket.IPPROTO_IP, socket.IP_TTL),
        ("keepalive", socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        ("oob_inline", socket.SOL_SOCKET, socket.SO_OOBINLINE),
    ],
)
def test_defaults_are_the_systems(rows, name, level, number):
    with socket.socket() as sock:
        assert rows(name)[name]["default"] == sock.getsockopt(level, number)


def test_defaults_of_other_kinds(rows):
    """Of a datagram and a local socket where TCP has none; of no socket for our own timers."""
    found = rows("multicast_loop", "receive_timeout", "tcp_md5_key", "cookie", "pass_credentials")
    assert found["multicast_loop"]["default"] is True
    assert found["receive_timeout"]["default"] == "inf"
    assert found["tcp_md5_key"]["default"] is None
    assert found["cookie"]["default"] is None
    if sys.platform == "linux":
        assert found["pass_credentials"]["default"] is False


def test_a_default_on_a_machine_without_ipv4(rows, monkeypatch):
    def without_ipv4(option, kind):
        if kind == "tcp4":
            raise OSError
        return f"of {kind}"

    monkeypatch.setattr(options, "system_default", without_ipv4)
    assert rows("hop_limit")["hop_limit"]["default"] == "of tcp6"


def test_those_that_are_named_in_their_order(rows):
    assert list(rows("nodelay", "keepalive", "cork")) == ["nodelay", "keepalive", "cork"]


def test_to_read(capsys):
    assert main(["options", "nodelay", "send_buffer"]) == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == COLUMNS
    assert first.split() == ["nodelay", "bool", "-", "any", "time", "yes", "no", "yes"]
    assert second.startswith("send_buffer  int")
    assert header.index("phase") == first.index("any") == second.index("any")
