"""Opening a name with several addresses: RFC 8305, options and hooks on every attempt."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import resource
import socket

import pytest
import trio
import trio.testing

from sockscope import (
    ConnectError,
    ConnectTimeoutError,
    InternetAddress,
    OptionError,
    SocketError,
    SocketOptions,
    UnsupportedOptionError,
    make_socket,
    open_socket,
)
from sockscope._open.happy_eyeballs import interleave
from sockscope.testing import ScriptedResolver, cancel_everywhere
from tests.custom_network import MemorySocket, Network
from tests.wire import no_descriptor_left

REFUSED = errno.ECONNREFUSED


class Scenario(Network):
    """Connects as scripted: for each host after how many seconds, and how it ends."""

    def __init__(self, hosts):
        super().__init__()
        self.hosts = hosts
        self.attempts = []
        self.no_family = set()
        self.shortage = None
        self.made = 0

    def socket(self, family=socket.AF_INET, type=socket.SOCK_STREAM, proto=0):
        self.made += 1
        if self.shortage is not None:
            raise OSError(self.shortage, os.strerror(self.shortage))
        if family in self.no_family:
            raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
        made = ScriptedSocket(self, family, type, proto)
        self.open.add(made)
        return made


class ScriptedSocket(MemorySocket):
    async def connect(self, address):
        host = address[0]
        seconds, how = self.network.hosts[host]
        self.network.attempts.append((host, trio.current_time()))
        await trio.sleep(seconds)
        if isinstance(how, trio.Event):
            await how.wait()
            how = None
        if isinstance(how, BaseException):
            raise how
        if how:
            raise OSError(how, os.strerror(how))
        self.peer, self.peer_name = self, address

    def close(self):
        self.peer = None
        super().close()


class play:
    """One race: ``async with play({"host": (seconds, errno or None)}) as scenario``."""

    def __init__(self, hosts, **others):
        self.scenario = Scenario(hosts)
        self.resolver = ScriptedResolver({"name.test": list(hosts), **others})

    async def __aenter__(self):
        trio.socket.set_custom_socket_factory(self.scenario)
        self.resolver.__enter__()
        return self.scenario

    async def __aexit__(self, *exc_info):
        self.resolver.__exit__(*exc_info)
        assert not self.scenario.open


NAME = ("name.test", 80)


def host_of(stream):
    return str(stream.remote_address.host)


class TestTheRace:
    async def test_one_quick_success(self, autojump_clock):
        async with play({"192.0.2.1": (0.123, None)}):
            async with open_socket(NAME) as stream:
                assert host_of(stream) == "192.0.2.1"
                assert stream.remote_name == "name.test"
                assert trio.current_time() == pytest.approx(0.123)

    async def test_two_in_the_same_turn_leave_one(self, autojump_clock):
        both = trio.Event()
        hosts = dict.fromkeys(("192.0.2.1", "192.0.2.2", "192.0.2.3"), (0, both))
        hosts["192.0.2.3"] = (1, REFUSED)
        async with play(hosts) as scenario, trio.open_nursery() as nursery:

            @nursery.start_soon
            async def connect_both():
                await trio.sleep(2)
                both.set()

            async with open_socket(NAME, happy_eyeballs_delay=0):
                assert len(scenario.attempts) == 3
                assert len(scenario.open) == 1

    async def test_one_slow_success(self, autojump_clock):
        async with play({"192.0.2.1": (81, None)}):
            async with open_socket(NAME):
                assert trio.current_time() == pytest.approx(81)

    @pytest.mark.parametrize("seconds", [0, 0.1, 100])
    async def test_one_failure(self, seconds, autojump_clock):
        async with play({"192.0.2.1": (seconds, REFUSED)}):
            with pytest.raises(ConnectError, match=r"192\.0\.2\.1:80") as caught:
                await make_socket(NAME)
            assert isinstance(caught.value, ConnectionRefusedError)
            assert isinstance(caught.value.__cause__, ConnectionRefusedError)
            assert trio.current_time() == pytest.approx(seconds)

    async def test_the_second_starts_after_the_delay(self, autojump_clock):
        async with play({"192.0.2.1": (10, None), "192.0.2.2": (0.5, None)}) as scenario:
            async with open_socket(NAME) as stream:
                assert host_of(stream) == "192.0.2.2"
                assert trio.current_time() == pytest.approx(0.75)
            assert scenario.attempts == [("192.0.2.1", 0), ("192.0.2.2", 0.25)]

    async def test_another_delay(self, autojump_clock):
        hosts = {"192.0.2.1": (10, None), "192.0.2.2": (5, None), "192.0.2.3": (1, None)}
        async with play(hosts) as scenario:
            async with open_socket(NAME, happy_eyeballs_delay=2) as stream:
                assert host_of(stream) == "192.0.2.3"
            assert [when for _, when in scenario.attempts] == [0, 2, 4]

    async def test_no_delay_is_all_at_once(self, autojump_clock):
        hosts = {f"192.0.2.{n}": (n, None) for n in range(5, 0, -1)}
        async with play(hosts) as scenario:
            async with open_socket(NAME, happy_eyeballs_delay=0) as stream:
                assert host_of(stream) == "192.0.2.1"
            assert {when for _, when in scenario.attempts} == {0}

    async def test_an_endless_delay_is_one_after_another(self, autojump_clock):
        hosts = {"192.0.2.1": (10, REFUSED), "192.0.2.2": (10, None)}
        async with play(hosts) as scenario:
            async with open_socket(NAME, happy_eyeballs_delay=math.inf):
                pass
            assert [when for _, when in scenario.attempts] == [0, 10]

    async def test_a_failure_starts_the_next_at_once(self, autojump_clock):
        hosts = {"192.0.2.1": (0.1, REFUSED), "192.0.2.2": (0.05, REFUSED), "192.0.2.3": (1, None)}
        async with play(hosts) as scenario:
            async with open_socket(NAME):
                pass
            assert [when for _, when in scenario.attempts] == pytest.approx([0, 0.1, 0.15])

    async def test_an_early_one_may_still_win(self, autojump_clock):
        hosts = {"192.0.2.1": (1, None), "192.0.2.2": (5, None), "192.0.2.3": (5, REFUSED)}
        async with play(hosts):
            async with open_socket(NAME) as stream:
                assert host_of(stream) == "192.0.2.1"
                assert trio.current_time() == pytest.approx(1)

    async def test_two_winners_in_one_moment(self, autojump_clock):
        """Exactly one is kept."""
        hosts = {"192.0.2.1": (0.5, None), "192.0.2.2": (0.25, None)}
        async with play(hosts) as scenario:
            async with open_socket(NAME) as stream:
                assert stream.is_open
                assert len(scenario.open) == 1

    async def test_losers_are_closed_before_it_returns(self, autojump_clock):
        hosts = {"192.0.2.1": (10, None), "192.0.2.2": (10, None), "192.0.2.3": (0, None)}
        async with play(hosts) as scenario:
            stream = await make_socket(NAME)
            assert scenario.open == {stream.socket}
            await stream.aclose()


class TestFailures:
    async def test_all_of_one_kind(self, autojump_clock):
        hosts = {"192.0.2.1": (0, REFUSED), "2001:db8::1": (1, REFUSED), "192.0.2.2": (2, REFUSED)}
        async with play(hosts):
            with pytest.raises(ConnectError) as caught:
                await make_socket(NAME)
        error = caught.value
        assert error.errno == REFUSED
        assert isinstance(error, ConnectionRefusedError)
        assert error.identifier == "connection-refused"
        assert len(error.exceptions) == 3
        for one in error.exceptions:
            assert isinstance(one, SocketError)
            assert isinstance(one.__cause__, ConnectionRefusedError)
        for address in ("192.0.2.1:80", "[2001:db8::1]:80", "192.0.2.2:80"):
            assert address in str(error)
            assert any(address in str(one) for one in error.exceptions)
        assert "name.test" in str(error)

    async def test_of_several_kinds(self, autojump_clock):
        hosts = {"192.0.2.1": (5, REFUSED), "192.0.2.2": (1, errno.EHOSTUNREACH)}
        async with play(hosts):
            with pytest.raises(ConnectError) as caught:
                await make_socket(NAME)
        assert {one.errno for one in caught.value.exceptions} == {REFUSED, errno.EHOSTUNREACH}
        assert caught.value.errno == caught.value.exceptions[-1].errno

    async def test_the_time_is_up(self, autojump_clock):
        hosts = {"192.0.2.1": (math.inf, None), "192.0.2.2": (0, REFUSED), "192.0.2.3": (99, None)}
        async with play(hosts):
            with pytest.raises(ConnectTimeoutError) as caught:
                await make_socket(NAME, timeout=30)
        assert trio.current_time() == pytest.approx(30)
        message = str(caught.value)
        assert "192.0.2.1:80" in message
        assert "192.0.2.3:80" in message
        assert "192.0.2.2:80" not in message
        assert "name.test" in message
        assert isinstance(caught.value, (TimeoutError, trio.TooSlowError))

    async def test_a_slow_look_up_counts(self, autojump_clock):
        with ScriptedResolver({"name.test": ["127.0.0.1"]}, delays={"name.test": 10}):
            with pytest.raises(ConnectTimeoutError, match=r"name\.test"):
                await make_socket(NAME, timeout=5)
        assert trio.current_time() == pytest.approx(5)

    @pytest.mark.parametrize("count", [1, 2])
    async def test_what_is_no_oserror_comes_out_bare(self, count, autojump_clock):
        hosts = {f"192.0.2.{n}": (n, KeyError("odd")) for n in range(count)}
        async with play(hosts):
            with pytest.raises(KeyError, match="odd"):
                await make_socket(NAME)

    async def test_an_exit_is_not_swallowed(self, autojump_clock):
        hosts = {"192.0.2.1": (0, SystemExit(3)), "192.0.2.2": (0, None)}
        async with play(hosts):
            with pytest.raises(SystemExit):
                await make_socket(NAME)

    async def test_two_that_end_it_at_once(self, autojump_clock):
        hosts = {"192.0.2.1": (0.25, KeyError()), "192.0.2.2": (0, KeyError())}
        async with play(hosts):
            with pytest.raises(KeyError):
                await make_socket(NAME)

    @pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
    async def test_a_shortage_ends_it_at_once(self, number, autojump_clock):
        """More addresses cannot help, and their errors would only hide it."""
        async with play({"192.0.2.1": (0, None), "2001:db8::1": (0, None)}) as scenario:
            scenario.shortage = number
            with pytest.raises(SocketError) as caught:
                await make_socket(NAME)
            assert caught.value.errno == number
            assert not isinstance(caught.value, ConnectError)
            assert scenario.made == 1

    async def test_a_full_descriptor_table(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with ScriptedResolver({"name.test": ["127.0.0.1", "::1"]}):
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
            try:
                with pytest.raises(SocketError) as caught:
                    await make_socket(NAME)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.errno == errno.EMFILE
        assert not isinstance(caught.value, ConnectError)

    async def test_a_family_that_this_system_lacks(self, autojump_clock):
        hosts = {"2001:db8::1": (0, None), "192.0.2.1": (0, None)}
        async with play(hosts) as scenario:
            scenario.no_family.add(socket.AF_INET6)
            async with open_socket(NAME) as stream:
                assert host_of(stream) == "192.0.2.1"
            scenario.no_family.add(socket.AF_INET)
            with pytest.raises(ConnectError) as caught:
                await make_socket(NAME)
            assert len(caught.value.exceptions) == 2

    async def test_no_reference_cycle_keeps_the_sockets(self, autojump_clock):
        hosts = {"192.0.2.1": (0, REFUSED), "192.0.2.2": (0, REFUSED)}
        async with play(hosts):
            with pytest.raises(ConnectError):
                await make_socket(NAME)


class TestFamilies:
    HOSTS = {
        "192.0.2.1": (0, REFUSED),
        "192.0.2.2": (0, REFUSED),
        "2001:db8::1": (0, REFUSED),
        "2001:db8::2": (0, REFUSED),
    }

    @pytest.mark.parametrize(
        ("ipv6", "expected"),
        [
            (None, ["192.0.2.1", "2001:db8::1", "192.0.2.2", "2001:db8::2"]),
            (True, ["2001:db8::1", "2001:db8::2"]),
            (False, ["192.0.2.1", "192.0.2.2"]),
        ],
    )
    async def test_they_take_turns(self, ipv6, expected):
        async with play(self.HOSTS) as scenario:
            with pytest.raises(ConnectError):
                await make_socket(NAME, ipv6=ipv6)
            assert [host for host, _ in scenario.attempts] == expected

    def test_interleave(self):
        four = [InternetAddress.parse(f"192.0.2.{n}:1") for n in range(3)]
        six = [InternetAddress.parse("[::1]:1")]
        assert interleave(four + six) == [four[0], six[0], four[1], four[2]]
        assert interleave(six + four) == [six[0], *four]
        assert interleave([]) == []

    async def test_a_source_chooses_the_family(self):
        async with play(self.HOSTS) as scenario:
            with pytest.raises(ConnectError):
                await make_socket(NAME, local=("192.0.2.99", 0))
            assert [host for host, _ in scenario.attempts] == ["192.0.2.1", "192.0.2.2"]

    async def test_a_source_of_both_families(self):
        source = {"source.test": ["192.0.2.99", "2001:db8::99"]}
        async with play(self.HOSTS, **source) as scenario:
            with pytest.raises(ConnectError):
                await make_socket(NAME, local=("source.test", 0))
            assert len(scenario.attempts) == 4

    async def test_a_source_of_no_family_of_the_name(self):
        hosts = {"192.0.2.1": (0, None)}
        async with play(hosts):
            with pytest.raises(OSError, match="family") as caught:
                await make_socket(NAME, local=("2001:db8::1", 0))
            assert isinstance(caught.value, SocketError)


@pytest.fixture(params=["127.0.0.1", "::1"])
async def listener(request, has_ipv6):
    if request.param == "::1" and not has_ipv6:
        pytest.skip("no IPv6 on this system's loopback")
    async with open_socket(connect="passive", local=(request.param, 0)) as passive:
        yield passive


@pytest.fixture
def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


class TestRealSockets:
    """One address answers, the other refuses: options and hooks reach each attempt."""

    @pytest.fixture
    def resolver(self, listener, has_ipv6):
        """The one that refuses comes first."""
        hosts = ["127.0.0.1", "::1"] if has_ipv6 else ["127.0.0.1"]
        hosts.sort(key=lambda host: host == str(listener.address.host))
        with ScriptedResolver({"name.test": hosts}) as resolver:
            yield resolver

    async def test_options_are_on_each_before_it_connects(self, listener, resolver):
        options = SocketOptions(receive_buffer=4096, send_buffer=9000)
        seen = []

        def note(sock, context):
            seen.append((context, sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)))
            with pytest.raises(OSError, match="connected"):
                sock.getpeername()

        name = ("name.test", listener.port)
        async with open_socket(name, options=options, configure=note) as stream:
            assert stream.get_option("receive_buffer") == 8192
            assert stream.get_option("send_buffer") == 18000
        assert [size for _, size in seen] == [8192] * len(seen)
        assert seen[-1][0].address == listener.address
        assert all(context.role == "active" for context, _ in seen)
        assert all(context.type == socket.SOCK_STREAM for context, _ in seen)
        assert [context.family for context, _ in seen] == [c.address.family for c, _ in seen]

    async def test_a_hook_that_raises_opens_nothing(self, listener, resolver):
        def fail(sock, context):
            raise KeyError("from the hook")

        with no_descriptor_left(), pytest.raises(KeyError, match="from the hook"):
            await make_socket(("name.test", listener.port), configure=fail)
        with pytest.raises(trio.WouldBlock):
            listener.accept_nowait()

    async def test_an_option_that_is_at_fault_ends_it(self, listener, resolver):
        options = SocketOptions(bind_to_device="no-such-if0")
        with no_descriptor_left(), pytest.raises(OptionError, match="no-such-if0") as caught:
            await make_socket(("name.test", listener.port), options=options)
        assert caught.value.option == "bind_to_device"
        assert not isinstance(caught.value, ConnectError)

    async def test_cancelled_at_every_step(self, listener, resolver):
        async def connect():
            async with open_socket(("name.test", listener.port)):
                listener.accept_nowait().abort()

        await cancel_everywhere(connect)


class TestOptionsOfOneFamily:
    """What an attempt's family lacks fails that attempt, and no other."""

    @pytest.fixture(autouse=True)
    def _both(self, has_ipv6):
        if not has_ipv6:
            pytest.skip("no IPv6 on this system's loopback")

    SIX_ONLY = SocketOptions(ipv6_only=True)

    async def test_the_other_one_is_used(self):
        async with open_socket(connect="passive", local=("::1", 0)) as passive:
            with ScriptedResolver({"name.test": ["127.0.0.1", "::1"]}):
                name = ("name.test", passive.port)
                async with open_socket(name, options=self.SIX_ONLY) as stream:
                    assert host_of(stream) == "::1"

    async def test_several_such_options_at_once(self):
        options = SocketOptions(ipv6_only=True, auto_flow_label=True)
        async with open_socket(connect="passive", local=("::1", 0)) as passive:
            with ScriptedResolver({"name.test": ["127.0.0.1", "::1"]}):
                async with open_socket(("name.test", passive.port), options=options) as stream:
                    assert host_of(stream) == "::1"

    async def test_there_is_no_other_one(self):
        with no_descriptor_left(), pytest.raises(ConnectError, match="ipv6_only") as caught:
            await make_socket(("127.0.0.1", 1), options=self.SIX_ONLY)
        [error] = caught.value.exceptions
        assert isinstance(error.__cause__, UnsupportedOptionError)

    async def test_one_that_neither_has_ends_it(self):
        options = SocketOptions(pass_credentials=True)
        with ScriptedResolver({"name.test": ["127.0.0.1", "::1"]}):
            with pytest.raises(UnsupportedOptionError):
                await make_socket(("name.test", 1), options=options)


def port_of_both():
    """A port that is free for both families: others' connections have ports, too."""
    for _ in range(100):
        with socket.socket(socket.AF_INET6) as six, socket.socket(socket.AF_INET) as four:
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::1", 0))
            with contextlib.suppress(OSError):
                four.bind(("127.0.0.1", six.getsockname()[1]))
                return six.getsockname()[1]
    raise AssertionError("no port is free for both families")


class TestAFullQueue:
    """The real thing: nobody answers, on real sockets and by the mock clock."""

    @pytest.fixture(params=["127.0.0.1", "::1"])
    async def full(self, request, has_ipv6):
        if request.param == "::1" and not has_ipv6:
            pytest.skip("no IPv6 on this system's loopback")
        port = port_of_both() if has_ipv6 else 0
        local = request.param, port
        async with open_socket(connect="passive", local=local, backlog=0) as passive:
            async with open_socket(passive.address):
                yield passive

    async def test_it_times_out(self, full, autojump_clock):
        with no_descriptor_left(), pytest.raises(ConnectTimeoutError) as caught:
            await make_socket(full.address, timeout=10)
        assert str(full.address) in str(caught.value)
        assert trio.current_time() == pytest.approx(10)

    async def test_at_once(self, full):
        with pytest.raises(ConnectTimeoutError):
            await make_socket(full.address, timeout=0)

    async def test_the_other_family_answers(self, full, has_ipv6, autojump_clock):
        if not has_ipv6:
            pytest.skip("no IPv6 on this system's loopback")
        other = "::1" if str(full.address.host) == "127.0.0.1" else "127.0.0.1"
        async with open_socket(connect="passive", local=(other, full.port)) as answering:
            with ScriptedResolver({"name.test": [str(full.address.host), other]}):
                async with open_socket(("name.test", full.port)) as stream:
                    assert stream.remote_address == answering.address
                    assert trio.current_time() == pytest.approx(0.25)

    async def test_cancelled_at_every_step(self, full):
        async def connect():
            with trio.move_on_after(0.01):
                await make_socket(full.address)

        await cancel_everywhere(connect)
