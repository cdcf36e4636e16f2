"""Literal hosts. The numbers in comments are IOLib's test cases (SEEDS.md, section 3A)."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockscope._addresses import hosts
from sockscope._core.errors import UnknownInterfaceError

LOOPBACK_NAME = next(name for index, name in socket.if_nameindex() if name.startswith("lo"))
LOOPBACK_INDEX = socket.if_nametoindex(LOOPBACK_NAME)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1", "127.0.0.1"),  # 1
        ("252.224.0.199", "252.224.0.199"),  # 2
        ("0.0.0.0", "0.0.0.0"),  # 12
        ("255.255.255.255", "255.255.255.255"),  # 13
        ("127.1", "127.0.0.1"),  # 16
        ("10.20.7", "10.20.0.7"),
        ("22", "0.0.0.22"),
        ("0", "0.0.0.0"),
    ],
)
def test_dotted_forms(text, expected):
    assert hosts.parse_literal(text) == (IPv4Address(expected), 0)


@pytest.mark.parametrize(
    "text",
    [
        "256.0.0.1",  # 6
        "127.0.256.1",  # 9
        "1.2.3.4.5",  # 17
        "127.257",  # inet_aton: 127.0.1.1
        "010.0.0.1",  # inet_aton: 8.0.0.1
        "127.01",
        "00",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "1..2",
        "127.0.0.1.",
        ".",
        "",
    ],
)
def test_what_inet_aton_reads_otherwise_is_refused(text):
    with pytest.raises(ValueError, match="is not an IPv4 address"):
        hosts.parse_literal(text)


@given(st.lists(st.integers(0, 255), min_size=1, max_size=4))
def test_the_last_part_is_the_last_octet(parts):
    octets = [*parts[:-1], *[0] * (4 - len(parts)), parts[-1]]
    assert hosts.parse_dotted(".".join(map(str, parts))).packed == bytes(octets)


@given(st.integers(0, 2**32 - 1))
def test_every_ipv4_address_is_read_as_the_system_prints_it(number):  # 11, 19
    address = IPv4Address(number)
    assert hosts.parse_literal(socket.inet_ntoa(address.packed)) == (address, 0)


@given(st.from_regex(r"[0-9x.]{1,12}", fullmatch=True))
def test_no_number_reaches_the_resolver(text):
    """Whatever inet_aton takes is read here, to the same address, or refused."""
    try:
        packed = socket.inet_aton(text)
    except OSError:
        return
    try:
        host, _ = hosts.parse_literal(text)
    except ValueError:
        return
    whole = text.count(".") == 3
    assert not whole or host.packed == packed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("::", "::"),  # 4
        ("::1", "::1"),
        ("1::2", "1::2"),
        ("1::", "1::"),
        ("0:1::", "0:1::"),
        ("::1.2.3.4", "::102:304"),  # 35
        ("ff01::114", "ff01::114"),
        ("::ffff:192.0.2.1", "::ffff:c000:201"),
        ("FE80::ABCD", "fe80::abcd"),
    ],
)
def test_ipv6_forms(text, expected):  # 26
    assert hosts.parse_literal(text) == (IPv6Address(expected), 0)


@pytest.mark.parametrize(
    "text", ["ff0x::114", ":", ":::", "1::2::3", "[::1]", "1:2", "::1%", "::g%1"]
)
def test_broken_ipv6_forms(text):  # 8
    with pytest.raises(ValueError):
        hosts.parse_literal(text)


@pytest.mark.parametrize("text", [":1::2", "1::2:", ":1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8:"])
def test_iolibs_single_outer_colons_are_refused(text):
    """A deliberate difference: the standard (RFC 4291, 2.2) knows no such form."""
    with pytest.raises(ValueError):
        hosts.parse_literal(text)


@pytest.mark.parametrize(
    "text",
    ["localhost", "a.b.example", "1e100.net", "host-1", "1.example", "0xg", "\uff11.\uff12", "a%b"],
)
def test_names_are_no_literals(text):
    assert hosts.parse_literal(text) is None


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("::", "::"),  # 21
        ("::1", "::1"),
        ("1::", "1::"),
        ("0:0:0:1::", "0:0:0:1::"),  # 22 to 25: RFC 5952 compresses the longest run
        ("1:0:0:2:0:0:0:3", "1:0:0:2::3"),
        ("FF02::1", "ff02::1"),
        ("::ffff:1.2.3.4", "::ffff:1.2.3.4"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_printing_follows_rfc_5952(address, text):
    host, _ = hosts.parse_literal(address)
    assert hosts.format_host(host) == text


class TestScopes:
    def test_a_name_and_an_index_are_the_same(self):
        expected = (IPv6Address("fe80::1"), LOOPBACK_INDEX)
        assert hosts.parse_literal(f"fe80::1%{LOOPBACK_NAME}") == expected
        assert hosts.parse_literal(f"fe80::1%{LOOPBACK_INDEX}") == expected

    def test_an_index_needs_no_interface(self):
        assert hosts.parse_literal("fe80::1%4294967295") == (IPv6Address("fe80::1"), 2**32 - 1)

    @pytest.mark.parametrize("scope", ["4294967296", "9" * 5000])
    def test_an_index_above_32_bits_is_refused(self, scope):
        with pytest.raises(ValueError, match="4294967295"):
            hosts.parse_scope(scope)

    @pytest.mark.parametrize("name", ["no-such-if", "x" * 300, "a\0b", "\udc80", "%"])
    def test_an_unknown_name_says_the_name(self, name):
        with pytest.raises(UnknownInterfaceError) as caught:
            hosts.parse_scope(name)
        assert repr(name) in str(caught.value)
        assert caught.value.__cause__ is not None

    def test_known_indices_print_as_names(self):
        assert hosts.format_scope(LOOPBACK_INDEX) == LOOPBACK_NAME

    @pytest.mark.parametrize("index", [2**31, 2**32 - 1])
    def test_unknown_indices_print_as_numbers(self, index):
        assert hosts.format_scope(index) == str(index)

    @pytest.mark.parametrize("name", ["7", "a]b", "a%b", ""])
    def test_names_that_could_be_misread_print_as_numbers(self, name, monkeypatch):
        """Linux allows an interface with any such name."""
        monkeypatch.setattr(socket, "if_indextoname", lambda index: name)
        assert hosts.format_scope(5) == "5"
