from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest

from sockscope._addresses.predicates import is_ipv4_mapped, is_solicited_node, multicast_scope
from sockscope._addresses.values import InternetAddress


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("::ffff:127.0.0.1", True),  # IOLib's 34
        (IPv6Address("::ffff:7f00:1"), True),
        (InternetAddress(IPv6Address("::ffff:127.0.0.1"), 80), True),
        ("::127.0.0.1", False),  # IPv4-compatible, which is something else
        ("::fffe:127.0.0.1", False),
        ("::1", False),
        ("127.0.0.1", False),
        (2130706433, False),
    ],
)
def test_is_ipv4_mapped(host, expected):
    assert is_ipv4_mapped(host) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("ff02::1:ff00:0", True),
        ("ff02::1:ffff:ffff", True),
        ("ff02::1:fe00:0", False),
        ("ff02::1:0:0", False),
        ("ff01::1:ff00:0", False),
        ("ff02::2:ff00:0", False),
        ("::1", False),
        ("255.0.0.1", False),
        (IPv4Address(1), False),
        (InternetAddress(IPv6Address("ff02::1:ff00:1"), 80, 1), True),
    ],
)
def test_is_solicited_node(host, expected):
    assert is_solicited_node(host) is expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("ff00::1", "reserved"),
        ("ff01::1", "interface-local"),
        ("ff02::1", "link-local"),
        ("ff12::1", "link-local"),  # transient: the flags are no part of the scope
        ("ff03::1", "realm-local"),
        ("ff04::1", "admin-local"),
        ("ff05::2", "site-local"),
        ("ff06::1", "unassigned"),
        ("ff07::1", "unassigned"),
        ("ff08::1", "organization-local"),
        ("ff09::1", "unassigned"),
        ("ff0d::1", "unassigned"),
        ("ff0e::1", "global"),
        ("ff0f::1", "reserved"),
        ("fe80::1", None),
        ("::1", None),
        ("224.0.0.0", "link-local"),  # IOLib's 33
        ("224.0.0.255", "link-local"),
        ("224.0.1.0", "global"),
        ("232.0.0.1", "global"),
        ("238.255.255.255", "global"),
        ("239.0.0.1", "admin-local"),
        ("239.192.0.1", "organization-local"),
        ("239.195.255.255", "organization-local"),
        ("239.196.0.0", "admin-local"),
        ("239.255.0.1", "site-local"),
        ("240.0.0.1", None),  # class E, which IOLib counts among multicast
        ("127.0.0.1", None),
        (InternetAddress(IPv6Address("ff02::1"), 80), "link-local"),
        (b"ff02::1", "link-local"),
    ],
)
def test_multicast_scope(host, expected):
    assert multicast_scope(host) == expected


@pytest.mark.parametrize("predicate", [is_ipv4_mapped, is_solicited_node, multicast_scope])
class TestWhatIsNoAddress:
    @pytest.mark.parametrize("host", ["localhost", "", "256.1", "::g", -1])
    def test_values(self, predicate, host):
        with pytest.raises(ValueError):
            predicate(host)

    @pytest.mark.parametrize("host", [None, 1.0, ("::1", 80)])
    def test_types(self, predicate, host):
        with pytest.raises(TypeError):
            predicate(host)


@pytest.mark.parametrize(
    ("host", "question"),
    [
        ("0.0.0.0", "is_unspecified"),  # IOLib's 31
        ("::", "is_unspecified"),
        ("0:0:0:0:0:0:0:0", "is_unspecified"),
        ("127.0.0.1", "is_loopback"),  # IOLib's 32; all of 127/8 is, here
        ("127.0.0.2", "is_loopback"),
        ("::1", "is_loopback"),
    ],
)
def test_ipaddress_answers_the_rest(host, question):
    """Why there are only three predicates of ours."""
    for designator in (host, host.encode()):
        address = InternetAddress.parse(f"[{host}]:0" if ":" in host else f"{host}:0")
        assert getattr(address.host, question), designator
