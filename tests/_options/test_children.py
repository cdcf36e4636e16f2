"""Children's options: what is needed is set, what is inherited is not, and neither is assumed."""

from __future__ import annotations

import errno
import socket
import sys

import pytest

from sockscope._core.errors import OptionError
from sockscope._options import kinds
from sockscope._options.access import get_option
from sockscope._options.children import ChildPlan
from sockscope._options.defaults import with_defaults
from sockscope._options.features import supports
from sockscope._options.table import SETTABLE
from sockscope._options.value_types import KeepAlive, Linger
from sockscope._options.values import SocketOptions
from tests._options import sockets
from tests._options.samples import ELSEWHERE, SAMPLES
from tests._options.test_plan import Recording

linux = pytest.mark.skipif(sys.platform != "linux", reason="what children inherit is Linux's")


def plan_for(options, listening):
    return ChildPlan(options, family=listening.family, type=listening.type)


def calls_for(plan, listening):
    """What *plan* sets on one more child."""
    with sockets.accepted(listening) as (_, child):
        recording = Recording(child)
        plan.apply(recording)
        return recording.calls


@linux
@pytest.mark.parametrize("kind", [kinds.TCP4, kinds.TCP6])
class TestInherited:
    def test_is_not_set_again(self, kind):
        options = SocketOptions(nodelay=True, keepalive=KeepAlive(9, 8, 7), user_timeout=3.0)
        with sockets.listener(kind, options.apply) as listening:
            plan = plan_for(options, listening)
            assert [calls_for(plan, listening) for _ in range(3)] == [[], [], []]

    def test_only_what_is_missing_is_set(self, kind):
        options = SocketOptions(nodelay=True, priority=4)
        with sockets.listener(kind, options.apply) as listening:
            plan = plan_for(options, listening)
            missing = [(socket.SOL_SOCKET, socket.SO_PRIORITY)]
            assert [calls_for(plan, listening) for _ in range(2)] == [missing] * 2

    def test_what_one_call_overwrites_is_set_after_it(self, kind):
        """IP_TOS sets the priority, which read as wanted before."""
        options = SocketOptions(traffic_class=0xB8, priority=0)
        with sockets.listener(kind) as listening:
            plan = plan_for(options, listening)
            for _ in range(2):
                with sockets.accepted(listening) as (_, child):
                    plan.apply(child)
                    assert get_option(child, "priority") == 0
                    assert get_option(child, "traffic_class") == 0xB8

    def test_a_buffer_of_the_same_size_that_is_still_tuned(self, kind):
        """Reading the default says nothing: setting it fixes it."""
        with sockets.listener(kind) as listening, sockets.accepted(listening) as (_, child):
            size = get_option(child, "receive_buffer") // 2
            plan = plan_for(SocketOptions(receive_buffer=size), listening)
            for _ in range(2):
                plan.apply(child)
                assert get_option(child, "buffer_lock").name == "RECEIVE"
                SocketOptions(buffer_lock=type(get_option(child, "buffer_lock"))(0)).apply(child)

    def test_set_explicitly_trusts_nothing(self, kind):
        """A child that was queued when the listener was changed has the old value."""
        options = SocketOptions(nodelay=True, linger=Linger(1))
        with sockets.listener(kind, options.apply) as listening:
            plan = plan_for(options, listening)
            assert calls_for(plan, listening) == []
            with socket.socket(listening.family) as early:
                SocketOptions(nodelay=False, linger=False).apply(listening)
                early.connect(listening.getsockname())
                options.apply(listening)
                plan.set_explicitly()
                child, _ = listening.accept()
                with child:
                    assert get_option(child, "nodelay") is False
                    plan.apply(child)
                    assert options.check(child).ok
            assert len(calls_for(plan, listening)) == 2

    def test_beyond_the_limit_is_forced_each_time(self, kind):
        if not sockets.has_capability("CAP_NET_ADMIN"):
            pytest.skip("forcing a buffer needs CAP_NET_ADMIN")
        with open("/proc/sys/net/core/wmem_max") as file:
            size = int(file.read()) * 2
        options = SocketOptions(send_buffer=size)
        with sockets.listener(kind) as listening:
            plan = plan_for(options, listening)
            for _ in range(2):
                with sockets.accepted(listening) as (_, child):
                    plan.apply(child)
                    assert get_option(child, "send_buffer") == size * 2

    def test_where_it_may_not_force(self, kind):
        force = {(socket.SOL_SOCKET, 32): errno.EPERM}
        options = SocketOptions(send_buffer=50000)
        with sockets.listener(kind) as listening:
            plan = plan_for(options, listening)
            for _ in range(2):
                with sockets.accepted(listening) as (_, child):
                    plan.apply(Recording(child, force))
                    assert get_option(child, "send_buffer") == 100000


@linux
@pytest.mark.parametrize("kind", [kinds.LOCAL_STREAM, kinds.LOCAL_SEQPACKET])
def test_local_children_inherit_next_to_nothing(kind):
    options = SocketOptions(send_buffer=50000, pass_credentials=True)
    with sockets.listener(kind, options.apply) as listening:
        plan = plan_for(options, listening)
        for _ in range(2):
            with sockets.accepted(listening) as (_, child):
                assert get_option(child, "pass_credentials") is True
                plan.apply(child)
                assert options.check(child).ok


@linux
@pytest.mark.skipif(not supports("ipv6"), reason="no IPv6 here")
def test_ipv4_mapped_children_inherit_as_ipv6_ones_do():
    """One verification holds for both, as both are clones of their listener."""
    options = SocketOptions(traffic_class=0xB8, nodelay=True, hop_limit=9)
    with sockets.make(kinds.TCP6) as listening:
        (SocketOptions(ipv6_only=False) | options).apply(listening)
        listening.bind(("::", 0))
        listening.listen()
        plan = plan_for(options, listening)
        assert calls_for_client(plan, listening, "::1") == []
        assert calls_for_client(plan, listening, "127.0.0.1") == []


def calls_for_client(plan, listening, host):
    with socket.create_connection((host, listening.getsockname()[1])):
        child, _ = listening.accept()
        with child:
            recording = Recording(child)
            plan.apply(recording)
            assert get_option(child, "traffic_class") == 0xB8
            assert child.getsockopt(0, socket.IP_TOS) == 0xB8
            return recording.calls


@linux
@pytest.mark.skipif(not supports("mptcp"), reason="no Multipath TCP here")
def test_children_of_multipath_tcp_are_looked_at_one_by_one():
    """The child of a plain client is a TCP socket, which inherited other things."""
    options = SocketOptions(nodelay=True, dont_route=True, preferred={"dont_route"})
    with socket.socket(proto=socket.IPPROTO_MPTCP) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        plan = plan_for(options, listening)
        for protocol in (0, socket.IPPROTO_MPTCP, 0):
            with socket.socket(proto=protocol) as client:
                client.connect(listening.getsockname())
                child, _ = listening.accept()
                with child:
                    plan.apply(child)
                    assert get_option(child, "nodelay") is True


class TestUnsuited:
    @pytest.mark.parametrize(
        "row", [r for r in SETTABLE if r.not_for_children], ids=lambda row: row.name
    )
    def test_what_makes_no_sense_on_a_child_is_an_error_that_says_why(self, row):
        options = SocketOptions(**{row.name: SAMPLES[row.name].value})
        with sockets.connected(kinds.TCP4) as child:
            plan = plan_for(options, child)
            for _ in range(2):
                with pytest.raises(OptionError, match=rf"{row.name}.*not on a child") as caught:
                    plan.apply(child)
                assert caught.value.option == row.name
                assert row.not_for_children in str(caught.value)

    def test_which_they_are(self):
        named = {row.name for row in SETTABLE if row.not_for_children}
        assert named >= {
            "reuse_address",
            "reuse_port",
            "ipv6_only",
            "bind_to_device",
            "tcp_md5_key",
            "tcp_md5_keys",
            "defer_accept",
            "fast_open",
            "mptcp",
        }

    def test_the_defaults_have_none_of_them(self):
        options = with_defaults(
            SocketOptions(), family=socket.AF_INET, type=socket.SOCK_STREAM, role="child"
        )
        assert not [option for option, _ in options.stated() if option.not_for_children]

    @pytest.mark.parametrize("kind", sockets.STREAMS)
    def test_whatever_makes_sense_is_in_effect_on_each_child(self, kind):
        suited = {
            row.name: SAMPLES[row.name].value
            for row in SETTABLE
            if kind in row.suited - row.ignored
            and not (row.not_for_children or row.excludes or row.untested or row.volatile)
            and supports(row.name)
        }
        if kind not in kinds.TCP:
            suited = {name: ELSEWHERE.get(name, value) for name, value in suited.items()}
        suited.pop("cork", None)
        suited.pop("repair", None)
        options = SocketOptions(**suited)
        with sockets.listener(kind) as listening:
            plan = plan_for(options, listening)
            for _ in range(2):
                with sockets.accepted(listening) as (_, child):
                    plan.apply(child)
                    report = options.check(child)
                    assert report.ok, {k: v for k, v in report.items() if not v.ok}


class TestFailures:
    KEY = (socket.IPPROTO_TCP, socket.TCP_NODELAY)

    def test_several_are_told_and_the_next_child_is_tried_anew(self):
        options = SocketOptions(nodelay=True, user_timeout=3.0)
        with sockets.listener(kinds.TCP4) as listening:
            plan = plan_for(options, listening)
            with sockets.accepted(listening) as (_, child):
                with pytest.raises(OptionError, match=r"nodelay.*after accept"):
                    plan.apply(Recording(child, {self.KEY: errno.EINVAL}))
                assert get_option(child, "user_timeout") == 3.0
            with sockets.accepted(listening) as (_, child):
                plan.apply(child)
                assert options.check(child).ok

    def test_a_later_child_fails_with_an_error_that_tells(self):
        options = SocketOptions(nodelay=True)
        with sockets.listener(kinds.TCP4) as listening:
            plan = plan_for(options, listening)
            calls_for(plan, listening)
            with sockets.accepted(listening) as (_, child):
                with pytest.raises(OptionError, match="nodelay") as caught:
                    plan.apply(Recording(child, {self.KEY: errno.EINVAL}))
                assert caught.value.errno == errno.EINVAL

    def test_what_is_preferred_may_fail_and_is_not_tried_again(self):
        options = SocketOptions(nodelay=True, user_timeout=3.0, preferred={"nodelay"})
        with sockets.listener(kinds.TCP4) as listening:
            plan = plan_for(options, listening)
            with sockets.accepted(listening) as (_, child):
                plan.apply(Recording(child, {self.KEY: errno.EOPNOTSUPP}))
            assert self.KEY not in calls_for(plan, listening)

    @linux
    def test_a_child_that_was_reset_takes_its_options(self):
        options = SocketOptions(nodelay=True, linger=Linger(1))
        with sockets.listener(kinds.TCP4) as listening:
            client = socket.create_connection(listening.getsockname())
            SocketOptions(linger=Linger(0)).apply(client)
            client.close()
            child, _ = listening.accept()
            with child:
                plan_for(options, listening).apply(child)
                assert options.check(child).ok
