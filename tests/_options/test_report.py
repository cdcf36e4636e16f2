"""Reading a whole socket, and what became of what was asked for."""

from __future__ import annotations

import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sockscope._core.errors import OptionError
from sockscope._options import kinds
from sockscope._options.features import supports
from sockscope._options.report import OptionResult, check_options
from sockscope._options.table import SETTABLE, TABLE
from sockscope._options.value_types import BufferLock, KeepAlive, Linger
from sockscope._options.values import SocketOptions
from tests._options import sockets
from tests._options.samples import ELSEWHERE, SAMPLES
from tests._options.test_access import Ours
from tests._options.test_plan import Recording

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's reasons")


READABLE = SocketOptions(nodelay=True)


class Only:
    """One row of a table, stated."""

    extra = {}
    preferred = frozenset()

    def __init__(self, *pair):
        self.pair = pair

    def stated(self):
        yield self.pair


def checked(kind, **values):
    """The report of options on a fresh socket, after they were applied."""
    options = SocketOptions(**values)
    with sockets.make(kind) as sock:
        options.apply(sock)
        return options.check(sock)


class TestRead:
    @pytest.mark.parametrize("kind", sockets.EVERY_KIND)
    def test_applied_to_another_it_makes_it_alike(self, kind):
        values = {
            row.name: ELSEWHERE.get(row.name, SAMPLES[row.name].value)
            for row in SETTABLE
            if kind in row.suited and row.copied and not (row.untested or row.user or row.excludes)
            if supports(row.name)
        }
        # Once it has a lock, a filter cannot be unlocked; with repair other things fail.
        del values["lock_filter"]
        values.pop("repair", None)
        values.pop("no_checksum", None)
        with sockets.make(kind) as one, sockets.make(kind) as other:
            SocketOptions(**values).apply(one)
            read = SocketOptions.read(one)
            read.apply(other)
            assert SocketOptions.read(other) == read
            report = read.check(other)
            assert all(r.ok or kind in TABLE[name].ignored for name, r in report.items())
        with sockets.make(kind) as fresh:
            assert SocketOptions.read(fresh) != read

    @pytest.mark.parametrize("kind", sockets.STREAMS)
    def test_connected_ones_are_not_too_late_for_what_they_have(self, kind):
        with sockets.connected(kind) as one, sockets.connected(kind) as other:
            SocketOptions(receive_buffer=9000, mark=0).apply(one)
            SocketOptions.read(one).apply(other)
            assert SocketOptions.read(other).receive_buffer == 9000

    def test_a_tuned_buffer_stays_tuned(self):
        with socket.socket() as one, socket.socket() as other:
            SocketOptions.read(one).apply(other)
            assert SocketOptions.read(other).buffer_lock == BufferLock(0)

    def test_timers_of_ours(self):
        with socket.socket() as sock:
            assert SocketOptions.read(Ours(sock)).receive_timeout == 7.0
            assert SocketOptions.read(sock).receive_timeout is None

    def test_what_is_read_round_trips_as_a_mapping(self):
        with socket.socket() as sock:
            read = SocketOptions.read(sock)
        assert SocketOptions.from_mapping(read.to_mapping()) == read

    def test_a_closed_socket(self):
        sock = socket.socket()
        sock.close()
        with pytest.raises(OptionError, match=r"cannot read.*Bad file descriptor"):
            SocketOptions.read(sock)


class TestCheck:
    def test_what_is_as_asked_has_no_reason(self):
        report = checked(kinds.TCP4, nodelay=True, keepalive=KeepAlive(idle=9))
        assert report["nodelay"] == OptionResult(True, True, None)
        assert report["keepalive"].reason is None
        assert report.ok
        assert set(report) == {"nodelay", "keepalive"}
        assert len(report) == 2
        assert "nodelay" in repr(report)

    def test_before_it_was_applied(self):
        options = SocketOptions(nodelay=True, priority=3)
        with socket.socket() as sock:
            report = options.check(sock)
        assert not report.ok
        assert report["nodelay"] == OptionResult(
            True, False, "not applied, or changed since", ok=False
        )
        assert "not applied" in report["priority"].reason
        assert "CAP_NET_ADMIN" in report["priority"].reason

    def test_doubled(self):
        result = checked(kinds.TCP4, send_buffer=50000)["send_buffer"]
        assert result.ok
        assert (result.requested, result.effective) == (50000, 100000)
        assert "doubles" in result.reason

    @pytest.mark.parametrize(
        ("name", "asked", "got"),
        [
            ("defer_accept", 10.0, 15.0),
            ("linger", Linger(1.2), Linger(2)),
            ("user_timeout", 1.0005, 1.001),
            ("keepalive", KeepAlive(idle=1.5), KeepAlive(2, 75, 9)),
        ],
    )
    def test_rounded_up(self, name, asked, got):
        result = checked(kinds.TCP4, **{name: asked})[name]
        assert result.ok
        assert result.effective == got
        assert "rounded up" in result.reason

    def test_rounded_up_to_the_kernels_tick(self):
        if not supports("rto_min"):
            pytest.skip("Linux 6.15")
        result = checked(kinds.TCP4, rto_min=0.0501)["rto_min"]
        assert result.ok
        assert result.effective >= 0.0501

    @pytest.mark.parametrize(
        ("kind", "name", "asked", "sysctl"),
        [
            (kinds.TCP4, "fast_open", 10**6, "net.core.somaxconn"),
            (kinds.TCP4, "receive_low_water", 2**31 - 1, "net.ipv4.tcp_rmem"),
        ],
    )
    def test_clamped(self, kind, name, asked, sysctl):
        result = checked(kind, **{name: asked})[name]
        assert not result.ok
        assert result.effective < asked
        value = " ".join(Path("/proc/sys", *sysctl.split(".")).read_text().split())
        assert f"{sysctl} ({value})" in result.reason

    def test_a_limit_that_cannot_be_read(self, monkeypatch):
        """A system without /proc is stood in for by another place of it."""
        monkeypatch.setattr("sockscope._options.judge._SYSCTLS", Path("/nowhere"))
        result = checked(kinds.TCP4, fast_open=10**6)["fast_open"]
        assert not result.ok
        assert result.reason.startswith("clamped")
        assert "(" not in result.reason

    def test_cut_to_a_constant(self):
        result = checked(kinds.TCP4, fin_wait_timeout=1000)["fin_wait_timeout"]
        assert result == OptionResult(
            1000.0, 120.0, "0 reads the system's; above 120 s is 120 s", ok=False
        )

    def test_the_systems_own(self):
        assert checked(kinds.TCP4, fin_wait_timeout=0).ok

    def test_masked(self):
        result = checked(kinds.TCP4, traffic_class=0xBB)["traffic_class"]
        assert not result.ok
        assert (result.requested, result.effective) == (0xBB, 0xB8)
        assert "masks" in result.reason
        assert checked(kinds.UDP4, traffic_class=0xBB).ok

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (kinds.TCP4, "broadcast"),
            (kinds.UDP4, "keepalive"),
            (kinds.LOCAL_STREAM, "dont_route"),
            (kinds.LOCAL_STREAM, "reuse_address"),
        ],
    )
    def test_ignored_by_this_kind_of_socket(self, kind, name):
        result = checked(kind, **{name: True})[name]
        assert not result.ok
        assert result.effective is True
        assert "ignores it" in result.reason
        assert checked(kind, **{name: False}).ok

    def test_a_removed_feature(self):
        result = checked(kinds.TCP4, thin_dupack=True)["thin_dupack"]
        assert not result.ok
        assert result.effective is False

    @pytest.mark.skipif(not supports("mptcp"), reason="no Multipath TCP here")
    def test_ignored_by_multipath_tcp(self):
        options = SocketOptions(broadcast=False, dont_route=True)
        with socket.socket(proto=socket.IPPROTO_MPTCP) as sock:
            options.apply(sock)
            result = options.check(sock)["dont_route"]
        assert not result.ok
        assert "Multipath TCP" in result.reason

    @pytest.mark.parametrize(
        ("name", "value"), [("tcp_md5_key", b"squeamish"), ("tcp_md5_keys", {"::1": b"squeamish"})]
    )
    def test_what_the_system_never_gives_back(self, name, value):
        report = checked(kinds.TCP6, **{name: value})
        assert report[name] == OptionResult("***", None, "the system never gives a key back")
        assert "squeamish" not in repr(report)

    def test_a_key_that_it_does_give_back(self):
        report = checked(kinds.TCP4, fast_open_key=b"squeamish ossif.")
        assert report.ok
        assert report["fast_open_key"] == OptionResult("***", "***", None)

    def test_another_kind(self):
        options = SocketOptions(nodelay=True, preferred={"nodelay"})
        with sockets.make(kinds.LOCAL_STREAM) as sock:
            options.apply(sock)
            result = options.check(sock)["nodelay"]
        assert result == OptionResult(
            True, None, "a local stream socket has no such option", ok=False
        )

    def test_what_this_system_lacks(self):
        options = SocketOptions(no_sigpipe=True, preferred={"no_sigpipe"})
        with socket.socket() as sock:
            options.apply(sock)
            result = options.check(sock)["no_sigpipe"]
        assert not result.ok
        assert result.reason.startswith("not in effect")

    def test_timers(self):
        options = SocketOptions(receive_timeout=7.0, send_timeout=1.0)
        with socket.socket() as sock:
            ours, foreign = options.check(Ours(sock)), options.check(sock)
        assert ours["receive_timeout"] == OptionResult(7.0, 7.0)
        assert not ours["send_timeout"].ok
        assert not foreign["receive_timeout"].ok
        assert "Trio's clock" in foreign["receive_timeout"].reason

    def test_timers_that_differ(self):
        with socket.socket() as sock:
            result = SocketOptions(receive_timeout=8.0).check(Ours(sock))["receive_timeout"]
        assert result == OptionResult(8.0, 7.0, "not applied, or changed since", ok=False)

    def test_extra_ones(self):
        nodelay = (socket.IPPROTO_TCP, socket.TCP_NODELAY)
        congestion = (socket.IPPROTO_TCP, socket.TCP_CONGESTION)
        options = SocketOptions(extra={nodelay: 1, congestion: b"reno"})
        with socket.socket() as sock:
            options.apply(sock)
            report = options.check(sock)
            assert report[nodelay] == OptionResult(1, 1)
            assert report[congestion] == OptionResult("***", "***")
            sock.setsockopt(*nodelay, 0)
            assert options.check(sock)[nodelay].reason == "not applied, or changed since"

    def test_an_extra_one_that_cannot_be_read(self):
        key = (socket.IPPROTO_TCP, 14)  # TCP_MD5SIG
        options = SocketOptions(extra={key: b"squeamish"})
        with socket.socket() as sock:
            result = options.check(sock)[key]
        assert result.requested == "***"
        assert "cannot be read" in result.reason
        assert result.ok

    @pytest.mark.parametrize("kind", sockets.EVERY_KIND)
    def test_an_extra_one_that_there_is_not(self, kind):
        options = SocketOptions(extra={(socket.SOL_SOCKET, 9999): 1})
        with sockets.make(kind) as sock:
            report = options.check(sock)
        assert not report.ok

    @pytest.mark.parametrize(
        "options",
        [SocketOptions(extra={(6, 14): b"x"}), SocketOptions(tcp_md5_key=b"x"), READABLE],
    )
    def test_a_closed_socket_has_nothing_in_effect(self, options):
        sock = socket.socket()
        sock.close()
        assert not options.check(sock).ok

    @pytest.mark.parametrize("change", [{"level": 1, "linux": 9999}, {"level": -1, "linux": None}])
    def test_what_the_system_never_gives_back_and_does_not_have(self, change):
        """A kernel without it is stood in for by a number that it does not know, or by none."""
        row = TABLE["busy_poll_budget"]
        lacking = replace(row, targets=(replace(row.targets[0], **change),))
        options = Only(lacking, 32)
        with socket.socket() as sock:
            result = check_options(options, sock)["busy_poll_budget"]
        assert not result.ok
        assert "not in effect" in result.reason

    def test_what_is_ignored_and_never_given_back(self):
        with sockets.make(kinds.LOCAL_STREAM) as sock:
            result = SocketOptions(busy_poll_budget=32).check(sock)["busy_poll_budget"]
        assert not result.ok
        assert "ignores it" in result.reason

    def test_nothing_is_set_by_looking(self):
        options = SocketOptions(nodelay=True, traffic_class=3, extra={(6, 1): 1})
        with socket.socket() as sock:
            recording = Recording(sock)
            options.check(recording)
            SocketOptions.read(recording)
        assert recording.calls == []
