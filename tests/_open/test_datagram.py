"""Opening datagram sockets: families, wildcards, names, failures that leave nothing behind."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import stat

import pytest
import trio
import trio.testing

from sockscope._addresses.values import InternetAddress, LocalAddress
from sockscope._core.errors import ConnectError, DatagramError, OptionError, SocketError
from sockscope._open import datagram as opening
from sockscope._open.datagram import open_every_address
from sockscope._options.values import SocketOptions
from sockscope._sockets.datagram import DatagramSocket
from sockscope.testing import ScriptedResolver, cancel_everywhere, open_descriptors
from tests._sockets.datagrams import INTERNET, LOOPBACK, make, needs_ipv6, opened, request_for

BOTH = {"both.test": ["::1", "127.0.0.1"], "six.test": ["::1"]}


def v6_only(sock):
    return bool(sock._sock.getsockopt(stdlib_socket.IPPROTO_IPV6, stdlib_socket.IPV6_V6ONLY))


class TestFamilies:
    @needs_ipv6
    async def test_without_any_address_it_is_dual_stack(self):
        async with opened() as sock:
            assert sock._sock.family == stdlib_socket.AF_INET6
            assert not v6_only(sock)
            assert not sock.is_bound

    @pytest.mark.parametrize(
        ("arguments", "family"),
        [
            ({"ipv6": False}, stdlib_socket.AF_INET),
            pytest.param({"ipv6": True}, stdlib_socket.AF_INET6, marks=needs_ipv6),
            ({"family": "local"}, stdlib_socket.AF_UNIX),
        ],
    )
    async def test_a_family_that_was_asked_for(self, arguments, family):
        async with opened(**arguments) as sock:
            assert sock._sock.family == family
            assert family != stdlib_socket.AF_INET6 or v6_only(sock)

    async def test_without_ipv6_it_is_ipv4(self, monkeypatch):
        real = opening.new_socket

        def lacks(family, *arguments):
            if family == stdlib_socket.AF_INET6:
                raise SocketError(errno.EAFNOSUPPORT, "no IPv6 here")
            return real(family, *arguments)

        monkeypatch.setattr(opening, "new_socket", lacks)
        for local in (None, (None, 0)):
            async with opened(local=local) as sock:
                assert sock._sock.family == stdlib_socket.AF_INET
        with pytest.raises(SocketError, match="no IPv6"):
            await make(ipv6=True)
        with ScriptedResolver(BOTH):
            async with opened(local=("both.test", 0)) as sock:
                assert sock._sock.family == stdlib_socket.AF_INET
            [sock] = await open_every_address(request_for(local=("both.test", 0)))
            await sock.aclose()
            with pytest.raises(SocketError, match="no IPv6"):
                await open_every_address(request_for(local=("six.test", 0)))

    async def test_a_shortage_is_no_lack_of_ipv6(self, monkeypatch):
        def short(*_):
            raise SocketError(errno.EMFILE, "no descriptors")

        monkeypatch.setattr(opening, "new_socket", short)
        for arguments in ({}, {"local": (None, 0)}, {"remote": ("127.0.0.1", 9)}):
            with pytest.raises(SocketError, match="no descriptors") as info:
                await make(**arguments)
            assert not isinstance(info.value, ConnectError)

    @needs_ipv6
    async def test_the_wildcard_is_of_both_families(self):
        async with opened(local=(None, 0)) as sock:
            assert not v6_only(sock)
            for host in ("127.0.0.1", "::1"):
                await sock.send_to(b"hello", (host, sock.local_address.port))
                assert str((await sock.receive_from()).address.host) == host
        async with opened(local=("::", 0)) as sock:
            assert v6_only(sock)
        async with opened(local=(None, 0), ipv6=False) as sock:
            assert sock._sock.family == stdlib_socket.AF_INET

    async def test_half_a_wildcard_is_not_enough(self):
        async with opened(local=("0.0.0.0", 0)) as taken:
            with pytest.raises(SocketError, match="cannot bind to"):
                await make(local=(None, taken.local_address.port))


class TestNames:
    async def test_the_first_that_can_be_bound(self):
        with ScriptedResolver({"some.test": ["192.0.2.1", "127.0.0.1"]}):
            async with opened(local=("some.test", 0)) as sock:
                assert str(sock.local_address.host) == "127.0.0.1"

    async def test_an_option_that_fails_ends_it(self):
        options = SocketOptions(bind_to_device="nosuch0")
        with ScriptedResolver({"some.test": ["127.0.0.1", "127.0.0.2"]}):
            with pytest.raises(OptionError):
                await make(local=("some.test", 0), options=options)
            with pytest.raises(OptionError):
                await make(remote=("some.test", 9), options=options)

    async def test_the_first_that_can_be_connected_to(self):
        with ScriptedResolver({"some.test": ["2001:db8::1", "127.0.0.1"]}):
            async with opened(remote=("some.test", 9), local=("127.0.0.1", 0)) as sock:
                assert str(sock.remote_address) == "127.0.0.1:9"

    async def test_none_can(self, tmp_path):
        with pytest.raises(ConnectError, match="cannot connect to") as info:
            await make(remote=tmp_path / "nowhere")
        assert isinstance(info.value, FileNotFoundError)
        [error] = info.value.exceptions
        assert isinstance(error.__cause__, FileNotFoundError)

    async def test_of_no_family_in_common(self):
        with pytest.raises(SocketError, match="no address of that family") as info:
            await make(remote=("127.0.0.1", 9), local=("::1", 0))
        assert info.value.errno == errno.EADDRNOTAVAIL


class TestEveryAddress:
    @needs_ipv6
    async def test_all_have_one_port(self):
        with ScriptedResolver(BOTH):
            sockets = await open_every_address(request_for(local=("both.test", 0)))
        assert [str(sock.local_address.host) for sock in sockets] == ["::1", "127.0.0.1"]
        assert len({sock.local_address.port for sock in sockets}) == 1
        for sock in sockets:
            await sock.aclose()

    async def test_another_port_is_tried(self, monkeypatch):
        real, calls = opening._open, []

        async def taken_at_first(request, source, target, **details):
            calls.append(source)
            if len(calls) == 2:
                raise SocketError(errno.EADDRINUSE, "taken")
            return await real(request, source, target, **details)

        monkeypatch.setattr(opening, "_open", taken_at_first)
        with ScriptedResolver({"two.test": ["127.0.0.1", "127.0.0.2"]}):
            sockets = await open_every_address(request_for(local=("two.test", 0)))
        assert len(calls) == 4
        for sock in sockets:
            await sock.aclose()

    async def test_one_fails_and_none_is_left(self):
        before = open_descriptors()
        with ScriptedResolver({"two.test": ["127.0.0.1", "192.0.2.1"]}):
            with pytest.raises(SocketError, match=r"192\.0\.2\.1"):
                await open_every_address(request_for(local=("two.test", 0)))
        assert open_descriptors() == before

    async def test_a_wildcard_is_one_socket(self):
        [sock] = await open_every_address(request_for(local=(None, 0)))
        await sock.aclose()

    async def test_a_path_is_one_socket(self, tmp_path):
        [sock] = await open_every_address(request_for(local=tmp_path / "socket"))
        await sock.aclose()


class TestPaths:
    async def test_mode_and_removal(self, tmp_path):
        path = tmp_path / "socket"
        async with opened(local=path, mode=0o600) as sock:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert sock.local_address == LocalAddress(os.fsencode(path))
        assert not path.exists()

    async def test_a_live_one_is_not_taken_over(self, tmp_path):
        async with opened(local=tmp_path / "socket"):
            with pytest.raises(SocketError, match="bind to"):
                await make(local=tmp_path / "socket")
        stale = stdlib_socket.socket(stdlib_socket.AF_UNIX, stdlib_socket.SOCK_DGRAM)
        stale.bind(str(tmp_path / "stale"))
        stale.close()
        async with opened(local=tmp_path / "stale"):
            pass

    async def test_abstract_names(self):
        async with opened(local=LocalAddress.abstract()) as first:
            assert first.local_address.is_abstract
            async with opened(local=LocalAddress.abstract(), remote=first.local_address) as sock:
                await sock.send_to(b"hello")
                assert (await first.receive_from()).address == sock.local_address


class TestConfigure:
    @pytest.mark.parametrize("family", INTERNET)
    async def test_is_called_before_bind_and_connect(self, family):
        seen = []

        def configure(sock, context):
            seen.append(context)
            assert sock.getsockname()[1] == 0
            assert sock.getsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_BROADCAST) == 1

        options = SocketOptions(broadcast=True)
        async with opened(local=LOOPBACK[family], options=options, configure=configure) as peer:
            async with opened(
                remote=peer.local_address, options=options, configure=configure
            ) as sock:
                assert sock.requested_options == options
        assert [context.type for context in seen] == [stdlib_socket.SOCK_DGRAM] * 2
        assert seen[1].address == peer.local_address

    async def test_if_it_raises_nothing_was_opened(self):
        before = open_descriptors()

        def configure(*_):
            raise KeyError("mine")

        with pytest.raises(KeyError):
            await make(local=LOOPBACK["ipv4"], configure=configure)
        assert open_descriptors() == before


class TestReady:
    async def test_a_descriptor(self):
        plain = stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM)
        plain.bind(("127.0.0.1", 0))
        name = f"fd:{plain.detach()}"
        async with opened(local=name, options=SocketOptions(broadcast=True)) as sock:
            assert isinstance(sock, DatagramSocket)
            assert sock.get_option("broadcast") is True
            await sock.send_to(b"hello", sock.local_address)
            # Others may have set whatever: every report is read, and nothing is joined.
            assert (await sock.receive_many())[0].data == b"hello"
            assert sock.get_option("gro") is False

    async def test_all_of_a_name_or_a_descriptor(self):
        plain = stdlib_socket.socket(stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM)
        [sock] = await open_every_address(request_for(local=f"fd:{plain.detach()}"))
        await sock.aclose()


async def test_every_opening_is_a_checkpoint(tmp_path):
    for arguments in (
        {},
        {"local": ("127.0.0.1", 0)},
        {"remote": ("127.0.0.1", 9)},
        {"local": tmp_path / "socket"},
    ):
        with trio.testing.assert_checkpoints():
            sock = await make(**arguments)
        await sock.aclose()


async def test_cancelled_nothing_is_open(tmp_path):
    async def use():
        async with opened(local=tmp_path / "socket") as sock:
            async with opened(remote=sock.local_address, local=tmp_path / "other") as other:
                await other.send_to(b"hello")

    assert await cancel_everywhere(use) > 3
    assert list(tmp_path.iterdir()) == []


class Network:
    """A network within this process: a custom socket factory's sockets."""

    def __init__(self):
        self.sockets = {}
        self.ports = iter(range(40000, 50000))

    def socket(self, family=None, type=None, proto=None):
        return FakeSocket(self)


class FakeSocket(trio.socket.SocketType):
    family, type, proto = stdlib_socket.AF_INET, stdlib_socket.SOCK_DGRAM, 0

    def __init__(self, network):
        self.network, self.name, self.peer = network, ("0.0.0.0", 0), None
        self.send_channel, self.receive_channel = trio.open_memory_channel(10)

    def getsockname(self):
        return self.name

    def getpeername(self):
        if self.peer is None:
            raise OSError(errno.ENOTCONN, "not connected")
        return self.peer

    async def bind(self, address):
        self.name = address[0], address[1] or next(self.network.ports)
        self.network.sockets[self.name] = self

    async def connect(self, address):
        await trio.lowlevel.checkpoint()
        self.peer = address

    async def send(self, data, flags=0):
        return await self.sendto(data, self.peer)

    async def sendto(self, data, address):
        if address not in self.network.sockets:
            raise OSError(errno.EHOSTUNREACH, "nobody there")
        await self.network.sockets[address].send_channel.send((bytes(data), self.name))
        return len(data)

    async def recvfrom(self, size):
        return await self.receive_channel.receive()

    def setsockopt(self, *_):
        pass

    def fileno(self):
        return -1

    def close(self):
        self.send_channel.close()


class TestCustomFactory:
    @pytest.fixture
    async def ends(self):
        trio.socket.set_custom_socket_factory(Network())
        async with opened(local=("10.0.0.1", 0)) as first:
            async with opened(local=("10.0.0.2", 0), remote=first.local_address) as second:
                yield first, second

    async def test_sends_and_receives(self, ends):
        first, second = ends
        assert await second.send_to(b"hello") == 5
        datagram = await first.receive_from(strict=True)
        assert (datagram.data, datagram.address) == (b"hello", second.local_address)
        assert await first.send_many([(b"one", datagram.address), (b"two", datagram.address)]) == 2
        assert [d.data for d in await second.receive_many()] == [b"one"]
        buffer = bytearray(2)
        assert (await second.receive_from_into(buffer)).truncated
        assert buffer == b"tw"
        assert await second.receive_many(max_wait=0.001) == []
        assert isinstance(first.local_address, InternetAddress)

    async def test_names(self, ends):
        first, second = ends
        with ScriptedResolver({"first.test": ["10.0.0.1"]}):
            await second.send_to(b"hello", ("first.test", first.local_address.port))
        assert (await first.receive_from()).data == b"hello"

    async def test_errors_come_with_the_address(self, ends):
        first, _ = ends
        with pytest.raises(SocketError, match="nobody there") as info:
            await first.send_to(b"hello", ("10.0.0.9", 9))
        assert info.value.errno == errno.EHOSTUNREACH
        with pytest.raises(SocketError) as info:
            await first.send_many([(b"hello", ("10.0.0.9", 9))])
        assert info.value.sent == 0
        with pytest.raises(DatagramError, match="default_address"):
            await first.send_to(b"hello")

    async def test_what_it_lacks_is_said(self, ends):
        first, second = ends
        with pytest.raises(SocketError, match="flags"):
            await second.send_to(b"hello", more=True)
        with pytest.raises(SocketError, match="flags"):
            await first.receive_from(peek=True)
        with pytest.raises(SocketError, match="cannot disconnect"):
            second.disconnect()

    async def test_dont_wait(self, ends):
        first, second = ends
        with pytest.raises(trio.WouldBlock):
            await first.receive_from(dont_wait=True)
        for _ in range(10):
            await second.send_to(b"hello", dont_wait=True)
        with pytest.raises(trio.WouldBlock):
            await second.send_to(b"hello", dont_wait=True)

    async def test_closed(self, ends):
        first, _ = ends
        await first.aclose()
        for operation in (first.receive_from, lambda: first.send_to(b"x", ("10.0.0.2", 1))):
            with pytest.raises(trio.ClosedResourceError):
                await operation()
