"""How options get onto a socket: in order, in their phase, all or with an error that tells."""

from __future__ import annotations

import errno
import os
import socket
import sys
import traceback

import pytest
import trio

from sockscope._core.errors import OptionError, UnsupportedOptionError
from sockscope._options import defaults, kinds
from sockscope._options.access import get_option
from sockscope._options.defaults import NO_OPTIONS, default_options, with_defaults
from sockscope._options.features import supports
from sockscope._options.plan import compile_plan
from sockscope._options.value_types import DeadPeer, KeepAlive
from sockscope._options.values import SocketOptions
from tests._options import sockets

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's options")
needs_ipv6 = pytest.mark.skipif(not supports("ipv6"), reason="no IPv6 here")

STREAM4 = {"family": socket.AF_INET, "type": socket.SOCK_STREAM}


class Recording:
    """A socket that writes down what is set on it: no more than the protocol, no descriptor."""

    def __init__(self, sock, fail=()):
        self.sock, self.calls, self.fail = sock, [], dict(fail)
        self.family, self.type, self.proto = sock.family, sock.type, sock.proto
        self.getsockopt, self.getsockname = sock.getsockopt, sock.getsockname
        self.getpeername = sock.getpeername

    def setsockopt(self, level, number, value):
        self.calls.append((level, number))
        if (level, number) in self.fail:
            raise OSError(self.fail[level, number], os.strerror(self.fail[level, number]))
        self.sock.setsockopt(level, number, value)


class TestOrder:
    @linux
    def test_traffic_class_before_priority_however_they_are_declared(self):
        """Writing IP_TOS overwrites SO_PRIORITY."""
        with socket.socket() as sock:
            SocketOptions(priority=3, traffic_class=0x10).apply(sock)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_PRIORITY) == 3

    @linux
    def test_the_buffer_lock_after_the_buffers(self):
        with socket.socket() as sock:
            unlocked = type(SocketOptions.read(sock).buffer_lock)(0)
            SocketOptions(buffer_lock=unlocked, receive_buffer=65536).apply(sock)
            assert get_option(sock, "buffer_lock") == unlocked
            assert get_option(sock, "receive_buffer") == 131072

    @needs_ipv6
    def test_an_extra_option_has_the_last_word(self):
        key = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        with socket.socket() as sock:
            SocketOptions(extra={key: 0}, nodelay=True).apply(sock)
            assert sock.getsockopt(*key) == 0


@linux
@needs_ipv6
class TestDualStack:
    @pytest.mark.parametrize("kind", [kinds.TCP6, kinds.UDP6])
    @pytest.mark.parametrize("only", [False, True])
    def test_both_families_options_unless_it_is_ipv6_only(self, kind, only):
        with sockets.make(kind) as sock:
            SocketOptions(traffic_class=0xB8, ipv6_only=only).apply(sock)
            assert sock.getsockopt(41, socket.IPV6_TCLASS) == 0xB8
            assert sock.getsockopt(0, socket.IP_TOS) == (0 if only else 0xB8)

    def test_check_tells_when_the_ipv4_twin_differs(self):
        options = SocketOptions(traffic_class=0xB8)
        with sockets.make(kinds.UDP6) as sock:
            options.apply(sock)
            sock.setsockopt(0, socket.IP_TOS, 0)
            result = options.check(sock)["traffic_class"]
        assert not result.ok
        assert result.effective == 0xB8
        assert "IPv4" in result.reason


class TestLate:
    def late(self, sock, **values):
        with pytest.raises(OptionError, match="takes effect") as caught:
            SocketOptions(**values).apply(sock)
        return caught.value

    def test_before_bind_only(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            error = self.late(sock, reuse_address=True)
            assert not sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        assert error.option == "reuse_address"
        assert error.value is True
        assert error.phase == "after bind"
        assert not isinstance(error, UnsupportedOptionError)
        assert "reuse_address" in str(error)
        assert "before bind only" in str(error)

    def test_bound_to_an_address_without_a_port_is_bound(self):
        with socket.socket() as sock:
            if sys.platform == "linux":
                SocketOptions(bind_address_no_port=True).apply(sock)
            sock.bind(("127.0.0.1", 0))
            self.late(sock, reuse_address=True)

    @linux
    @pytest.mark.parametrize("kind", [kinds.TCP4, kinds.TCP6])
    def test_before_the_handshake_only(self, kind):
        with sockets.connected(kind) as sock:
            assert self.late(sock, syn_retries=3).phase == "after connect"
        with sockets.listener(kind) as sock:
            SocketOptions(max_segment=1000).apply(sock)  # for later connections
            assert self.late(sock, reuse_port=True).phase == "after listen"

    @linux
    def test_a_local_socket_knows_its_stage_too(self):
        with sockets.listener(kinds.LOCAL_STREAM) as sock:
            assert self.late(sock, reuse_address=True).phase == "after listen"
        with sockets.connected(kinds.LOCAL_STREAM) as sock:
            assert self.late(sock, reuse_address=True).phase == "after connect"
        with sockets.make(kinds.LOCAL_DATAGRAM) as sock:
            sock.bind("")
            assert self.late(sock, reuse_address=True).phase == "after bind"

    def test_what_it_has_already_is_not_late(self):
        with socket.socket() as sock:
            SocketOptions(reuse_address=True).apply(sock)
            sock.bind(("127.0.0.1", 0))
            SocketOptions(reuse_address=True).apply(sock)

    @linux
    def test_a_protocol_cannot_be_changed(self):
        with socket.socket() as sock:
            SocketOptions(mptcp=False).apply(sock)
            assert "when a socket is made" in str(self.late(sock, mptcp=True))


class TestPlan:
    def test_it_is_kept(self):
        options = SocketOptions(nodelay=True)
        plans = {id(compile_plan(options, **STREAM4, role="active")) for _ in range(3)}
        assert len(plans) == 1

    def test_nothing_to_do_makes_no_call(self):
        with socket.socket() as sock:
            recording = Recording(sock)
            plan = compile_plan(NO_OPTIONS, **STREAM4, role="active")
            plan.before(recording)
            plan.after(recording)
        assert recording.calls == []
        assert plan.protocol == 0

    def test_timers_are_left_to_the_stream(self):
        options = SocketOptions(receive_timeout=1, send_timeout=2)
        with socket.socket() as sock:
            recording = Recording(sock)
            compile_plan(options, **STREAM4, role="active").before(recording)
        assert recording.calls == []

    @linux
    def test_quick_ack_comes_after_listen_and_children_have_it(self):
        plan = compile_plan(SocketOptions(quick_ack=False), **STREAM4, role="passive")
        with socket.socket() as sock:
            plan.before(sock)
            assert sock.getsockopt(6, socket.TCP_QUICKACK) == 1
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            plan.after(sock)
            with sockets.accepted(sock) as (_, child):
                assert child.getsockopt(6, socket.TCP_QUICKACK) == 0

    @linux
    def test_a_child_gets_what_comes_after_at_once(self):
        plan = compile_plan(SocketOptions(quick_ack=False), **STREAM4, role="child")
        with sockets.connected(kinds.TCP4) as sock:
            plan.before(sock)
            assert sock.getsockopt(6, socket.TCP_QUICKACK) == 0
            plan.after(sock)

    @linux
    def test_mptcp_is_a_protocol(self):
        if not supports("mptcp"):
            pytest.skip("no Multipath TCP here")
        plan = compile_plan(SocketOptions(mptcp=True), **STREAM4, role="active")
        with socket.socket(proto=plan.protocol) as sock:
            plan.before(sock)
            assert get_option(sock, "mptcp") is True
        plan = compile_plan(SocketOptions(mptcp=False), **STREAM4, role="active")
        assert plan.protocol == 0

    @linux
    def test_mptcp_that_this_system_lacks(self, monkeypatch):
        """A kernel without it cannot be had here: the feature test is made to say so."""
        monkeypatch.setattr("sockscope._options.plan.supports", lambda name: False)
        wanted = SocketOptions(mptcp=True, syn_retries=2)  # not the plan of another test
        plan = compile_plan(wanted, **STREAM4, role="active")
        assert plan.protocol == 0
        with socket.socket() as sock, pytest.raises(UnsupportedOptionError, match="mptcp"):
            plan.before(sock)
        preferred = wanted.replace(preferred={"mptcp"})
        plan = compile_plan(preferred, **STREAM4, role="active")
        assert plan.protocol == 0
        with socket.socket() as sock:
            plan.before(sock)

    async def test_trios_sockets_and_any_with_their_methods(self):
        options = SocketOptions(nodelay=True, keepalive=KeepAlive(idle=9))
        with trio.socket.socket() as sock:
            compile_plan(options, **STREAM4, role="active").before(sock)
            assert options.check(sock).ok
            options.apply(sock)
            assert SocketOptions.read(sock).nodelay is True


class TestFailure:
    def test_an_option_of_another_kind(self):
        options = SocketOptions(nodelay=True)
        plan = compile_plan(options, family=socket.AF_INET, type=socket.SOCK_DGRAM, role="active")
        with (
            socket.socket(type=socket.SOCK_DGRAM) as sock,
            pytest.raises(UnsupportedOptionError, match="IPv4 datagram socket") as caught,
        ):
            plan.before(sock)
        assert caught.value.option == "nodelay"
        assert caught.value.phase == "before connect"
        assert caught.value.errno == errno.ENOPROTOOPT

    @linux
    def test_an_option_that_ipv6_has_alone_fails_ipv4(self):
        plan = compile_plan(SocketOptions(ipv6_only=True), **STREAM4, role="active")
        with socket.socket() as sock, pytest.raises(UnsupportedOptionError, match="ipv6_only"):
            plan.before(sock)

    @linux
    def test_one_that_the_system_lacks(self):
        with socket.socket() as sock, pytest.raises(UnsupportedOptionError, match="no_sigpipe"):
            SocketOptions(no_sigpipe=True).apply(sock)
        with socket.socket() as sock:
            SocketOptions(no_sigpipe=True, preferred={"no_sigpipe"}).apply(sock)

    def test_several_are_a_group_and_the_others_are_set(self):
        options = SocketOptions(ipv6_only=True, nodelay=True, pass_rights=True)
        with socket.socket() as sock:
            with pytest.raises(ExceptionGroup, match="options") as caught:
                options.apply(sock)
            assert get_option(sock, "nodelay") is True
        assert {e.option for e in caught.value.exceptions} == {"ipv6_only", "pass_rights"}
        assert all(isinstance(e, OptionError) for e in caught.value.exceptions)

    def test_a_preferred_one_is_not_raised(self):
        options = SocketOptions(ipv6_only=True, nodelay=True, preferred={"ipv6_only"})
        with socket.socket() as sock:
            options.apply(sock)
            report = options.check(sock)
        assert not report.ok
        assert "no such option" in report["ipv6_only"].reason

    def test_lack_of_privilege_names_the_way_out(self):
        key = (socket.SOL_SOCKET, socket.SO_PRIORITY) if sys.platform == "linux" else None
        if key is None:
            pytest.skip("no privileged option")
        with socket.socket() as sock:
            recording = Recording(sock, {key: errno.EPERM})
            with pytest.raises(OptionError, match="CAP_NET_ADMIN") as caught:
                SocketOptions(priority=7).apply(recording)
        assert isinstance(caught.value, PermissionError)
        assert not isinstance(caught.value, UnsupportedOptionError)
        assert isinstance(caught.value.__cause__, OSError)

    @linux
    def test_repeating_what_may_be_set_only_once_is_no_failure(self):
        """An unprivileged process may not even set bind_to_device to what it is."""
        options = SocketOptions(bind_to_device="lo")
        with socket.socket() as sock:
            options.apply(sock)
            key = (socket.SOL_SOCKET, socket.SO_BINDTODEVICE)
            recording = Recording(sock, {key: errno.EPERM})
            options.apply(recording)
            assert recording.calls == [key]
            with pytest.raises(OptionError, match="CAP_NET_RAW"):
                SocketOptions(bind_to_device="").apply(recording)

    @linux
    def test_an_interface_that_is_not_there(self):
        with sockets.make(kinds.UDP4) as sock:
            for options in (
                SocketOptions(multicast_interface="nowhere0"),
                SocketOptions(bind_to_device="nowhere0"),
            ):
                with pytest.raises(OptionError) as caught:
                    options.apply(sock)
                assert caught.value.errno in (errno.ENODEV, errno.ENXIO)

    def test_an_extra_option(self):
        with socket.socket() as sock, pytest.raises(UnsupportedOptionError) as caught:
            SocketOptions(extra={(6, 250): b"\0\0\0\0"}).apply(sock)
        assert caught.value.option == (6, 250)
        assert "(6, 250)" in str(caught.value)

    def test_a_key_is_in_no_error_nor_traceback(self):
        options = SocketOptions(tcp_md5_key=b"squeamish", extra={(6, 250): b"squeamish"})
        with sockets.make(kinds.UDP4) as sock, pytest.raises(ExceptionGroup) as caught:
            options.apply(sock)
        for error in caught.value.exceptions:
            assert error.value == "***"
        assert "squeamish" not in "".join(traceback.format_exception(caught.value))

    def test_a_closed_socket(self):
        sock = socket.socket()
        sock.close()
        with pytest.raises(OptionError) as caught:
            SocketOptions(nodelay=True).apply(sock)
        assert caught.value.errno == errno.EBADF


@linux
class TestBuffers:
    @pytest.mark.parametrize("name", ["send_buffer", "receive_buffer"])
    def test_set_then_forced_where_the_process_may(self, name):
        sysctl = {"send_buffer": "wmem_max", "receive_buffer": "rmem_max"}[name]
        with open(f"/proc/sys/net/core/{sysctl}") as file:
            limit = int(file.read())
        options = SocketOptions(**{name: limit * 2})
        force = (socket.SOL_SOCKET, {"send_buffer": 32, "receive_buffer": 33}[name])
        with socket.socket() as sock:
            recording = Recording(sock, {force: errno.EPERM})
            options.apply(recording)
            assert recording.calls[-1] == force
            result = options.check(sock)[name]
            assert not result.ok
            assert f"net.core.{sysctl} ({limit})" in result.reason
            assert result.effective == limit * 2
        with socket.socket() as sock:
            options.apply(sock)
            forced = options.check(sock)[name]
        assert forced.ok == sockets.has_capability("CAP_NET_ADMIN")

    def test_what_the_system_allows_is_not_forced(self):
        with socket.socket() as sock:
            recording = Recording(sock)
            SocketOptions(send_buffer=10000).apply(recording)
        assert recording.calls == [(socket.SOL_SOCKET, socket.SO_SNDBUF)]

    def test_the_smallest_is_more_than_asked_for(self):
        options = SocketOptions(send_buffer=1, receive_buffer=0)
        with socket.socket() as sock:
            options.apply(sock)
            report = options.check(sock)
        assert report.ok
        assert "at least" in report["send_buffer"].reason


class TestDefaults:
    @pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
    def test_tcp_streams(self, family):
        for role in ("active", "child"):
            options = default_options(family=family, type=socket.SOCK_STREAM, role=role)
            assert options == SocketOptions(
                nodelay=True, unsent_low_water=16384, preferred={"nodelay", "unsent_low_water"}
            )

    def test_passive_ones_reuse_their_address(self):
        options = default_options(**STREAM4, role="passive")
        windows = sys.platform == "win32"
        assert options.reuse_address == (None if windows else True)
        assert options.exclusive_address_use == (True if windows else None)
        assert options.nodelay

    def test_on_windows_its_use_is_exclusive(self, monkeypatch):
        monkeypatch.setattr("sys.platform", "win32")
        defaults._defaults.cache_clear()
        try:
            options = default_options(**STREAM4, role="passive")
        finally:
            defaults._defaults.cache_clear()
        assert (options.reuse_address, options.exclusive_address_use) == (None, True)

    @pytest.mark.parametrize(
        "kind", [kinds.UDP4, kinds.UDP6, kinds.LOCAL_STREAM, kinds.LOCAL_SEQPACKET]
    )
    @pytest.mark.parametrize("role", ["active", "passive", "child"])
    def test_others_have_none(self, kind, role):
        """On datagram sockets the reuse of addresses would let others take the port over."""
        family, type_ = kinds.family_and_type(kind)
        assert default_options(family=family, type=type_, role=role) == NO_OPTIONS

    def test_what_is_stated_wins_and_is_required(self):
        user = SocketOptions(nodelay=False, reuse_address=False)
        options = with_defaults(user, **STREAM4, role="passive")
        assert options.nodelay is False
        assert options.reuse_address is False
        assert options.unsent_low_water == 16384
        assert options.preferred == {"unsent_low_water"}

    def test_what_is_preferred_stays_so(self):
        user = SocketOptions(nodelay=False, preferred={"nodelay", "mark"})
        options = with_defaults(user, **STREAM4, role="active")
        assert options.preferred == {"nodelay", "mark", "unsent_low_water"}

    def test_a_system_without_them_is_no_error(self):
        key = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        plan = compile_plan(default_options(**STREAM4, role="active"), **STREAM4, role="active")
        with socket.socket() as sock:
            plan.before(Recording(sock, {key: errno.ENOPROTOOPT}))


@linux
class TestDeadPeer:
    def test_all_four_are_set_and_read_back_as_one(self):
        options = SocketOptions(dead_peer=DeadPeer(detect_within=30.5))
        with sockets.connected(kinds.TCP4) as sock:
            assert get_option(sock, "dead_peer") is None
            options.apply(sock)
            assert get_option(sock, "keepalive") == KeepAlive(15, 5, 3)
            assert get_option(sock, "user_timeout") == 29.5
            assert get_option(sock, "dead_peer") == DeadPeer(30)
            report = options.check(sock)
            assert report.ok
            assert "whole seconds" in report["dead_peer"].reason
            SocketOptions(user_timeout=3.0).apply(sock)
            assert get_option(sock, "dead_peer") is None
            assert not options.check(sock).ok
            SocketOptions(user_timeout=0.0).apply(sock)
            assert get_option(sock, "dead_peer") is None
