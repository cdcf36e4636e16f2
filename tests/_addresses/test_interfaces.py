from __future__ import annotations

import socket
import sys
from ipaddress import IPv4Address, IPv6Address
from types import SimpleNamespace

import pytest

from sockscope._addresses.interfaces import (
    InterfaceAddress,
    NetworkInterface,
    network_interface,
    network_interfaces,
)
from sockscope._core.errors import UnknownInterfaceError
from tests._addresses.test_hosts import LOOPBACK_INDEX, LOOPBACK_NAME


class TestThisMachine:
    @pytest.fixture(autouse=True)
    def psutil(self):
        return pytest.importorskip("psutil", reason="the extra 'interfaces' is not installed")

    def test_there_is_one_at_least(self):  # IOLib's 50
        interfaces = network_interfaces()
        assert interfaces
        assert {interface.name for interface in interfaces} == {
            name for _, name in socket.if_nameindex()
        }

    def test_each_is_found_by_name_and_by_index(self):  # IOLib's 51
        for interface in network_interfaces():
            assert network_interface(interface.name).index == interface.index
            assert network_interface(interface.index).name == interface.name

    def test_the_loopback_interface(self):
        interface = network_interface(LOOPBACK_NAME)
        assert interface.index == LOOPBACK_INDEX
        assert interface.is_up
        assert {"up", "loopback"} <= interface.flags
        assert interface.mtu >= 1280
        (ipv4,) = (a for a in interface.addresses if a.address == IPv4Address("127.0.0.1"))
        assert ipv4.netmask == IPv4Address("255.0.0.0")
        assert ipv4.prefix_length == 8
        assert ipv4.scope_id == 0

    def test_ordered_by_index(self):
        indices = [interface.index for interface in network_interfaces()]
        assert indices == sorted(indices)


class TestEveryKindOfEntry:
    """What this machine may not have: labels, point-to-point, an interface without an index."""

    @pytest.fixture(autouse=True)
    def scripted(self, monkeypatch):
        def entry(family, address, netmask=None, broadcast=None, ptp=None):
            return SimpleNamespace(
                family=family, address=address, netmask=netmask, broadcast=broadcast, ptp=ptp
            )

        def stats(flags, mtu=1500, isup=True):
            return SimpleNamespace(flags=flags, mtu=mtu, isup=isup)

        ipv4, ipv6, link = socket.AF_INET, socket.AF_INET6, -1
        addresses = {
            "eth0": [
                entry(ipv4, "192.0.2.2", "255.255.255.0", "192.0.2.255"),
                entry(ipv6, "fe80::2%eth0", "ffff:ffff:ffff:ffff::"),
                entry(link, "02:fc:00:00:00:01", None, "ff:ff:ff:ff:ff:ff"),
            ],
            "eth0:1": [entry(ipv4, "192.0.2.3", "255.255.255.255")],
            "tun0": [entry(ipv4, "10.0.0.1", "255.255.255.255", None, "10.0.0.2")],
            "nameless": [entry(ipv6, "2001:db8::1")],
        }
        module = SimpleNamespace(
            AF_LINK=link,
            net_if_addrs=lambda: addresses,
            net_if_stats=lambda: {
                "tun0": stats("up,pointopoint", 1400),
                "eth0": stats("up,broadcast"),
                "down0": stats("", isup=False),
                "nameless": stats("up"),
            },
        )
        monkeypatch.setitem(sys.modules, "psutil", module)
        indices = [(2, "eth0"), (3, "down0"), (7, "tun0")]
        monkeypatch.setattr(socket, "if_nameindex", lambda: indices)

    def test_all(self):
        up = frozenset({"up"})
        assert network_interfaces() == [
            NetworkInterface(
                "nameless",
                None,
                (InterfaceAddress(IPv6Address("2001:db8::1")),),
                None,
                up,
                1500,
                True,
            ),
            NetworkInterface(
                "eth0",
                2,
                (
                    InterfaceAddress(
                        IPv4Address("192.0.2.2"),
                        0,
                        IPv4Address("255.255.255.0"),
                        24,
                        IPv4Address("192.0.2.255"),
                    ),
                    InterfaceAddress(
                        IPv6Address("fe80::2"), 2, IPv6Address("ffff:ffff:ffff:ffff::"), 64
                    ),
                    InterfaceAddress(
                        IPv4Address("192.0.2.3"), 0, IPv4Address("255.255.255.255"), 32
                    ),
                ),
                "02:fc:00:00:00:01",
                up | {"broadcast"},
                1500,
                True,
            ),
            NetworkInterface("down0", 3, (), None, frozenset(), 1500, False),
            NetworkInterface(
                "tun0",
                7,
                (
                    InterfaceAddress(
                        IPv4Address("10.0.0.1"),
                        netmask=IPv4Address("255.255.255.255"),
                        prefix_length=32,
                        peer=IPv4Address("10.0.0.2"),
                    ),
                ),
                None,
                up | {"pointopoint"},
                1400,
                True,
            ),
        ]

    @pytest.mark.parametrize("wanted", ["eth1", "", "2", 0, 99, -1])
    def test_unknown(self, wanted):
        with pytest.raises(UnknownInterfaceError) as caught:
            network_interface(wanted)
        assert repr(wanted) in str(caught.value)

    @pytest.mark.parametrize("wanted", [None, True, 2.0, b"eth0"])
    def test_bad_types(self, wanted):
        with pytest.raises(TypeError, match="name_or_index"):
            network_interface(wanted)


@pytest.mark.parametrize("call", [network_interfaces, lambda: network_interface("lo")])
def test_without_psutil_the_error_names_the_extra(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "psutil", None)
    with pytest.raises(ModuleNotFoundError, match=r"sockscope\[interfaces\]") as caught:
        call()
    assert caught.value.name == "psutil"
