"""`check` says ok only for what the kernel makes of the request, exactly."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sockscope._options import judge, kinds
from sockscope._options.features import supports
from sockscope._options.table import SETTABLE, TABLE
from sockscope._options.value_types import BufferLock, KeepAlive
from sockscope._options.values import SocketOptions
from tests._options import sockets
from tests._options.samples import ELSEWHERE, SAMPLES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's reasons")

NOT_APPLIED = "not applied, or changed since"
BUFFERS = ("send_buffer", "receive_buffer")
SMALLEST = {"send_buffer": 4608, "receive_buffer": 2304}


def limit_of(name):
    sysctl = {"send_buffer": "wmem_max", "receive_buffer": "rmem_max"}[name]
    return sysctl, int(Path("/proc/sys/net/core", sysctl).read_text())


def check(sock, name, value):
    return SocketOptions(**{name: value}).check(sock)[name]


def set_plainly(sock, name, value):
    target = TABLE[name].targets[0]
    sock.setsockopt(target.level, target.number, value)


class TestNotApplied:
    @pytest.mark.parametrize("kind", sockets.EVERY_KIND)
    def test_a_fresh_socket_has_none_of_the_samples(self, kind):
        """Whatever the option: a value that was never set is no success."""
        wrongly = []
        for row in SETTABLE:
            if row.user or not row.is_readable(kind) or not supports(row.name):
                continue
            value = SAMPLES[row.name].value
            if row.name in ELSEWHERE and kind not in kinds.TCP:
                value = ELSEWHERE[row.name]
            with sockets.make(kind) as fresh:
                result = check(fresh, row.name, value)
            if result.ok and result.effective != value:
                wrongly.append((row.name, result))
        assert wrongly == []

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("send_buffer", 50_000),
            ("receive_buffer", 50_000),
            ("max_segment", 900),
            ("window_clamp", 5_000),
            ("quick_ack", None),
            ("defer_accept", 10.0),
            ("incoming_cpu", 4095),
        ],
    )
    def test_a_child_of_a_plain_listener(self, name, value):
        with sockets.listener(kinds.TCP4) as listening:
            with sockets.accepted(listening, b"data") as (_, child):
                if value is None:
                    value = not child.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK)
                result = check(child, name, value)
        assert not result.ok
        assert NOT_APPLIED in result.reason

    def test_a_mask_is_no_reason_for_another_value(self):
        with socket.socket() as sock:
            assert check(sock, "traffic_class", 0xBB).reason == NOT_APPLIED

    def test_rounding_is_no_reason_for_another_value(self):
        with socket.socket() as sock:
            set_plainly(sock, "defer_accept", 60)
            result = check(sock, "defer_accept", 10.0)
            assert (result.effective, result.ok, result.reason) == (63.0, False, NOT_APPLIED)
            assert check(sock, "keepalive", KeepAlive(idle=1.5)).reason == NOT_APPLIED

    def test_a_clamp_is_no_reason_for_another_value(self):
        with socket.socket() as sock:
            set_plainly(sock, "fast_open", 3)
            result = check(sock, "fast_open", 10**6)
            assert not result.ok
            assert result.reason == NOT_APPLIED
            assert check(sock, "receive_low_water", 2**31 - 1).reason == NOT_APPLIED

    @pytest.mark.skipif(not supports("rto_min"), reason="Linux 6.15")
    def test_the_kernels_tick_is_no_reason_for_another_value(self):
        with socket.socket() as sock:
            SocketOptions(rto_min=0.2, delayed_ack_max=0.2).apply(sock)
            assert not check(sock, "rto_min", 0.05).ok
            assert not check(sock, "delayed_ack_max", 0.05).ok
            assert check(sock, "rto_min", 0.2).ok

    @pytest.mark.skipif(not supports("mptcp"), reason="no Multipath TCP here")
    def test_on_multipath_tcp(self):
        with socket.socket(proto=socket.IPPROTO_MPTCP) as sock:
            assert check(sock, "nodelay", True).reason == NOT_APPLIED
        with socket.socket() as plain:
            assert check(plain, "mptcp", True).reason == NOT_APPLIED

    def test_somebody_else_who_changes_it(self):
        with socket.socket() as sock:
            SocketOptions(priority=3).apply(sock)
            SocketOptions(traffic_class=0x10).apply(sock)
            assert "traffic_class" in check(sock, "priority", 3).reason

    def test_ipv4_traffic_of_a_dual_stack_socket(self):
        with sockets.make(kinds.TCP6) as sock:
            options = SocketOptions(ipv6_only=False, hop_limit=9)
            options.apply(sock)
            assert options.check(sock).ok
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 10)
            result = options.check(sock)["hop_limit"]
        assert (result.effective, result.ok) == (9, False)
        assert "IPv4 traffic" in result.reason

    def test_where_there_is_no_socket_to_find_out_with(self, monkeypatch):
        """Stands in for a full table of descriptors: filling it is no matter of this test."""

        def full(*args):
            raise OSError(24, "Too many open files")

        with socket.socket() as sock:
            monkeypatch.setattr(judge, "fresh_socket", full)
            result = check(sock, "fast_open", 10**6)
        assert (result.ok, result.reason) == (False, "the system holds another value")


@pytest.mark.parametrize("name", BUFFERS)
class TestBuffers:
    @pytest.mark.parametrize("kind", sockets.EVERY_KIND)
    @pytest.mark.parametrize("asked", [50_000, 600_000, 499_999, 1_000_000])
    def test_another_size(self, name, kind, asked):
        with sockets.make(kind) as sock:
            SocketOptions(**{name: 500_000}).apply(sock)
            result = check(sock, name, asked)
            assert check(sock, name, 500_000).ok
        assert (result.effective, result.ok) == (1_000_000, False)
        assert result.reason == NOT_APPLIED

    @pytest.mark.parametrize("kind", sockets.EVERY_KIND)
    @pytest.mark.parametrize("asked", [0, 1, 1000])
    def test_the_minimum(self, name, kind, asked):
        with sockets.make(kind) as sock:
            assert not check(sock, name, asked).ok
            SocketOptions(**{name: asked}).apply(sock)
            result = check(sock, name, asked)
        assert (result.effective, result.ok) == (SMALLEST[name], True)
        assert f"at least {SMALLEST[name]}" in result.reason

    def test_clamped(self, name):
        sysctl, limit = limit_of(name)
        with socket.socket() as sock:
            set_plainly(sock, name, limit + 1)  # without force, as one without privilege has it
            result = check(sock, name, limit + 1)
            assert (result.effective, result.ok) == (2 * limit, False)
            assert result.reason == f"clamped by net.core.{sysctl} ({limit})"
            assert check(sock, name, limit).ok
            set_plainly(sock, name, limit // 2)
            assert check(sock, name, limit + 1).reason == NOT_APPLIED

    def test_forced(self, name):
        if not sockets.has_capability("CAP_NET_ADMIN"):
            pytest.skip("forcing a size needs CAP_NET_ADMIN")
        _, limit = limit_of(name)
        with socket.socket() as sock:
            SocketOptions(**{name: limit + 1000}).apply(sock)
            assert check(sock, name, limit + 1000).ok
            assert not check(sock, name, limit + 999).ok
            assert not check(sock, name, limit).ok

    def test_tcp_tunes_what_is_not_fixed(self, name):
        with socket.socket() as sock:
            same = getattr(SocketOptions.read(sock), name)
            result = check(sock, name, same)
            assert (result.effective, result.ok) == (2 * same, False)
            assert "tunes" in result.reason
            SocketOptions(**{name: same}).apply(sock)
            assert check(sock, name, same).ok
            # The other one is still tuned.
            (other,) = set(BUFFERS) - {name}
            assert not check(sock, other, getattr(SocketOptions.read(sock), other)).ok

    def test_where_the_kernel_cannot_tell_whether_it_is_fixed(self, name, monkeypatch):
        """Kernels before 5.15 are stood in for by a number that none has."""
        monkeypatch.setattr(judge, "_LOCK", 9999)
        with socket.socket() as sock:
            assert check(sock, name, getattr(SocketOptions.read(sock), name)).ok

    @pytest.mark.parametrize("kind", [kinds.UDP4, kinds.LOCAL_STREAM])
    def test_nothing_tunes_other_kinds(self, name, kind):
        with sockets.make(kind) as sock:
            assert check(sock, name, getattr(SocketOptions.read(sock), name)).ok

    def test_tuning_that_was_asked_for(self, name):
        options = SocketOptions(**{name: 50_000}, buffer_lock=BufferLock(0))
        with socket.socket() as sock:
            options.apply(sock)
            assert options.check(sock).ok

    def test_a_child_has_its_listeners(self, name):
        options = SocketOptions(**{name: 50_000})
        with sockets.listener(kinds.TCP4, options.apply) as listening:
            with sockets.accepted(listening) as (client, child):
                assert options.check(child).ok
                assert not options.check(client).ok


def test_what_is_read_of_a_connection_is_what_it_has():
    """Tuned sizes need not be even: what is halved is still the same."""
    with sockets.connected(kinds.TCP4) as sock:
        report = SocketOptions.read(sock).check(sock)
    assert report["send_buffer"].ok
    assert report["receive_buffer"].ok


class TestMaxSegment:
    def test_before_it_is_connected(self):
        with socket.socket() as sock:
            assert check(sock, "max_segment", 1000).reason == NOT_APPLIED
            SocketOptions(max_segment=1000).apply(sock)
            assert check(sock, "max_segment", 1000).reason is None
            assert not check(sock, "max_segment", 1001).ok
            assert not check(sock, "max_segment", 999).ok

    def test_unset_it_reads_536(self):
        with socket.socket() as sock:
            result = check(sock, "max_segment", 536)
        assert result.ok
        assert "unset" in result.reason

    @pytest.mark.parametrize("kind", [kinds.TCP4, kinds.TCP6])
    def test_connected(self, kind):
        options = SocketOptions(max_segment=1000)
        with sockets.listener(kind, options.apply) as listening:
            assert options.check(listening).ok
            with sockets.accepted(listening) as (client, child):
                result = check(child, "max_segment", 1000)
                assert (result.effective, result.ok) == (988, True)
                assert "12 less" in result.reason
                assert not check(child, "max_segment", 999).ok
                assert not check(child, "max_segment", 988).ok
                # The client sends segments as small, but offered others.
                result = check(client, "max_segment", 1000)
                assert (result.effective, result.ok) == (988, False)
                assert NOT_APPLIED in result.reason

    def test_more_than_the_path_takes(self):
        """On a network of its own, where the loopback takes no more than Ethernet."""
        done = subprocess.run(
            [sys.executable, "-c", NARROW], check=False, capture_output=True, text=True
        )
        if done.returncode == 77:
            pytest.skip(f"no network namespace: {done.stdout}")
        assert done.returncode == 0, done.stderr
        for end in json.loads(done.stdout):
            assert end == [True, 1448, "the path takes no more than 1460"]

    @pytest.mark.parametrize(("asked", "ok"), [(32767, True), (500, False)])
    def test_on_a_system_that_tells_nothing_of_connections(self, asked, ok, monkeypatch):
        """Another system is stood in for by one whose TCP_INFO has no number."""
        monkeypatch.setattr("sockscope._options.composed.TCP_INFO", None)
        with sockets.listener(kinds.TCP4, SocketOptions(max_segment=1000).apply) as listening:
            with sockets.accepted(listening) as (_, child):
                assert check(child, "max_segment", asked).ok is ok
            assert not check(listening, "max_segment", 999).ok
            assert check(listening, "max_segment", 1000).ok


NARROW = """
import ctypes, json, os, socket, subprocess, sys
flags = 0x40000000 if os.geteuid() == 0 else 0x50000000
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(flags) != 0:
    print(os.strerror(ctypes.get_errno()))
    sys.exit(77)
subprocess.run(["ip", "link", "set", "lo", "mtu", "1500", "up"], check=True)
from sockscope import SocketOptions
options = SocketOptions(max_segment=30_000)
with socket.socket() as listening, socket.socket() as client:
    options.apply(listening)
    options.apply(client)
    listening.bind(("127.0.0.1", 0))
    listening.listen()
    client.connect(listening.getsockname())
    with listening.accept()[0] as child:
        results = [options.check(end)["max_segment"] for end in (client, child)]
print(json.dumps([(r.ok, r.effective, r.reason) for r in results]))
"""


class TestWindowClamp:
    def test_as_asked(self):
        options = SocketOptions(window_clamp=5000)
        with sockets.listener(kinds.TCP4, options.apply) as listening:
            assert options.check(listening)["window_clamp"].reason is None
            with sockets.accepted(listening) as (client, child):
                assert options.check(child).ok
                assert not options.check(client).ok

    def test_the_minimum(self):
        with socket.socket() as sock:
            assert not check(sock, "window_clamp", 1).ok
            SocketOptions(window_clamp=1).apply(sock)
            result = check(sock, "window_clamp", 1)
        assert (result.effective, result.ok) == (1152, True)
        assert "1152" in result.reason

    def test_a_connection_cuts_it_to_its_buffer(self):
        options = SocketOptions(window_clamp=10**6)
        with sockets.listener(kinds.TCP4, options.apply) as listening:
            with sockets.accepted(listening) as (_, child):
                result = options.check(child)["window_clamp"]
        assert not result.ok
        assert "moves it with its receive buffer" in result.reason


class TestLowWater:
    def test_half_of_a_fixed_buffer(self):
        options = SocketOptions(receive_buffer=50_000, receive_low_water=2**31 - 1)
        with socket.socket() as sock:
            options.apply(sock)
            result = options.check(sock)["receive_low_water"]
        assert (result.effective, result.ok) == (50_000, False)
        assert result.reason == "at most half the largest receive buffer"

    def test_half_of_the_largest_buffer(self):
        numbers = Path("/proc/sys/net/ipv4/tcp_rmem").read_text().split()
        with socket.socket() as sock:
            SocketOptions(receive_low_water=2**31 - 1).apply(sock)
            result = check(sock, "receive_low_water", 2**31 - 1)
        assert (result.effective, result.ok) == (int(numbers[2]) // 2, False)
        assert "net.ipv4.tcp_rmem" in result.reason


class TestNoSocket:
    @pytest.mark.parametrize("value", [3, None, "x", socket.socket, object()])
    @pytest.mark.parametrize(
        "use", [SocketOptions().apply, SocketOptions().check, SocketOptions.read]
    )
    def test_it_is_a_type_error(self, use, value):
        with pytest.raises(TypeError, match=r"^sock must be a socket .*, not \w+$"):
            use(value)
