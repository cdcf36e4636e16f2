from __future__ import annotations

import os
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path, PurePosixPath

import pytest
import trio

from sockscope._addresses.designators import (
    ActivatedRequest,
    DescriptorRequest,
    HostRequest,
    parse_designator,
    split_designators,
)
from sockscope._addresses.values import InternetAddress, LocalAddress
from sockscope._core.errors import UnknownInterfaceError
from tests._addresses.test_hosts import LOOPBACK_INDEX, LOOPBACK_NAME

V4 = IPv4Address("127.0.0.1")
V6 = IPv6Address("::1")
LINK = IPv6Address("fe80::1")
FOUR = InternetAddress(V4, 80)
SIX = InternetAddress(V6, 80)
LINKED = InternetAddress(LINK, 80, LOOPBACK_INDEX)


def name_of(value):
    """A test's name must not have the place of an object in memory: it differs by process."""
    shown = repr(value)
    return type(value).__name__ if " at 0x" in shown else shown


class BytesPath(os.PathLike):
    def __fspath__(self):
        return b"/run/\xff"


FINISHED = [
    (FOUR, FOUR),
    (LocalAddress(b"/x"), LocalAddress(b"/x")),
    (("127.0.0.1", 80), FOUR),
    (("127.0.0.1", "80"), FOUR),
    ((V4, 80), FOUR),
    ((b"127.0.0.1", 80), FOUR),
    ((2130706433, 80), FOUR),
    ((0, 80), InternetAddress(IPv4Address("0.0.0.0"), 80)),
    ((2**32 - 1, 80), InternetAddress(IPv4Address("255.255.255.255"), 80)),
    (("127.1", 80), FOUR),
    ((b"127.1", 80), FOUR),
    (("::1", 80), SIX),
    ((V6, "080"), SIX),
    (("::1", 80, 0, 0), SIX),
    (("127.0.0.1", 80, 0, 0), FOUR),
    (("fe80::1", 80, 5, 7), InternetAddress(LINK, 80, 7, 5)),
    ((f"fe80::1%{LOOPBACK_NAME}", 80), LINKED),
    ((f"fe80::1%{LOOPBACK_NAME}", 80, 0, 0), LINKED),
    ((f"fe80::1%{LOOPBACK_NAME}", 80, 0, LOOPBACK_INDEX), LINKED),
    ((f"fe80::1%{LOOPBACK_INDEX}", 80), LINKED),
    ((IPv6Address(f"fe80::1%{LOOPBACK_NAME}"), 80), LINKED),
    (
        (IPv6Address(f"fe80::1%{LOOPBACK_NAME}"), 80, 5, 0),
        InternetAddress(LINK, 80, LOOPBACK_INDEX, 5),
    ),
    ("127.0.0.1:80", FOUR),
    ("127.1:80", FOUR),
    ("[::1]:80", SIX),
    (f"[fe80::1%{LOOPBACK_NAME}]:80", LINKED),
    ("[::1]:80?flow_info=5", InternetAddress(V6, 80, 0, 5)),
    ("unix:/x", LocalAddress(b"/x")),
    ("unix:./x", LocalAddress(b"x")),
    ("unix:@name", LocalAddress.abstract("name")),
    ("unix:/a%FF", LocalAddress(b"/a\xff")),
    (Path("/run/x"), LocalAddress(b"/run/x")),
    (PurePosixPath("x"), LocalAddress(b"x")),
    (Path("@x"), LocalAddress(b"@x")),
    (trio.Path("/run/x"), LocalAddress(b"/run/x")),
    (BytesPath(), LocalAddress(b"/run/\xff")),
]

REQUESTS = [
    (("localhost", 80), HostRequest("localhost", 80)),
    ((b"localhost", 80), HostRequest("localhost", 80)),
    (("localhost", "0080"), HostRequest("localhost", 80)),
    (("localhost", "http"), HostRequest("localhost", "http")),
    (("faß.de", 80), HostRequest("faß.de", 80)),
    (("localhost", 80, 5, 7), HostRequest("localhost", 80, 7, 5)),
    (("127.0.0.1", "http"), HostRequest(V4, "http")),
    ((f"fe80::1%{LOOPBACK_NAME}", "http"), HostRequest(LINK, "http", LOOPBACK_INDEX)),
    ("localhost:80", HostRequest("localhost", 80)),
    ("localhost:http", HostRequest("localhost", "http")),
    ("faß.de:80", HostRequest("faß.de", 80)),
    ("[::1]:http", HostRequest(V6, "http")),
    ("fd:3", DescriptorRequest(3)),
    ("activated:web", ActivatedRequest("web")),
    ("activated:a:b c", ActivatedRequest("a:b c")),
    (("fd", 3), HostRequest("fd", 3)),
]


class TestParse:
    @pytest.mark.parametrize("passive", [False, True])
    @pytest.mark.parametrize(("designator", "expected"), FINISHED + REQUESTS, ids=name_of)
    def test_every_form(self, designator, expected, passive):
        assert parse_designator(designator, passive=passive) == expected

    @pytest.mark.parametrize(("designator", "address"), FINISHED, ids=name_of)
    def test_what_is_printed_is_the_same_designator(self, designator, address):
        assert parse_designator(str(address)) == address

    @pytest.mark.parametrize(
        "request_",
        [request for _, request in REQUESTS if not getattr(request, "scope_id", 0)],
        ids=str,
    )
    def test_requests_print_as_designators(self, request_):
        if request_ != HostRequest("fd", 3):
            assert parse_designator(str(request_)) == request_

    @pytest.mark.parametrize("port", [0, 80, "http"])
    def test_the_wildcard_is_for_binding_only(self, port):
        request = parse_designator((None, port), argument="local", passive=True)
        assert request == HostRequest(None, port)
        assert request.is_wildcard
        assert str(request) == f"*:{port}"
        with pytest.raises(ValueError, match=r"remote=.*needs a host"):
            parse_designator((None, port))

    def test_only_none_is_the_wildcard(self):
        assert not HostRequest("localhost", 80).is_wildcard
        assert parse_designator(("::", 80)) == InternetAddress(IPv6Address("::"), 80)
        with pytest.raises(ValueError, match="the wildcard takes neither"):
            parse_designator((None, 80, 0, 1), passive=True)

    @pytest.mark.parametrize("address", [LocalAddress.unnamed, LocalAddress.abstract()])
    def test_addresses_without_a_name_are_for_binding_only(self, address):
        for designator in (address, str(address)):
            assert parse_designator(designator, passive=True) == address
            with pytest.raises(ValueError, match=r"remote=.*without a name"):
                parse_designator(designator)

    @pytest.mark.parametrize(
        "designator",
        [
            ("", 80),
            (b"", 80),
            (-1, 80),
            (2**32, 80),
            (b"\xff", 80),
            ("256.0.0.1", 80),
            ("127.257", 80),
            ("010.0.0.1", 80),
            ("ff0x::1", 80),
            ("[::1]", 80),
            ("localhost\0.example", 80),
            ("localhost", -1),
            ("localhost", 65536),
            ("localhost", "-1"),
            ("localhost", "+1"),
            ("localhost", "65536"),
            ("localhost", "70000"),
            ("localhost", "9" * 5000),
            ("localhost", ""),
            ("localhost", " 80"),
            ("localhost", "٨٠"),
            ("localhost", "http\0"),
            ("127.0.0.1", 80, 0, 7),
            ("127.0.0.1", 80, 7, 0),
            ("::1", 80, 2**20, 0),
            ("::1", 80, 0, 2**32),
            ("localhost", 80, 0, -1),
            ("::1", 80, 0),
            ("localhost",),
            (),
            (f"fe80::1%{LOOPBACK_NAME}", 80, 0, LOOPBACK_INDEX + 1),
            (f"fe80::1%{LOOPBACK_NAME}", "http", 0, LOOPBACK_INDEX + 1),
            "",
            "localhost",
            "/run/x",
            ":80",
            "localhost:",
            "::1:80",
            "[::1]",
            "[localhost]:80",
            "localhost:80?flow_info=5",
            "unix:./",
            "unix:/%",
            "unix:/a%00b",
            LocalAddress(b"/a\0b"),
            Path("/a\0b"),
            "fd:",
            "fd:-1",
            "fd:x",
            "fd:" + "9" * 10,
            "activated:",
        ],
        ids=lambda value: ascii(value)[:40],
    )
    def test_bad_values_name_the_argument_and_the_value(self, designator):
        with pytest.raises(ValueError) as caught:
            parse_designator(designator, argument="local", passive=True)
        assert str(caught.value).startswith(f"local={designator!r}: ")
        assert caught.value.__cause__ is not None

    def test_a_path_without_a_byte(self):
        class Empty(os.PathLike):
            def __fspath__(self):
                return ""

        with pytest.raises(ValueError, match="at least one byte"):
            parse_designator(Empty())

    @pytest.mark.parametrize(
        "designator",
        [
            None,
            80,
            b"localhost:80",
            ["127.0.0.1", 80],
            object(),
            (3.0, 80),
            (True, 80),
            (["127.0.0.1"], 80),
            ("localhost", None),
            ("localhost", 80.0),
            ("localhost", True),
            ("localhost", b"80"),
            ("localhost", 80, None, 0),
            ("::1", 80, 0, "1"),
        ],
        ids=name_of,
    )
    def test_bad_types_name_the_argument_and_the_value(self, designator):
        with pytest.raises(TypeError) as caught:
            parse_designator(designator, argument="remote")
        # An object's repr has an address in it, which a regular expression would trip over.
        assert str(caught.value).startswith(f"remote={designator!r}: ")

    def test_an_unknown_interface(self):
        with pytest.raises(UnknownInterfaceError, match="no-such-if"):
            parse_designator("[fe80::1%no-such-if]:80")

    def test_a_tuple_of_several_says_how_to_write_them(self):
        with pytest.raises(ValueError, match="several addresses go into a list"):
            parse_designator(("unix:/a", "unix:/b", "unix:/c"))


class TestSplit:
    @pytest.mark.parametrize(
        "one",
        [
            "localhost:80",
            "",
            ("localhost", 80),
            (b"localhost", 80),
            (2130706433, 80),
            (V4, 80),
            (V6, 80, 0, 0),
            (None, 80),
            (True, 80),
            ("a:1", "b:2"),
            Path("/run/x"),
            FOUR,
            LocalAddress.unnamed,
        ],
        ids=name_of,
    )
    def test_one(self, one):
        assert split_designators(one) == [one]

    @pytest.mark.parametrize(
        "several",
        [
            ["localhost:80"],
            ["a:1", "b:2"],
            [("localhost", 80), "unix:/x", FOUR, Path("/x")],
            ((("localhost", 80)), ("localhost", 81)),
            (FOUR, SIX),
            (Path("/x"),),
            (("localhost", 80),),
        ],
        ids=name_of,
    )
    def test_several(self, several):
        assert split_designators(several) == list(several)
        assert split_designators(iter(several)) == list(several)

    @pytest.mark.parametrize("empty", [[], (), set(), iter(())], ids=name_of)
    def test_none(self, empty):
        with pytest.raises(ValueError, match="local is empty"):
            split_designators(empty)

    @pytest.mark.parametrize("value", [None, 80, 8.0, b"localhost", bytearray(b"x"), object()])
    def test_what_is_no_designator(self, value):
        with pytest.raises(TypeError, match="local2 must be"):
            split_designators(value, argument="local2")
