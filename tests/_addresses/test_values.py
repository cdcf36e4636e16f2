"""The promises of DESIGN.md about addresses. Numbers in comments are IOLib's test cases."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import os
import pickle
import socket
import sys
from dataclasses import FrozenInstanceError
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sockscope._addresses import values
from sockscope._addresses.values import (
    Address,
    InternetAddress,
    LocalAddress,
    as_peer,
    from_sockaddr,
)
from sockscope._core.errors import SocketError, UnknownInterfaceError
from tests._addresses.test_hosts import LOOPBACK_INDEX, LOOPBACK_NAME

V4 = IPv4Address("127.0.0.1")
V6 = IPv6Address("::1")
LINK = IPv6Address("fe80::1")

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="abstract names are Linux's")
needs_ipv6 = pytest.mark.skipif(not socket.has_ipv6, reason="Python without IPv6")

ports = st.integers(0, 0xFFFF)
ipv4_addresses = st.builds(InternetAddress, st.ip_addresses(v=4), ports)
ipv6_addresses = st.builds(
    InternetAddress,
    st.ip_addresses(v=6).map(lambda host: IPv6Address(int(host))),
    ports,
    st.sampled_from([0, LOOPBACK_INDEX, 4711, 2**32 - 1]),
    st.integers(0, 0xF_FFFF),
)
odd_bytes = st.one_of(
    st.binary(max_size=110), st.text("%@./:\0\n x0\xe4", max_size=8).map(str.encode)
)
local_addresses = st.one_of(
    st.builds(LocalAddress, odd_bytes), st.builds(LocalAddress.abstract, odd_bytes)
)
addresses = st.one_of(ipv4_addresses, ipv6_addresses, local_addresses)

PRINTED = [
    (InternetAddress(V4, 80), "127.0.0.1:80"),
    (InternetAddress(V6, 80), "[::1]:80"),
    (InternetAddress(LINK, 80, LOOPBACK_INDEX), f"[fe80::1%{LOOPBACK_NAME}]:80"),
    (InternetAddress(LINK, 80, 4711), "[fe80::1%4711]:80"),
    (InternetAddress(V6, 80, 0, 5), "[::1]:80?flow_info=5"),
    (InternetAddress(IPv6Address("::ffff:1.2.3.4"), 0), "[::ffff:1.2.3.4]:0"),
    (LocalAddress(b"/run/x"), "unix:/run/x"),
    (LocalAddress(b"x"), "unix:./x"),
    (LocalAddress(b"./x"), "unix:././x"),
    (LocalAddress(b"../x"), "unix:./../x"),
    (LocalAddress(b"@x"), "unix:./@x"),
    (LocalAddress(b"/a b%\xe4\n"), "unix:/a%20b%25%E4%0A"),
    (LocalAddress.abstract("name"), "unix:@name"),
    (LocalAddress.abstract(b"\0%@\xff"), "unix:@%00%25@%FF"),
    (LocalAddress.abstract(), "unix:@"),
    (LocalAddress.unnamed, "unix:"),
]


class TestText:
    @pytest.mark.parametrize(("address", "text"), PRINTED, ids=[text for _, text in PRINTED])
    def test_printed_and_parsed(self, address, text):
        assert str(address) == text
        assert Address.parse(text) == address

    @given(addresses)
    @example(LocalAddress(b"./"))
    @example(LocalAddress(b"/a\0b"))
    def test_parse_is_the_inverse_of_str(self, address):
        text = str(address)
        assert Address.parse(text) == address
        assert str(Address.parse(text)) == text
        assert text.isascii()
        assert text.isprintable()

    @pytest.mark.parametrize(
        ("text", "address"),
        [
            ("127.1:80", InternetAddress(V4, 80)),
            ("127.0.0.1:00080", InternetAddress(V4, 80)),
            ("127.0.0.1:" + "0" * 5000, InternetAddress(V4, 0)),
            (f"[fe80::1%{LOOPBACK_INDEX}]:80", InternetAddress(LINK, 80, LOOPBACK_INDEX)),
            ("[0:0::1]:80", InternetAddress(V6, 80)),
            ("unix:x", LocalAddress(b"x")),
            ("unix:../x", LocalAddress(b"../x")),
            ("unix:%40x", LocalAddress(b"@x")),
            ("unix:/a b", LocalAddress(b"/a b")),
            ("unix:/\xe4", LocalAddress("/\xe4".encode())),
            ("unix:/\udcff", LocalAddress(b"/\xff")),
            ("unix:/%e4", LocalAddress(b"/\xe4")),
        ],
    )
    def test_other_spellings(self, text, address):
        assert Address.parse(text) == address

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "127.0.0.1",
            "::1",
            "::1:80",
            "[::1]",
            "[::1]80",
            "[::1]:80:90",
            "[127.0.0.1]:80",
            "[name]:80",
            ":80",
            "127.0.0.1:",
            "127.0.0.1:-1",
            "127.0.0.1:65536",
            "127.0.0.1:70000",
            "127.0.0.1:" + "9" * 5000,
            "127.0.0.1: 80",
            "127.0.0.1:٨٠",
            "127.0.0.1:http",
            "localhost:80",
            "127.0.0.1%lo:80",
            "127.0.0.1:80?flow_info=5",
            "[::1]:80?flow_info=",
            "[::1]:80?flow_info=-1",
            "[::1]:80?flow_info=1048576",
            "[::1]:80?flow_info=99999999999",
            "/run/x",
            "unix:./",
            "unix:/100%",
            "unix:/%4",
            "unix:/%4g",
            "unix:/%+1",
            "fd:3",
        ],
    )
    def test_what_is_no_address(self, text):
        with pytest.raises(ValueError):
            Address.parse(text)

    @given(st.text())
    def test_any_text_parses_or_is_a_value_error(self, text):
        try:
            address = Address.parse(text)
        except (ValueError, UnknownInterfaceError):
            return
        assert Address.parse(str(address)) == address

    @pytest.mark.parametrize("text", [b"127.0.0.1:80", None, 80, ("127.0.0.1", 80)])
    def test_only_a_str_is_parsed(self, text):
        with pytest.raises(TypeError):
            Address.parse(text)

    def test_a_scope_that_is_no_interface(self):
        with pytest.raises(UnknownInterfaceError, match="no-such-if"):
            Address.parse("[fe80::1%no-such-if]:80")

    def test_a_subclass_parses_its_own_kind(self):
        assert InternetAddress.parse("127.0.0.1:80") == InternetAddress(V4, 80)
        assert LocalAddress.parse("unix:@x") == LocalAddress.abstract("x")
        with pytest.raises(ValueError, match="InternetAddress"):
            InternetAddress.parse("unix:/x")
        with pytest.raises(ValueError, match="LocalAddress"):
            LocalAddress.parse("127.0.0.1:80")


class TestInternetAddress:
    @pytest.mark.parametrize("port", [-1, 65536, 70000])
    def test_port_range(self, port):
        with pytest.raises(ValueError, match="port must be 0 to 65535"):
            InternetAddress(V4, port)

    @pytest.mark.parametrize("argument", ["port", "scope_id", "flow_info"])
    @pytest.mark.parametrize("value", ["80", 80.0, None, True])
    def test_number_types(self, argument, value):
        with pytest.raises(TypeError, match=argument):
            InternetAddress(**{"host": V6, "port": 80, argument: value})

    @pytest.mark.parametrize(
        ("argument", "value"),
        [("scope_id", -1), ("scope_id", 2**32), ("flow_info", -1), ("flow_info", 2**20)],
    )
    def test_scope_and_flow_ranges(self, argument, value):
        with pytest.raises(ValueError, match=argument):
            InternetAddress(V6, 80, **{argument: value})

    @pytest.mark.parametrize("host", ["127.0.0.1", b"127.0.0.1", 2130706433, None])
    def test_host_types(self, host):
        with pytest.raises(TypeError, match="host must be"):
            InternetAddress(host, 80)

    @pytest.mark.parametrize("argument", ["scope_id", "flow_info"])
    def test_ipv4_has_neither_scope_nor_flow(self, argument):
        with pytest.raises(ValueError, match="takes neither"):
            InternetAddress(V4, 80, **{argument: 1})

    @pytest.mark.parametrize("scope", [LOOPBACK_NAME, str(LOOPBACK_INDEX)])
    def test_a_host_never_carries_its_scope(self, scope):
        address = InternetAddress(IPv6Address(f"fe80::1%{scope}"), 80)
        assert address == InternetAddress(LINK, 80, LOOPBACK_INDEX)
        assert address.host.scope_id is None
        assert InternetAddress(IPv6Address(f"fe80::1%{scope}"), 80, LOOPBACK_INDEX) == address

    def test_two_scopes_that_differ(self):
        with pytest.raises(ValueError, match="contradicts"):
            InternetAddress(IPv6Address(f"fe80::1%{LOOPBACK_NAME}"), 80, LOOPBACK_INDEX + 1)

    def test_a_scope_that_is_no_interface(self):
        with pytest.raises(UnknownInterfaceError, match="no-such-if"):
            InternetAddress(IPv6Address("fe80::1%no-such-if"), 80)

    @pytest.mark.parametrize(
        ("host", "plain"), [(IPv4Interface("127.0.0.1/8"), V4), (IPv6Interface("::1/128"), V6)]
    )
    def test_an_interface_object_loses_its_network(self, host, plain):
        address = InternetAddress(host, 80)
        assert address == InternetAddress(plain, 80)
        assert type(address.host) is type(plain)

    def test_unmapped(self):
        mapped = InternetAddress(IPv6Address("::ffff:127.0.0.1"), 80, 3, 4)
        assert mapped.unmapped == InternetAddress(V4, 80)
        for address in (InternetAddress(V4, 80), InternetAddress(V6, 80)):
            assert address.unmapped is address

    @given(ipv4_addresses)
    def test_mapped_is_the_way_back(self, address):
        assert address.mapped.family == socket.AF_INET6
        assert address.mapped.unmapped == address
        assert address.mapped.mapped is address.mapped or address.mapped.mapped == address.mapped

    def test_family_and_sockaddr(self):
        assert InternetAddress(V4, 80).family == socket.AF_INET
        assert InternetAddress(V4, 80).sockaddr == ("127.0.0.1", 80)
        assert InternetAddress(LINK, 80, 2, 5).family == socket.AF_INET6
        assert InternetAddress(LINK, 80, 2, 5).sockaddr == ("fe80::1", 80, 5, 2)


class TestLocalAddress:
    @pytest.mark.parametrize("path", ["/run/x", None, 3, bytearray(b"/x")])
    def test_path_type(self, path):
        with pytest.raises(TypeError, match="path must be bytes"):
            LocalAddress(path)

    @pytest.mark.parametrize("name", [None, 3, bytearray(b"x")])
    def test_name_type(self, name):
        with pytest.raises(TypeError, match="name must be"):
            LocalAddress.abstract(name)

    def test_abstract_names_are_no_paths(self):
        assert LocalAddress.abstract("x") != LocalAddress(b"x")
        assert LocalAddress.abstract("x") == LocalAddress.abstract(b"x")
        assert LocalAddress.abstract("\xe4").path == "\0\xe4".encode()
        assert LocalAddress.abstract("x").is_abstract
        assert not LocalAddress(b"x").is_abstract
        assert not LocalAddress.unnamed.is_abstract

    def test_sockaddr(self):
        assert LocalAddress(b"/x").family == socket.AF_UNIX
        assert LocalAddress(b"/x").sockaddr == b"/x"
        assert LocalAddress.unnamed.sockaddr == b""

    def test_a_path_that_the_kernel_would_cut(self):
        """bind(2) takes b"/a\\0b" for /a without a word."""
        with pytest.raises(ValueError, match="NUL"):
            _ = LocalAddress(b"/a\0b").sockaddr

    def test_abstract_names_elsewhere(self, monkeypatch):
        monkeypatch.setattr(values, "HAS_ABSTRACT_NAMES", False)
        with pytest.raises(SocketError, match="unix:@x: only Linux") as caught:
            _ = LocalAddress.abstract("x").sockaddr
        assert caught.value.identifier == "address-family-not-supported"

    @linux_only
    @pytest.mark.parametrize("name", [b"", b"sockscope-\0\xff%@/test"])
    def test_the_kernel_takes_abstract_names(self, name):
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(LocalAddress.abstract(name).sockaddr)
            address = from_sockaddr(socket.AF_UNIX, bound.getsockname())
        assert address.is_abstract
        assert address.path != b"\0", "without a name the kernel picks one"
        assert not name or address == LocalAddress.abstract(name)

    def test_the_kernel_takes_any_path(self, tmp_path):
        path = os.fsencode(tmp_path) + b"/\xff%@ \n"
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(LocalAddress(path).sockaddr)
            assert from_sockaddr(socket.AF_UNIX, bound.getsockname()) == LocalAddress(path)


class TestValues:
    SAMPLES = [address for address, _ in PRINTED]

    @given(st.lists(addresses, max_size=8))
    def test_totally_ordered_consistently_with_equality(self, some):
        ordered = sorted(some)
        for a, b in itertools.pairwise(ordered):
            assert a <= b
            assert b >= a
            assert (a < b) != (a == b)
            assert (b > a) != (a == b)

    def test_order_of_the_kinds(self):
        kinds = [
            InternetAddress(IPv4Address("255.255.255.255"), 65535),
            InternetAddress(IPv6Address("::"), 0),
            LocalAddress(b""),
        ]
        assert sorted([kinds[2], kinds[0], kinds[1]]) == kinds
        assert InternetAddress(V4, 9) < InternetAddress(V4, 10)
        assert InternetAddress(IPv4Address("9.0.0.0"), 1) < InternetAddress(
            IPv4Address("10.0.0.0"), 0
        )

    @pytest.mark.parametrize("other", [None, "127.0.0.1:80", ("127.0.0.1", 80)])
    def test_nothing_else_compares(self, other):
        assert InternetAddress(V4, 80) != other
        with pytest.raises(TypeError):
            _ = InternetAddress(V4, 80) < other

    @pytest.mark.parametrize("address", SAMPLES, ids=str)
    def test_hashable_and_copied_by_every_means(self, address):  # 27 to 29
        for twin in (
            copy.copy(address),
            copy.deepcopy(address),
            pickle.loads(pickle.dumps(address)),
        ):
            assert twin == address
            assert hash(twin) == hash(address)
            assert eval(repr(address)) == address

    @pytest.mark.parametrize("address", SAMPLES, ids=str)
    def test_frozen_and_slotted(self, address):
        for field in dataclasses.fields(address):
            with pytest.raises(FrozenInstanceError):
                setattr(address, field.name, getattr(address, field.name))
            with pytest.raises(FrozenInstanceError):
                delattr(address, field.name)
        assert not hasattr(address, "__dict__")

    @pytest.mark.parametrize("address", SAMPLES, ids=str)
    @pytest.mark.parametrize("name", ["number", "family", "sockaddr"])
    def test_frozen_for_names_that_are_no_fields(self, address, name):
        with pytest.raises(FrozenInstanceError, match=f"cannot assign to '{name}'"):
            setattr(address, name, 3)
        with pytest.raises(FrozenInstanceError, match=f"cannot delete '{name}'"):
            delattr(address, name)

    def test_the_base_is_abstract(self):
        with pytest.raises(TypeError):
            Address()


class TestFromSockaddr:
    @given(st.one_of(ipv4_addresses, ipv6_addresses))
    def test_inverse_of_sockaddr(self, address):
        found = from_sockaddr(address.family, address.sockaddr)
        assert found == address
        assert hash(found) == hash(address)
        assert str(found) == str(address)

    @given(ipv4_addresses)
    def test_mapped_peers_are_reported_as_ipv4(self, address):
        sockaddr = address.mapped.sockaddr
        assert from_sockaddr(socket.AF_INET6, sockaddr, unmap=True) == address
        assert from_sockaddr(socket.AF_INET6, sockaddr) == address.mapped

    @pytest.mark.parametrize("name", ["/proc/self/fd/9/x", "/proc/thread-self/fd/9/x"])
    def test_a_name_that_leads_elsewhere_in_each_process_is_none(self, name):
        for sockaddr in (name, os.fsencode(name)):
            assert from_sockaddr(values.AF_UNIX, sockaddr) == LocalAddress.unnamed
        assert from_sockaddr(values.AF_UNIX, "/srv" + name) == LocalAddress(b"/srv" + name.encode())

    @given(ipv4_addresses)
    def test_a_mapped_address_is_reported_as_ipv4(self, address):
        assert as_peer(address.mapped) == as_peer(address) == address

    @pytest.mark.parametrize("address", [InternetAddress(LINK, 80, 2, 5), LocalAddress(b"/x")])
    def test_others_are_reported_as_they_are(self, address):
        assert as_peer(address) is address

    def test_other_ipv6_peers_are_not_unmapped(self):
        sockaddr = ("fe80::1", 80, 5, 2)
        expected = InternetAddress(LINK, 80, 2, 5)
        assert from_sockaddr(socket.AF_INET6, sockaddr, unmap=True) == expected

    @pytest.mark.parametrize("scope_id", [0, LOOPBACK_INDEX])
    def test_a_host_that_carries_its_scope(self, scope_id):
        sockaddr = (f"fe80::1%{LOOPBACK_NAME}", 80, 0, scope_id)
        assert from_sockaddr(socket.AF_INET6, sockaddr) == InternetAddress(LINK, 80, LOOPBACK_INDEX)

    @pytest.mark.parametrize("sockaddr", ["", None, b""])
    def test_unnamed_local_peers(self, sockaddr):
        assert from_sockaddr(socket.AF_UNIX, sockaddr) == LocalAddress.unnamed

    def test_local_names(self):
        assert from_sockaddr(socket.AF_UNIX, "/x\udcff") == LocalAddress(b"/x\xff")
        assert from_sockaddr(socket.AF_UNIX, b"\0a\0b") == LocalAddress.abstract(b"a\0b")

    def test_other_families(self):
        with pytest.raises(ValueError, match="address family 12345"):
            from_sockaddr(12345, ())

    def test_what_the_kernel_says_of_an_ipv4_socket(self):
        with socket.socket() as bound:
            bound.bind(InternetAddress(V4, 0).sockaddr)
            address = from_sockaddr(bound.family, bound.getsockname())
            assert address.host == V4
            assert address.port == bound.getsockname()[1] > 0

    @needs_ipv6
    def test_what_the_kernel_says_of_an_ipv6_socket(self):
        with socket.socket(socket.AF_INET6) as bound:
            try:
                bound.bind(InternetAddress(V6, 0).sockaddr)
            except OSError:
                pytest.skip("no IPv6 loopback address")
            assert from_sockaddr(bound.family, bound.getsockname()).host == V6

    def test_either_end_of_a_pair_is_unnamed(self):
        first, second = socket.socketpair()
        with first, second:
            assert from_sockaddr(first.family, first.getpeername()) == LocalAddress.unnamed
