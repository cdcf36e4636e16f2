"""Opening passive sockets: wildcards, names, ports, and what is closed again on failure."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import socket

import pytest
import trio

from sockscope import (
    InternetAddress,
    NameNotFoundError,
    OptionError,
    SocketError,
    SocketOptions,
    SocketTimeoutError,
    UnsupportedOptionError,
    make_socket,
    open_socket,
    serve_passive,
)
from sockscope._open import passive as opening
from sockscope.testing import ScriptedResolver, cancel_everywhere
from tests.custom_network import MemorySocket, Network
from tests.wire import no_descriptor_left


def _has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="no IPv6 on this system's loopback")


async def reaches(address, port):
    """Whether a client can connect there."""
    try:
        async with open_socket((address, port)):
            return True
    except ConnectionRefusedError:
        return False


class TestWildcards:
    @needs_ipv6
    async def test_none_is_both_families_on_one_socket(self):
        async with open_socket(connect="passive", local=(None, 0)) as passive:
            assert passive.address.host == ipaddress.IPv6Address("::")
            assert await reaches("127.0.0.1", passive.port)
            assert await reaches("::1", passive.port)

    @needs_ipv6
    async def test_a_spelt_one_is_ipv6_alone(self):
        async with open_socket(connect="passive", local=("::", 0)) as passive:
            assert not await reaches("127.0.0.1", passive.port)
            assert await reaches("::1", passive.port)
            async with open_socket(connect="passive", local=("0.0.0.0", passive.port)) as four:
                assert four.port == passive.port

    @needs_ipv6
    async def test_unless_the_options_say_so(self):
        options = SocketOptions(ipv6_only=False)
        async with open_socket(connect="passive", local=("::", 0), options=options) as passive:
            assert await reaches("127.0.0.1", passive.port)
        options = SocketOptions(ipv6_only=True)
        async with open_socket(connect="passive", local=(None, 0), options=options) as passive:
            assert not await reaches("127.0.0.1", passive.port)

    @needs_ipv6
    @pytest.mark.parametrize(("ipv6", "host"), [(True, "::"), (False, "0.0.0.0")])
    async def test_of_one_family(self, ipv6, host):
        async with open_socket(connect="passive", local=(None, 0), ipv6=ipv6) as passive:
            assert str(passive.address.host) == host
            assert await reaches("::1", passive.port) is ipv6
            assert await reaches("127.0.0.1", passive.port) is not ipv6

    async def test_where_there_is_no_ipv6(self):
        async with lacking(socket.AF_INET6):
            async with open_socket(connect="passive", local=(None, 80)) as passive:
                assert passive.address == InternetAddress.parse("0.0.0.0:80")

    async def test_another_failure_is_no_lack_of_ipv6(self):
        async with open_socket(connect="passive", local=("127.0.0.1", 0)) as taken:
            with pytest.raises(OSError, match="bind to") as caught:
                await make_socket(connect="passive", local=(None, taken.port))
            assert caught.value.errno == errno.EADDRINUSE


class TestOneAddress:
    @needs_ipv6
    async def test_a_name_takes_the_first_that_can_be_bound(self):
        with ScriptedResolver({"name.test": ["198.51.100.1", "127.0.0.1", "::1"]}):
            async with open_socket(connect="passive", local=("name.test", 0)) as passive:
                assert str(passive.address.host) == "127.0.0.1"

    async def test_none_can_be(self):
        with ScriptedResolver({"name.test": ["198.51.100.1", "198.51.100.2"]}):
            with (
                no_descriptor_left(),
                pytest.raises(SocketError, match=r"198\.51\.100\.2") as caught,
            ):
                await make_socket(connect="passive", local=("name.test", 0))
            assert caught.value.errno == errno.EADDRNOTAVAIL
            assert caught.value.identifier == "address-not-available"

    async def test_an_option_at_fault_ends_it(self):
        options = SocketOptions(bind_to_device="no-such-if0")
        with ScriptedResolver({"name.test": ["127.0.0.1", "127.0.0.2"]}):
            with no_descriptor_left(), pytest.raises(OptionError, match="no-such-if0"):
                await make_socket(connect="passive", local=("name.test", 0), options=options)

    async def test_an_option_that_it_has_not(self):
        with no_descriptor_left(), pytest.raises(UnsupportedOptionError, match="ipv6_only"):
            await make_socket(
                connect="passive", local=("127.0.0.1", 0), options=SocketOptions(ipv6_only=True)
            )

    async def test_unknown_names(self):
        with ScriptedResolver({}), pytest.raises(NameNotFoundError, match=r"nobody\.test"):
            await make_socket(connect="passive", local=("nobody.test", 0))

    async def test_its_timeout(self, autojump_clock):
        with ScriptedResolver({"slow.test": ["127.0.0.1"]}, delays={"slow.test": 9}):
            with pytest.raises(SocketTimeoutError, match=r"slow\.test"):
                await make_socket(connect="passive", local=("slow.test", 0), timeout=5)

    @pytest.mark.parametrize("backlog", [None, 0, 1, 10**9])
    async def test_backlogs(self, backlog):
        async with open_socket(
            connect="passive", local=("127.0.0.1", 0), backlog=backlog
        ) as passive:
            assert await reaches("127.0.0.1", passive.port)

    async def test_a_failing_listen(self):
        async with lacking(None) as network:
            network.fail_listen = True
            with pytest.raises(SocketError, match="listen on 127"):
                await make_socket(connect="passive", local=("127.0.0.1", 80))

    async def test_cancelled_at_every_step(self, loopback_kind, tmp_path):
        local = {"ipv4": ("127.0.0.1", 0), "ipv6": ("::1", 0), "local": tmp_path / "s"}

        async def listen():
            async with open_socket(connect="passive", local=local[loopback_kind]):
                pass

        await cancel_everywhere(listen)
        assert not (tmp_path / "s").exists()

    async def test_reuse_port(self):
        options = SocketOptions(reuse_port=True)
        async with open_socket(connect="passive", local=("127.0.0.1", 0), options=options) as first:
            async with open_socket(
                connect="passive", local=first.address, options=options
            ) as second:
                assert second.port == first.port


async def never(stream):
    await trio.sleep_forever()


class TestSeveralAddresses:
    @needs_ipv6
    async def test_one_designator_has_one_port(self):
        with ScriptedResolver({"name.test": ["127.0.0.1", "::1", "127.0.0.2"]}):
            async with serve_passive(("name.test", 0), never, drain_timeout=0) as server:
                assert [str(a.host) for a in server.addresses] == ["127.0.0.1", "::1", "127.0.0.2"]
                assert {a.port for a in server.addresses} == {server.port}
                for address in server.addresses:
                    assert await reaches(str(address.host), address.port)

    async def test_each_of_a_list_has_its_own(self):
        local = [("127.0.0.1", 0), ("127.0.0.2", 0)]
        async with serve_passive(local, never, drain_timeout=0) as server:
            assert len(server.sockets) == 2
            first, second = (address.port for address in server.addresses)
            if first != second:
                with pytest.raises(ValueError, match="port"):
                    _ = server.port

    async def test_a_port_that_is_taken_on_another_is_given_back(self, monkeypatch):
        """The first try meets a port in use; the second does not."""
        with contextlib.ExitStack() as stack:
            tries = []
            listen = opening._listen

            async def first_meets_a_taken_port(request, address):
                passive = await listen(request, address)
                if address.port == 0 and not tries:
                    tries.append(passive.port)
                    stack.enter_context(socket.create_server(("127.0.0.2", passive.port)))
                return passive

            monkeypatch.setattr(opening, "_listen", first_meets_a_taken_port)
            with ScriptedResolver({"name.test": ["127.0.0.1", "127.0.0.2"]}):
                async with serve_passive(("name.test", 0), never, drain_timeout=0) as server:
                    assert tries
                    assert server.port != tries[0]
                    assert len(server.addresses) == 2

    async def test_no_port_is_free_on_both(self, monkeypatch):
        listen = opening._listen
        tries = []

        async def second_is_always_taken(request, address):
            if str(address.host) == "127.0.0.2":
                tries.append(address.port)
                raise SocketError(errno.EADDRINUSE, f"cannot bind to {address}: in use")
            return await listen(request, address)

        monkeypatch.setattr(opening, "_listen", second_is_always_taken)
        with ScriptedResolver({"name.test": ["127.0.0.1", "127.0.0.2"]}), no_descriptor_left():
            with pytest.raises(SocketError, match="in use"):
                await enter(serve_passive(("name.test", 0), never))
        assert len(tries) == 16

    async def test_a_fixed_port_that_is_taken_is_not_tried_again(self):
        with socket.create_server(("127.0.0.2", 0)) as taken:
            port = taken.getsockname()[1]
            with ScriptedResolver({"name.test": ["127.0.0.1", "127.0.0.2"]}):
                with no_descriptor_left(), pytest.raises(SocketError, match="bind to") as caught:
                    await enter(serve_passive(("name.test", port), never))
                assert caught.value.errno == errno.EADDRINUSE

    async def test_an_error_on_the_last_closes_those_before(self):
        async with open_socket(connect="passive", local=("127.0.0.1", 0)) as taken:
            local = [("127.0.0.2", 0), ("127.0.0.3", 0), taken.address]
            with no_descriptor_left(), pytest.raises(SocketError, match="bind to"):
                await enter(serve_passive(local, never))

    async def test_a_family_that_is_lacking_is_left_out(self):
        with ScriptedResolver({"name.test": ["2001:db8::1", "192.0.2.1"]}):
            async with lacking(socket.AF_INET6):
                async with serve_passive(("name.test", 80), never) as server:
                    assert [str(a.host) for a in server.addresses] == ["192.0.2.1"]

    async def test_all_families_are_lacking(self):
        with ScriptedResolver({"name.test": ["2001:db8::1", "192.0.2.1"]}):
            async with lacking(socket.AF_INET6, socket.AF_INET):
                with pytest.raises(SocketError) as caught:
                    await enter(serve_passive(("name.test", 80), never))
                assert caught.value.errno == errno.EAFNOSUPPORT
                assert caught.value.identifier == "address-family-not-supported"

    async def test_cancelled_at_every_step(self):
        with ScriptedResolver({"name.test": ["127.0.0.1", "127.0.0.2"]}):

            async def serve():
                async with serve_passive(("name.test", 0), never):
                    pass

            await cancel_everywhere(serve)


async def enter(manager):
    async with manager:
        raise AssertionError("it should not have opened")


class lacking:
    """A system on which some families cannot be opened."""

    def __init__(self, *families):
        self.network = _Lacking(families)

    async def __aenter__(self):
        trio.socket.set_custom_socket_factory(self.network)
        return self.network

    async def __aexit__(self, *exc_info):
        trio.socket.set_custom_socket_factory(None)
        assert not self.network.open


class _Lacking(Network):
    def __init__(self, families):
        super().__init__()
        self.families = families
        self.fail_listen = False

    def socket(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0):
        if family in self.families:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        made = _Listening(self, family, type, proto)
        self.open.add(made)
        return made


class _Listening(MemorySocket):
    def listen(self, backlog=None):
        if self.network.fail_listen:
            raise OSError(errno.EADDRINUSE, "Address already in use")
        super().listen(backlog)
