from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address

import pytest
import trio
from trio.testing import assert_checkpoints

from sockscope._addresses import resolve as resolve_module
from sockscope._addresses.designators import HostRequest
from sockscope._addresses.resolve import resolve, resolve_request
from sockscope._addresses.values import InternetAddress, LocalAddress
from sockscope._core.errors import (
    NameNotFoundError,
    ResolverError,
    SocketError,
    TemporaryResolverError,
    UnknownInterfaceError,
    UnknownServiceError,
)
from tests._addresses.scripted import ipv4, ipv6

V4 = InternetAddress(IPv4Address("127.0.0.1"), 80)
V6 = InternetAddress(IPv6Address("::1"), 80)
WILD4 = InternetAddress(IPv4Address("0.0.0.0"), 80)
WILD6 = InternetAddress(IPv6Address("::"), 80)


@pytest.fixture
def service_list(monkeypatch):
    """A list of services that is the same on every machine."""

    async def find_port(name, protocol):
        await trio.lowlevel.checkpoint()
        ports = {("http", "tcp"): 80, ("domain", "udp"): 53}
        if (name, protocol) not in ports:
            raise UnknownServiceError(socket.EAI_SERVICE, f"{name} {protocol}")
        return ports[name, protocol]

    monkeypatch.setattr(resolve_module, "find_port", find_port)


@pytest.mark.usefixtures("no_threads")
class TestWithoutLookUp:
    @pytest.mark.parametrize(
        ("designator", "expected"),
        [
            (("127.0.0.1", 80), [V4]),
            (("127.1", "80"), [V4]),
            ("[::1]:80", [V6]),
            (V6, [V6]),
            ("unix:/x", [LocalAddress(b"/x")]),
        ],
        ids=str,
    )
    async def test_literals_ask_nobody(self, designator, expected, resolver):
        with assert_checkpoints():
            assert await resolve(designator) == expected
        assert resolver.questions == []

    @pytest.mark.parametrize(
        ("ipv6", "expected"), [(None, [WILD6, WILD4]), (True, [WILD6]), (False, [WILD4])]
    )
    async def test_the_wildcard(self, ipv6, expected, resolver):
        with assert_checkpoints():
            assert await resolve((None, 80), passive=True, ipv6=ipv6) == expected
        assert resolver.questions == []

    async def test_the_wildcard_is_for_binding_only(self):
        with pytest.raises(ValueError, match="needs a host"):
            await resolve((None, 80))

    @pytest.mark.parametrize(("designator", "ipv6"), [(V4, True), (V6, False), ("127.1:80", True)])
    async def test_a_literal_of_the_other_family(self, designator, ipv6):  # 42
        with pytest.raises(NameNotFoundError, match=r"127\.0\.0\.1|::1") as caught:
            await resolve(designator, ipv6=ipv6)
        assert caught.value.identifier == "resolver-no-name"

    @pytest.mark.parametrize("ipv6", [True, False])
    async def test_local_addresses_are_of_neither_family(self, ipv6):
        assert await resolve("unix:/x", ipv6=ipv6) == [LocalAddress(b"/x")]

    @pytest.mark.parametrize("designator", ["fd:3", "activated:web"])
    async def test_sockets_that_are_there_already(self, designator):
        with pytest.raises(ValueError, match=f"{designator} cannot be resolved"):
            await resolve(designator, passive=True)

    async def test_an_unknown_interface(self):
        with pytest.raises(UnknownInterfaceError, match="no-such-if"):
            await resolve("[fe80::1%no-such-if]:80")

    @pytest.mark.parametrize("ipv6", [1, 0, "ipv6", "only"])
    async def test_ipv6_is_a_bool_or_none(self, ipv6):
        with pytest.raises(TypeError, match="ipv6 must be"):
            await resolve(V6, ipv6=ipv6)

    async def test_types(self):
        assert await resolve("unix:/x", type="seqpacket") == [LocalAddress(b"/x")]
        with pytest.raises(ValueError, match=r"seqpacket.*127\.0\.0\.1:80"):
            await resolve(V4, type="seqpacket")
        with pytest.raises(ValueError, match=r"seqpacket.*localhost:80"):
            await resolve("localhost:80", type="seqpacket")
        with pytest.raises(ValueError, match="type must be"):
            await resolve(V4, type="raw")

    async def test_cancelled_before_it_began(self):
        with trio.CancelScope() as scope:
            scope.cancel()
            await resolve(V4)
        assert scope.cancelled_caught

    @pytest.mark.usefixtures("service_list")
    async def test_a_literal_with_a_service(self, resolver):
        with assert_checkpoints():
            assert await resolve("127.0.0.1:http") == [V4]
        assert (await resolve("127.0.0.1:domain", type="datagram"))[0].port == 53
        assert await resolve((None, "http"), passive=True) == [WILD6, WILD4]
        assert resolver.questions == []
        with pytest.raises(UnknownServiceError):
            await resolve("127.0.0.1:domain")


class TestNames:
    async def test_the_resolvers_order_without_duplicates(self, resolver):
        resolver.forward[b"host.example"] = [
            ipv4("192.0.2.2"),
            ipv6("2001:db8::1"),
            ipv4("192.0.2.1"),
            ipv4("192.0.2.2"),
            ipv6("2001:db8::1"),
        ]
        with assert_checkpoints():
            found = await resolve("host.example:80")
        assert [str(address.host) for address in found] == ["192.0.2.2", "2001:db8::1", "192.0.2.1"]

    @pytest.mark.parametrize(
        ("type_", "kind"), [("stream", socket.SOCK_STREAM), ("datagram", socket.SOCK_DGRAM)]
    )
    @pytest.mark.parametrize(
        ("ipv6_", "family"),
        [(None, socket.AF_UNSPEC), (True, socket.AF_INET6), (False, socket.AF_INET)],
    )
    async def test_what_the_resolver_is_asked(self, resolver, type_, kind, ipv6_, family):
        resolver.forward[b"localhost"] = [ipv4("127.0.0.1"), ipv6("::1")]
        found = await resolve(("localhost", "http"), type=type_, ipv6=ipv6_)
        assert found == {None: [V4, V6], True: [V6], False: [V4]}[ipv6_]
        assert resolver.questions == [(b"localhost", "http", family, kind, 0)]

    async def test_a_resolver_that_ignores_the_family(self, resolver, monkeypatch):
        async def everything(*args):
            return [ipv4("127.0.0.1"), ipv6("::1"), (socket.AF_UNIX, 1, 0, "", "/x")]

        monkeypatch.setattr(resolver, "getaddrinfo", everything)
        assert await resolve("localhost:80", ipv6=True) == [V6]
        assert await resolve("localhost:80") == [V4, V6]

    async def test_sockaddrs_as_resolvers_may_give_them(self, resolver):
        resolver.forward[b"host"] = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 80)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (10, b"\0" * 28)),  # no IPv6 in Python
            ipv6("fe80::1%7", flow_info=5),
            ipv6("::2", scope_id=7),
        ]
        link = InternetAddress(IPv6Address("fe80::1"), 80, 7, 5)
        scoped = InternetAddress(IPv6Address("::2"), 80, 7)
        assert await resolve("host:80") == [V6, link, scoped]

    async def test_the_scope_and_flow_of_a_four_tuple(self, resolver):
        resolver.forward[b"host"] = [
            ipv4("192.0.2.1"),
            ipv6("fe80::1"),
            ipv6("fe80::2", scope_id=3),
        ]
        assert [address.sockaddr for address in await resolve(("host", 80, 5, 7))] == [
            ("fe80::1", 80, 5, 7),
            ("fe80::2", 80, 5, 3),
        ]
        resolver.forward[b"host"] = [ipv4("192.0.2.1")]
        with pytest.raises(NameNotFoundError, match="host:80"):
            await resolve(("host", 80, 0, 7))

    async def test_names_are_encoded_by_idna_2008(self, resolver):  # trap 36
        resolver.forward[b"xn--fa-hia.example"] = [ipv4("127.0.0.1")]
        assert await resolve("faß.example:80") == [V4]

    @pytest.mark.parametrize("name", ["\udce4.example", "ß" * 70 + ".example", "a..ß"])
    async def test_what_cannot_be_encoded_is_no_name(self, name, resolver):
        with pytest.raises(NameNotFoundError) as caught:
            await resolve((name, 80))
        assert ascii(name)[1:-1] in ascii(str(caught.value))
        assert isinstance(caught.value.__cause__, UnicodeError)

    async def test_long_labels_are_the_resolvers_to_judge(self, resolver):
        """The socket module's codec would raise a UnicodeError of its own."""
        with pytest.raises(NameNotFoundError):
            await resolve(("a" * 300, 80))
        assert resolver.questions[0][0] == b"a" * 300

    async def test_no_address_at_all(self, resolver):
        resolver.forward[b"host"] = []
        with pytest.raises(NameNotFoundError, match="host"):
            await resolve("host:80")

    async def test_no_address_of_the_family(self, resolver):
        resolver.forward[b"host"] = [ipv4("127.0.0.1")]
        with pytest.raises(NameNotFoundError, match="host: it has no IPv6 address"):
            await resolve("host:80", ipv6=True)

    @pytest.mark.parametrize(
        ("name", "cls", "identifier"),
        [
            ("EAI_NONAME", NameNotFoundError, "resolver-no-name"),
            ("EAI_NODATA", NameNotFoundError, "resolver-no-name"),
            ("EAI_AGAIN", TemporaryResolverError, "resolver-again"),
            ("EAI_FAIL", ResolverError, "resolver-fail"),
            ("EAI_MEMORY", ResolverError, "resolver-unknown"),
        ],
    )
    async def test_errors(self, resolver, name, cls, identifier):  # 39
        if not hasattr(socket, name):
            pytest.skip(f"no {name} here")
        number = getattr(socket, name)
        original = socket.gaierror(number, "in words")
        resolver.forward[b"emacs.invalid"] = original
        with pytest.raises(socket.gaierror) as caught:
            await resolve("emacs.invalid:80")
        assert caught.value._public_class in (cls, None)
        assert isinstance(caught.value, cls)
        assert caught.value.errno == number
        assert caught.value.identifier == identifier
        assert caught.value.__cause__ is original
        assert "emacs.invalid: in words" in str(caught.value)

    @pytest.mark.parametrize(("type_", "protocol"), [("stream", "tcp"), ("datagram", "udp")])
    async def test_an_unknown_service(self, resolver, type_, protocol):
        resolver.forward[b"localhost"] = socket.gaierror(socket.EAI_SERVICE, "no such service")
        with pytest.raises(UnknownServiceError, match=f"'nonsense'.*'{protocol}'") as caught:
            await resolve("localhost:nonsense", type=type_)
        assert caught.value.errno == socket.EAI_SERVICE
        assert caught.value.__cause__ is resolver.forward[b"localhost"]

    async def test_a_shortage_of_descriptors_is_no_fault_of_the_name(self, resolver):
        resolver.forward[b"localhost"] = OSError(errno.EMFILE, "Too many open files")
        with pytest.raises(SocketError, match="look up localhost") as caught:
            await resolve("localhost:80")
        assert not isinstance(caught.value, ResolverError)
        assert caught.value.errno == errno.EMFILE

    async def test_port_strings_are_checked_before_anybody_is_asked(self, resolver):  # trap 26
        for port in ("70000", "65536", "-1"):
            with pytest.raises(ValueError, match="port must be 0 to 65535"):
                await resolve(("localhost", port))
        assert resolver.questions == []

    async def test_cancelled_while_the_resolver_is_asked(
        self, resolver, monkeypatch, autojump_clock
    ):
        async def never(*args):
            await trio.sleep_forever()

        monkeypatch.setattr(resolver, "getaddrinfo", never)
        with trio.move_on_after(5) as scope:
            await resolve("localhost:80")
        assert scope.cancelled_caught

    async def test_a_parsed_request(self, resolver):
        resolver.forward[b"localhost"] = [ipv4("127.0.0.1")]
        assert await resolve_request(HostRequest("localhost", 80)) == [V4]
