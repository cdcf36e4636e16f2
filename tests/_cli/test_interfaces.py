"""``interfaces``: as psutil has them, and the system's own tool."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from sockscope import InterfaceAddress, network_interfaces
from sockscope._cli.interfaces import _short
from sockscope._cli.main import main


@pytest.fixture
def listed(capsys):
    pytest.importorskip("psutil", reason="needs the extra 'interfaces'")
    assert main(["interfaces", "--json"]) == 0
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)}


def test_json(listed):
    found = network_interfaces()
    assert list(listed) == [interface.name for interface in found]
    for interface in found:
        row = listed[interface.name]
        assert (row["index"], row["mtu"]) == (interface.index, interface.mtu)
        assert row["is_up"] is interface.is_up
        assert row["flags"] == sorted(interface.flags)
        assert row["hardware_address"] == interface.hardware_address
        assert [address["address"] for address in row["addresses"]] == [
            str(address.address) for address in interface.addresses
        ]


@pytest.mark.skipif(not shutil.which("ip"), reason="compares with iproute2's ip")
def test_as_ip_has_it(listed):
    ip = subprocess.run(["ip", "-j", "address"], capture_output=True, check=True)
    for theirs in json.loads(ip.stdout):
        ours = listed[theirs["ifname"]]
        assert (ours["index"], ours["mtu"]) == (theirs["ifindex"], theirs["mtu"])
        assert {(a["address"], a["prefix_length"]) for a in ours["addresses"]} == {
            (a["local"], a["prefixlen"]) for a in theirs["addr_info"]
        }


def test_to_read(listed, capsys):
    assert main(["interfaces"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split()[:4] == ["name", "index", "up", "mtu"]
    assert [line.split()[0] for line in lines] == list(listed)
    loopback = next(line for line in lines if "loopback" in line)
    assert "127.0.0.1/8" in loopback


def test_an_address_without_a_mask():
    [first, *_] = (a for i in network_interfaces() for a in i.addresses)
    assert _short(InterfaceAddress(first.address)) == str(first.address)


def test_without_psutil(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "psutil", None)
    assert main(["interfaces"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "pip install 'sockscope[interfaces]'" in err
