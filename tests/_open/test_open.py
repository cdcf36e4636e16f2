"""`make_socket` and `open_socket`: what they make, refuse, and leave behind: nothing."""

from __future__ import annotations

import errno
import ipaddress
import math
import os
import pathlib
import socket

import pytest
import trio
import trio.testing

from sockscope import (
    ConnectError,
    HandshakeTimeoutError,
    LocalAddress,
    NameNotFoundError,
    OptionError,
    PassiveSocket,
    SocketError,
    SocketOptions,
    StreamSocket,
    UnknownServiceError,
    UnsupportedOptionError,
    chain,
    make_socket,
    open_socket,
)
from sockscope.testing import ScriptedResolver, cancel_everywhere, open_loopback_listener
from tests.wire import no_descriptor_left

NO_SENSE = [
    ({"connect": "passive"}, "local"),
    ({"remote": ("h", 1), "connect": "passive", "local": ("127.0.0.1", 0)}, "remote.*passive"),
    ({"type": "datagram", "connect": "passive", "local": ("127.0.0.1", 0)}, "datagram.*passive"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "upgrade": len}, "upgrade.*passive"),
    ({"remote": ("h", 1), "backlog": 5}, "backlog.*active"),
    ({"remote": ("h", 1), "local": "unix:/x"}, "remote.*local"),
    ({"remote": "unix:/x", "local": ("127.0.0.1", 0)}, "remote.*local"),
    ({"remote": "unix:/x", "family": "internet"}, "remote.*family|family.*remote"),
    ({"remote": ("h", 1), "family": "local"}, "remote.*family|family.*remote"),
    ({"remote": "unix:/x", "ipv6": True}, "remote.*ipv6"),
    ({"family": "local", "ipv6": False}, "family.*ipv6"),
    ({"remote": ("h", 1), "type": "seqpacket"}, "seqpacket"),
    ({"remote": ("h", 1), "type": "datagram", "upgrade": len}, "datagram.*upgrade"),
    ({"remote": ("h", 1), "mode": 0o600}, "mode.*local"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "mode": 0o600}, "mode.*local"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "owner": 0}, "owner.*local"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "group": 0}, "group.*local"),
    (
        {"connect": "passive", "local": ("127.0.0.1", 0), "replace_stale": False},
        "replace_stale.*local",
    ),
    ({"remote": ("h", 1), "options": {"keepalive": True}}, "options"),
    ({"remote": ("h", 1), "timeout": True}, "timeout"),
    ({"remote": ("h", 1), "timeout": "5"}, "timeout"),
    ({"remote": ("h", 1), "timeout": None}, "timeout"),
    ({"remote": 5}, "remote"),
    ({"remote": ("h", 1.5)}, "port"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "backlog": True}, "backlog"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "backlog": 1.5}, "float"),
    ({"remote": ("h", 1), "wait": True}, "wait"),
    ({"remote": ("h", 1), "configure": 3}, "configure"),
    ({"remote": ("h", 1), "upgrade": 3}, "upgrade"),
    (
        {"connect": "passive", "local": ("127.0.0.1", 0), "happy_eyeballs_delay": 1},
        "happy_eyeballs_delay.*passive",
    ),
]
BAD_VALUES = [
    ({"remote": ("h", 1), "type": "raw"}, "type"),
    ({"remote": ("h", 1), "connect": "maybe"}, "connect"),
    ({"remote": ("h", 1), "family": "ipx"}, "family"),
    ({"remote": ("h", 1), "timeout": -1}, "timeout"),
    ({"remote": ("h", 1), "timeout": math.nan}, "timeout"),
    ({"remote": ("h", 1), "happy_eyeballs_delay": -1}, "happy_eyeballs_delay"),
    ({"remote": ("h", 1), "happy_eyeballs_delay": math.nan}, "happy_eyeballs_delay"),
    ({"connect": "passive", "local": ("127.0.0.1", 0), "backlog": -1}, "backlog"),
    ({"remote": ("h", 65536)}, "65536"),
    ({"remote": ("h", -1)}, "-1"),
    ({"remote": ("h", "70000")}, "70000"),
    ({"remote": (None, 80)}, "remote"),
    ({"remote": "no port"}, "no port"),
    ({"remote": ("h", 1, 2, 3, 4)}, "remote"),
]


class TestArguments:
    @pytest.mark.parametrize(("arguments", "words"), NO_SENSE)
    async def test_what_makes_no_sense_is_named(self, arguments, words):
        with no_descriptor_left(), pytest.raises(TypeError, match=words):
            await make_socket(**arguments)

    @pytest.mark.parametrize(("arguments", "words"), BAD_VALUES)
    async def test_what_is_out_of_range_is_named(self, arguments, words):
        with no_descriptor_left(), pytest.raises(ValueError, match=words):
            await make_socket(**arguments)

    @pytest.mark.parametrize(("arguments", "words"), [NO_SENSE[0], NO_SENSE[4]])
    def test_open_socket_tells_at_the_call(self, arguments, words):
        with pytest.raises(TypeError, match=words):
            open_socket(**arguments)

    async def test_an_async_configure_is_refused(self, loopback_listener):
        async def configure(sock, context):
            raise AssertionError("nobody awaits it")

        with no_descriptor_left(), pytest.raises(TypeError, match="configure"):
            await make_socket(loopback_listener.address, configure=configure)

    def test_a_chain_of_what_cannot_be_called(self):
        with pytest.raises(TypeError, match="chain"):
            chain(3)

    async def test_a_misspelt_option(self):
        with pytest.raises(TypeError, match="keep_alive"):
            SocketOptions(keep_alive=True)

    @pytest.mark.parametrize(
        "form",
        [
            lambda a: a,
            str,
            lambda a: (str(a.host), a.port),
            lambda a: (a.host, a.port),
            lambda a: (str(a.host), str(a.port)),
            lambda a: (str(a.host).encode(), a.port),
        ],
    )
    async def test_designators(self, form, loopback_listener, loopback_kind):
        if loopback_kind == "local":
            pytest.skip("internet addresses only")
        async with open_socket(form(loopback_listener.address)) as stream:
            assert stream.remote_address == loopback_listener.address

    @pytest.mark.parametrize("host", [2130706433, "127.1", b"127.0.0.1"])
    async def test_hosts_of_allegro(self, host):
        async with open_loopback_listener("ipv4") as passive:
            async with open_socket((host, passive.port)) as stream:
                assert stream.remote_address.host == ipaddress.IPv4Address("127.0.0.1")

    async def test_paths(self):
        async with open_loopback_listener("local") as passive:
            path = os.fsdecode(passive.address.path)
            for designator in (pathlib.Path(path), f"unix:{path}", passive.address):
                async with open_socket(designator) as stream:
                    assert stream.remote_address == passive.address


class TestWhatIsMade:
    async def test_kinds(self):
        async with open_loopback_listener() as passive:
            assert isinstance(passive, PassiveSocket)
            async with open_socket(passive.address) as stream:
                assert isinstance(stream, StreamSocket)

    async def test_a_source(self, loopback_listener, loopback_kind):
        if loopback_kind == "local":
            pytest.skip("a local socket has no source")
        host = str(loopback_listener.address.host)
        async with open_socket(loopback_listener.address, local=(host, 0)) as stream:
            async with await loopback_listener.accept() as child:
                assert child.remote_address == stream.local_address

    async def test_a_source_with_its_port(self, loopback_listener, loopback_kind):
        if loopback_kind == "local":
            pytest.skip("a local socket has no source")
        host = str(loopback_listener.address.host)
        # A port that nobody has: one that is chosen for a connection may be others', too.
        with socket.socket(loopback_listener._sock.family) as free:
            free.bind((host, 0))
            port = free.getsockname()[1]
        options = SocketOptions(reuse_address=True)
        async with open_socket(
            loopback_listener.address, local=(host, port), options=options
        ) as stream:
            assert stream.local_address.port == port

    async def test_another_loopback_address_as_source(self):
        async with open_loopback_listener("ipv4") as passive:
            async with open_socket(passive.address, local=("127.0.0.9", 0)) as stream:
                assert str(stream.local_address.host) == "127.0.0.9"

    async def test_opening_is_a_checkpoint(self, loopback_listener):
        with trio.testing.assert_checkpoints():
            stream = await make_socket(loopback_listener.address)
        with trio.testing.assert_checkpoints():
            await stream.aclose()
        with trio.testing.assert_checkpoints():
            stream = await make_socket(family="internet")
        await stream.aclose()

    @pytest.mark.parametrize("kind", ["ipv4", "ipv6", "local"])
    async def test_listening_is_a_checkpoint(self, kind):
        with trio.testing.assert_checkpoints():
            async with open_loopback_listener(kind):
                pass

    @pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="an option of Linux")
    @pytest.mark.parametrize("later", [False, True])
    async def test_options_that_only_a_connected_socket_takes(self, later):
        options = SocketOptions(quick_ack=False)
        async with open_loopback_listener() as passive:
            if later:
                async with open_socket(family="internet", options=options) as stream:
                    await stream.connect(passive.address)
                    assert stream.get_option("quick_ack") is False
            else:
                async with open_socket(passive.address, options=options) as stream:
                    assert stream.get_option("quick_ack") is False


class TestTheBlock:
    async def test_it_closes(self, loopback_listener):
        async with open_socket(loopback_listener.address) as stream:
            assert stream.is_open
        assert not stream.is_open

    @pytest.mark.parametrize("error", [KeyError("k"), SystemExit(3), KeyboardInterrupt()])
    async def test_its_exceptions_come_out_bare(self, loopback_listener, error):
        async def body():
            async with open_socket(loopback_listener.address) as stream:
                streams.append(stream)
                raise error

        streams = []
        with pytest.raises(type(error)) as caught:
            await body()
        assert caught.value is error
        assert not streams[0].is_open

    async def test_cancelled_it_closes_too(self, loopback_listener):
        with trio.CancelScope() as scope:
            async with open_socket(loopback_listener.address) as stream:
                scope.cancel()
                await trio.sleep_forever()
        assert not stream.is_open

    async def test_the_timeout_does_not_limit_the_body(self, loopback_listener, autojump_clock):
        async with open_socket(loopback_listener.address, timeout=1) as stream:
            await trio.sleep(100)
            await stream.send_all(b"x")

    async def test_opening_errors_come_out_bare(self):
        async def body():
            async with open_socket(("127.0.0.1", 1)):
                raise AssertionError

        with pytest.raises(ConnectionRefusedError):
            await body()

    async def test_nothing_was_opened_by_the_call_alone(self, loopback_listener):
        with no_descriptor_left():
            open_socket(loopback_listener.address)


class TestFaults:
    """A clear error that names the step and the address; no descriptor is left by any."""

    CASES = {
        "refused": (("127.0.0.1", 1), {}, ConnectionRefusedError, r"connect to 127\.0\.0\.1:1"),
        "not here": (
            ("127.0.0.1", 1),
            {"local": ("198.51.100.1", 0)},
            OSError,
            r"bind to 198\.51\.100\.1",
        ),
        "no such path": ("unix:/no/such/path", {}, FileNotFoundError, "/no/such/path"),
        "no socket": ("unix:/etc/passwd", {}, ConnectionRefusedError, "/etc/passwd"),
        "abstract": (LocalAddress.abstract("nobody-here"), {}, ConnectionRefusedError, "nobody"),
        "broadcast": (("255.255.255.255", 1), {}, OSError, r"255\.255\.255\.255:1"),
        "device": (
            ("127.0.0.1", 1),
            {"options": SocketOptions(bind_to_device="no-such-if")},
            OptionError,
            "bind_to_device.*no-such-if",
        ),
        "wrong kind": (
            ("127.0.0.1", 1),
            {"options": SocketOptions(ipv6_only=True)},
            ConnectError,
            "ipv6_only",
        ),
        "of local": (
            "unix:/no/such/path",
            {"options": SocketOptions(nodelay=True)},
            UnsupportedOptionError,
            "nodelay",
        ),
    }

    @pytest.mark.parametrize("case", CASES)
    async def test_active(self, case):
        remote, arguments, kind, words = self.CASES[case]
        with no_descriptor_left(), pytest.raises(kind, match=words) as caught:
            await make_socket(remote, **arguments)
        assert isinstance(caught.value, SocketError)
        assert caught.value.__cause__ is not None

    async def test_unknown_host(self):
        with ScriptedResolver({}), no_descriptor_left():
            with pytest.raises(NameNotFoundError, match=r"nobody\.test"):
                await make_socket(("nobody.test", 80))

    async def test_unknown_service(self):
        with no_descriptor_left(), pytest.raises(UnknownServiceError, match="no-such-service"):
            await make_socket(("127.0.0.1", "no-such-service"))

    async def test_a_path_that_is_too_long(self, tmp_path):
        with no_descriptor_left(), pytest.raises((ValueError, OSError)) as caught:
            await make_socket(LocalAddress(b"/" + b"x" * 300))
        assert "x" * 20 in str(caught.value)

    async def test_each_has_its_number(self):
        with pytest.raises(ConnectError) as caught:
            await make_socket(("127.0.0.1", 1))
        assert caught.value.errno == errno.ECONNREFUSED

    async def test_a_wrong_type_of_local_socket(self, tmp_path):
        path = tmp_path / "datagrams"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(path))
            with no_descriptor_left(), pytest.raises(ConnectError, match="datagrams"):
                await make_socket(path)


class TestUpgrades:
    async def test_it_gives_what_it_makes_of_the_stream(self, loopback_listener):
        async def upgrade(stream):
            await trio.lowlevel.checkpoint()
            return ("upgraded", stream)

        async with open_socket(loopback_listener.address, upgrade=upgrade) as (word, stream):
            assert word == "upgraded"
            assert stream.is_open
        assert not stream.is_open

    async def test_make_socket_hands_over_all(self, loopback_listener):
        async def upgrade(stream):
            streams.append(stream)
            return "result"

        streams = []
        assert await make_socket(loopback_listener.address, upgrade=upgrade) == "result"
        [stream] = streams
        assert stream.is_open
        await stream.aclose()

    async def test_its_own_aclose_comes_first(self, loopback_listener):
        events = []

        class Upgraded:
            def __init__(self, stream):
                self.stream = stream

            async def aclose(self):
                events.append(("closing", self.stream.is_open))
                await trio.lowlevel.checkpoint()

        async def upgrade(stream):
            return Upgraded(stream)

        async with open_socket(loopback_listener.address, upgrade=upgrade) as upgraded:
            pass
        assert events == [("closing", True)]
        assert not upgraded.stream.is_open

    @pytest.mark.parametrize("how", ["raises", "cancelled"])
    async def test_its_own_aclose_does_not_keep_the_stream_open(self, loopback_listener, how):
        class Upgraded:
            def __init__(self, stream):
                self.stream = stream

            async def aclose(self):
                if how == "raises":
                    raise KeyError("from aclose")
                await trio.sleep_forever()

        async def upgrade(stream):
            opened.append(stream)
            return Upgraded(stream)

        async def body():
            async with open_socket(loopback_listener.address, upgrade=upgrade):
                if how == "cancelled":
                    raise ValueError("from the body")

        opened = []
        with pytest.raises(KeyError if how == "raises" else ValueError, match="from"):
            await body()
        assert not opened[0].is_open

    async def test_one_that_fails(self, loopback_listener):
        async def upgrade(stream):
            streams.append(stream)
            raise KeyError("own")

        streams = []
        with no_descriptor_left(), pytest.raises(KeyError, match="own"):
            await make_socket(loopback_listener.address, upgrade=upgrade)
        assert not streams[0].is_open

    async def test_one_that_takes_too_long(self, loopback_listener, autojump_clock):
        async def upgrade(stream):
            streams.append(stream)
            await trio.sleep_forever()

        streams = []
        with pytest.raises(HandshakeTimeoutError, match="upgrade") as caught:
            await make_socket(loopback_listener.address, upgrade=upgrade, timeout=5)
        assert str(loopback_listener.address) in str(caught.value)
        assert not streams[0].is_open

    async def test_chain(self, loopback_listener):
        async def first(stream):
            return ["first", stream]

        async def second(it):
            return ["second", *it]

        async def third(it):
            return ["third", *it]

        upgrade = chain(first, second, third)
        async with open_socket(loopback_listener.address, upgrade=upgrade) as result:
            assert result[:3] == ["third", "second", "first"]

    async def test_a_chain_that_breaks(self, loopback_listener):
        async def first(stream):
            streams.append(stream)
            return stream

        async def second(stream):
            raise KeyError("second")

        streams = []
        with pytest.raises(KeyError, match="second"):
            await make_socket(loopback_listener.address, upgrade=chain(first, second))
        assert not streams[0].is_open

    async def test_cancelled_at_every_step(self, loopback_listener):
        async def upgrade(stream):
            await trio.lowlevel.checkpoint()
            return stream

        async def run():
            async with open_socket(loopback_listener.address, upgrade=upgrade):
                loopback_listener.accept_nowait().abort()

        await cancel_everywhere(run)


class TestConfigure:
    async def test_of_a_passive_socket(self, loopback_kind, tmp_path):
        seen = []

        def configure(sock, context):
            seen.append((context, sock.getsockname()))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

        local = {"ipv4": ("127.0.0.1", 0), "ipv6": ("::1", 0), "local": tmp_path / "s"}
        async with open_socket(
            connect="passive", local=local[loopback_kind], configure=configure
        ) as passive:
            assert passive.get_option("keepalive")
            address = passive.address
        [(context, name)] = seen
        assert context.role == "passive"
        assert context.family == address.family
        assert context.type == socket.SOCK_STREAM
        assert name == "" or name[1] == 0  # it was not bound yet
        if loopback_kind == "local":
            assert context.address == address

    async def test_one_that_raises(self, loopback_kind, tmp_path):
        def configure(sock, context):
            raise KeyError("from the hook")

        local = {"ipv4": ("127.0.0.1", 0), "ipv6": ("::1", 0), "local": tmp_path / "s"}
        with no_descriptor_left(), pytest.raises(KeyError, match="from the hook"):
            await make_socket(connect="passive", local=local[loopback_kind], configure=configure)
        assert not (tmp_path / "s").exists()

    async def test_of_one_without_a_remote(self):
        seen = []
        async with open_socket(
            family="internet", configure=lambda sock, context: seen.append(context)
        ):
            pass
        assert seen[0].address is None
