"""Look-ups. The numbers in comments are IOLib's test cases (SEEDS.md, section 3A)."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
import trio
from trio.testing import assert_checkpoints

from sockscope._addresses import lookups
from sockscope._addresses.lookups import (
    HostInfo,
    Protocol,
    Service,
    find_port,
    lookup_host,
    lookup_protocol,
    lookup_service,
)
from sockscope._core.errors import (
    NameNotFoundError,
    ResolverError,
    SocketError,
    TemporaryResolverError,
    UnknownProtocolError,
    UnknownServiceError,
)
from tests._addresses.scripted import ipv4, ipv6
from tests._addresses.test_hosts import LOOPBACK_INDEX, LOOPBACK_NAME

V4 = IPv4Address("198.41.0.4")
V6 = IPv6Address("2001:503:ba3e::2:30")
ROOT = "a.root-servers.net"


def system_has(name, protocol):
    try:
        socket.getservbyname(name, protocol)
    except OSError:
        return False
    return True


needs_services = pytest.mark.skipif(
    not (system_has("ssh", "tcp") and system_has("domain", "udp")),
    reason="the system has no list of services",
)


class TestHost:
    async def test_forward(self, resolver):  # 37
        resolver.forward[ROOT.encode()] = [
            ipv6(str(V6), 0, ROOT),
            ipv4(str(V4), 0),
            ipv4(str(V4), 0),
        ]
        with assert_checkpoints():
            info = await lookup_host(ROOT)
        assert info == HostInfo((V6, V4), ROOT, ())
        assert list(info) == [V6, V4]
        assert resolver.questions[0][-1] & socket.AI_CANONNAME

    async def test_the_name_asked_is_an_alias_of_the_canonical_one(self, resolver):
        resolver.forward[b"www.example"] = [ipv4(str(V4), 0, "host.example")]
        assert await lookup_host("www.example") == HostInfo((V4,), "host.example", ("www.example",))

    @pytest.mark.parametrize("official", ["", "Host.Example"])
    async def test_a_name_is_no_alias_of_itself(self, resolver, official):
        resolver.forward[b"host.example"] = [ipv4(str(V4), 0, official)]
        info = await lookup_host("host.example")
        assert info == HostInfo((V4,), official or "host.example", ())

    @pytest.mark.parametrize(("ipv6_", "expected"), [(True, (V6,)), (False, (V4,))])
    async def test_one_family(self, resolver, ipv6_, expected):
        resolver.forward[ROOT.encode()] = [ipv6(str(V6)), ipv4(str(V4))]
        assert (await lookup_host(ROOT, ipv6=ipv6_)).addresses == expected

    async def test_addresses_of_a_link_keep_their_scope(self, resolver):
        resolver.forward[b"printer.local"] = [ipv6("fe80::1", scope_id=LOOPBACK_INDEX)]
        info = await lookup_host("printer.local")
        assert list(info) == [IPv6Address(f"fe80::1%{LOOPBACK_NAME}")]

    @pytest.mark.parametrize("host", [str(V4), V4, int(V4), str(V4).encode()], ids=repr)
    async def test_reverse(self, resolver, host):  # 38
        resolver.reverse[str(V4)] = ROOT
        with assert_checkpoints():
            assert await lookup_host(host) == HostInfo((V4,), ROOT, ())
        assert resolver.questions == [((str(V4), 0), socket.NI_NAMEREQD)]

    async def test_reverse_of_a_scoped_address(self, resolver):
        host = IPv6Address(f"fe80::1%{LOOPBACK_NAME}")
        info = await lookup_host(host)
        assert info == HostInfo((host,), str(host), ())
        assert resolver.questions[0][0] == ("fe80::1", 0, 0, LOOPBACK_INDEX)

    @pytest.mark.parametrize("answer", ["EAI_NONAME", "EAI_AGAIN"])
    @pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "::1"])
    async def test_an_address_without_a_name_resolves_to_itself(self, resolver, host, answer):  # 40
        error = socket.gaierror(getattr(socket, answer), "no name")
        resolver.reverse.update({"127.0.0.1": error, "::1": error})
        info = await lookup_host(host)
        (address,) = info
        assert info.canonical_name == str(address)
        assert str(address) in ("127.0.0.1", "::1")

    async def test_a_shortage_in_a_reverse_look_up(self, resolver):
        resolver.reverse["127.0.0.1"] = OSError(errno.EMFILE, "Too many open files")
        with pytest.raises(SocketError, match=r"look up the name of 127\.0\.0\.1") as caught:
            await lookup_host("127.0.0.1")
        assert caught.value.errno == errno.EMFILE

    @pytest.mark.parametrize(("host", "ipv6_"), [("127.0.0.1", True), ("::1", False)])
    async def test_a_literal_of_the_other_family(self, resolver, host, ipv6_):  # 42
        with pytest.raises(NameNotFoundError, match=host):
            await lookup_host(host, ipv6=ipv6_)
        assert resolver.questions == []

    async def test_an_unknown_name(self, resolver):  # 39, Emacs's non-existent-lookup-failure
        with pytest.raises(ResolverError, match=r"emacs\.invalid") as caught:
            await lookup_host("emacs.invalid")
        assert isinstance(caught.value, NameNotFoundError)
        assert caught.value.identifier == "resolver-no-name"

    async def test_a_name_server_that_is_silent(self, resolver):
        resolver.forward[b"host"] = socket.gaierror(socket.EAI_AGAIN, "try again")
        with pytest.raises(TemporaryResolverError, match="host"):
            await lookup_host("host")

    async def test_unicode_names(self, resolver):  # Emacs's lookup-unicode-domains
        resolver.forward[b"xn--fa-hia.de"] = [ipv4(str(V4))]
        assert (await lookup_host("faß.de")).addresses == (V4,)
        assert (await lookup_host("xn--fa-hia.de")).addresses == (V4,)

    @pytest.mark.parametrize(
        "host", ["", "1.2.3.256", "ff0x::114", 2**32, -1, "a\0b"]
    )  # 8, 9, 14, 15, 41
    async def test_what_is_no_host(self, host):
        with pytest.raises(ValueError, match="host="):
            await lookup_host(host)

    @pytest.mark.parametrize("host", [None, 1.5, ("127.0.0.1", 80), [127, 0, 1], True])  # 7, 18, 30
    async def test_what_is_no_type_of_host(self, host):
        with pytest.raises(TypeError, match="host="):
            await lookup_host(host)

    async def test_a_bad_family(self):  # Emacs's lookup-family-specification
        with pytest.raises(TypeError, match="ipv6"):
            await lookup_host("localhost", ipv6="ipv6")


class TestService:
    @needs_services
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            (("ssh",), Service(22, "ssh", "tcp")),  # 43
            (("ssh", "tcp"), Service(22, "ssh", "tcp")),
            ((22,), Service(22, "ssh", "tcp")),
            (("22",), Service(22, "ssh", "tcp")),
            ((53, "udp"), Service(53, "domain", "udp")),  # 44
            (("ssh", "any"), Service(22, "ssh", "tcp")),
        ],
        ids=repr,
    )
    async def test_known(self, asked, expected):
        with assert_checkpoints():
            assert await lookup_service(*asked) == expected

    @needs_services
    async def test_an_alias_gives_the_official_name(self):
        if not system_has("www", "tcp"):
            pytest.skip("the system's list has no alias for http")
        assert await lookup_service("www") == Service(80, "http", "tcp")

    @needs_services
    async def test_any_protocol_takes_what_there_is(self):
        if system_has("bootps", "tcp") or not system_has("bootps", "udp"):
            pytest.skip("the system's list has bootps otherwise")
        assert await lookup_service("bootps", "any") == Service(67, "bootps", "udp")
        assert await lookup_service(67, "any") == Service(67, "bootps", "udp")

    @pytest.mark.parametrize("protocol", ["tcp", "udp", "any"])
    @pytest.mark.parametrize("asked", [1024, "1024", "no-such-service"])  # 45
    async def test_unknown(self, asked, protocol):
        with pytest.raises(UnknownServiceError) as caught:
            await lookup_service(asked, protocol)
        assert repr(asked) in str(caught.value)
        assert repr(protocol) in str(caught.value)

    @pytest.mark.parametrize("asked", [-1, 65536, "70000", "-1", "+22", "", " 22", "a b", "ssh\0"])
    async def test_bad_values(self, asked):
        with pytest.raises(ValueError):
            await lookup_service(asked)

    @pytest.mark.parametrize("asked", [None, 22.0, True, b"ssh"])
    async def test_bad_types(self, asked):
        with pytest.raises(TypeError):
            await lookup_service(asked)

    @pytest.mark.parametrize("protocol", ["sctp", "TCP", "", None])
    async def test_bad_protocols(self, protocol):
        with pytest.raises(ValueError, match="protocol must be"):
            await lookup_service("ssh", protocol)

    @needs_services
    async def test_for_resolve(self):
        assert await find_port("ssh", "tcp") == 22
        with pytest.raises(UnknownServiceError, match="'no-such-service'"):
            await find_port("no-such-service", "udp")

    async def test_a_list_that_cannot_be_asked(self, monkeypatch):
        original = socket.gaierror(socket.EAI_MEMORY, "out of memory")

        def fail(*args, **kwargs):
            raise original

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        with pytest.raises(ResolverError, match="'ssh'") as caught:
            await lookup_service("ssh")
        assert not isinstance(caught.value, UnknownServiceError)
        assert caught.value.__cause__ is original

    @needs_services
    async def test_look_ups_at_once_do_not_mix(self):
        """getservbyname(3) has one buffer for all threads."""
        found = []

        async def ask(*args):
            found.append((args, await lookup_service(*args)))

        questions = [("ssh", "tcp"), (53, "udp"), ("http", "tcp"), (123, "udp")]
        known = [args for args in questions if args[0] != 123 or system_has("ntp", "udp")]
        async with trio.open_nursery() as nursery:
            for args in known * 10:
                nursery.start_soon(ask, *args)
        for args, service in found:
            assert args[0] in (service.name, service.port)


PROTOCOLS = """\
# A comment
ip\t0\tIP\t\t# pseudo protocol number
tcp\t6\tTCP\t# transmission control protocol

udp 17 UDP user-datagram
broken
bad x Y
ipv6-icmp 58 IPv6-ICMP
"""


class TestProtocol:
    @pytest.fixture
    def protocols(self, tmp_path, monkeypatch):
        path = tmp_path / "protocols"
        path.write_text(PROTOCOLS)
        monkeypatch.setattr(lookups, "PROTOCOLS_FILE", path)
        return path

    @pytest.mark.usefixtures("protocols")
    @pytest.mark.parametrize(
        ("asked", "expected"),
        [
            ("tcp", Protocol(6, "tcp", ("TCP",))),  # 46
            ("udp", Protocol(17, "udp", ("UDP", "user-datagram"))),  # 47
            (6, Protocol(6, "tcp", ("TCP",))),  # 49
            ("6", Protocol(6, "tcp", ("TCP",))),
            ("User-Datagram", Protocol(17, "udp", ("UDP", "user-datagram"))),
            ("IPV6-ICMP", Protocol(58, "ipv6-icmp", ("IPv6-ICMP",))),
        ],
    )
    async def test_known(self, asked, expected):
        with assert_checkpoints():
            assert await lookup_protocol(asked) == expected

    @pytest.mark.usefixtures("protocols")
    @pytest.mark.parametrize("asked", ["nonsense", "bad", "broken", "", 255, -1])  # 48
    async def test_unknown(self, asked):
        with pytest.raises(UnknownProtocolError) as caught:
            await lookup_protocol(asked)
        assert repr(asked) in str(caught.value)

    @pytest.mark.parametrize("asked", [None, 6.0, True, b"tcp"])
    async def test_bad_types(self, asked):
        with pytest.raises(TypeError, match="name_or_number"):
            await lookup_protocol(asked)

    async def test_a_system_without_a_list(self, protocols):  # 36
        protocols.unlink()
        assert await lookup_protocol("TCP") == Protocol(6, "tcp")
        assert (await lookup_protocol(17)).name == "udp"
        with pytest.raises(UnknownProtocolError, match="nonsense"):
            await lookup_protocol("nonsense")

    async def test_a_list_that_cannot_be_read(self, protocols):
        protocols.unlink()
        protocols.mkdir()
        with pytest.raises(SocketError, match="cannot read"):
            await lookup_protocol("tcp")

    async def test_the_systems_own(self):
        assert (await lookup_protocol("tcp")).number == 6
        assert (await lookup_protocol(17)).name == "udp"
