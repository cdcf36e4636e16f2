"""What this system can do is tried, and nothing is left behind."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys

import pytest

from sockscope._core.errors import SocketError, UnknownOptionError
from sockscope._options import features as module
from sockscope._options import kinds
from sockscope._options.features import features, forget_features, supports
from sockscope._options.kernel import system_default
from sockscope._options.table import TABLE

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's features")
FEATURES = ("ipv6", "local", "abstract", "seqpacket", "mptcp", "gso", "gro")


@pytest.fixture(autouse=True)
def fresh():
    forget_features()
    yield
    forget_features()


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


class TestSupports:
    @linux
    def test_what_every_linux_has(self):
        for name in (
            "local",
            "abstract",
            "seqpacket",
            "nodelay",
            "linger",
            "tcp_info",
            "mtu_discovery",
        ):
            assert supports(name) is True

    @linux
    def test_what_none_has(self):
        for name in ("no_push", "no_sigpipe", "exclusive_address_use", "send_low_water"):
            assert supports(name) is False

    def test_timers_are_ours_everywhere(self):
        assert supports("receive_timeout")

    def test_an_unknown_name(self):
        with pytest.raises(UnknownOptionError, match="did you mean 'ipv6'"):
            supports("ipv66")
        with pytest.raises(UnknownOptionError):
            supports("SO_REUSEADDR")

    @linux
    def test_it_is_found_out_once(self, monkeypatch):
        first = supports("nodelay"), supports("ipv6")

        def refuse(*args):
            raise AssertionError("a second socket")

        monkeypatch.setattr(socket, "socket", refuse)
        assert (supports("nodelay"), supports("ipv6")) == first

    @linux
    def test_a_shortage_says_nothing_of_the_feature(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
        try:
            for name in ("nodelay", "ipv6"):
                with pytest.raises(SocketError, match=name) as caught:
                    supports(name)
                assert caught.value.errno == errno.EMFILE
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert supports("nodelay")

    @linux
    def test_nothing_is_left_behind(self):
        before = descriptors()
        features()
        assert descriptors() == before

    def test_a_system_without_local_sockets(self, monkeypatch):
        """Windows' Python has no AF_UNIX; here its place is taken by no family."""
        monkeypatch.setattr("sockscope._options.kinds.AF_UNIX", 65535)
        assert not supports("local")

    @linux
    def test_it_is_right_for_privilege(self):
        if os.geteuid() != 0:
            pytest.skip("dropping privilege needs it")
        names = ("mark", "debug", "icmp_filter", "nodelay")
        with_privilege = [supports(name) for name in names]
        try:
            os.seteuid(65534)
        except PermissionError:
            pytest.skip("a root that may not become another user")
        try:
            without = [supports(name) for name in names]
        finally:
            os.seteuid(0)
        assert without == [False, False, False, True]
        assert [supports(name) for name in names] == with_privilege

    @linux
    def test_the_systems_default(self):
        assert system_default(TABLE["nodelay"], kinds.TCP4) is False
        for name, kind in (("nodelay", kinds.UDP4), ("tcp_md5_key", kinds.TCP4)):
            with pytest.raises(OSError, match="not available"):
                system_default(TABLE[name], kind)


class TestFeatures:
    def test_all_in_one(self):
        found = features()
        for name in FEATURES:
            assert getattr(found, name) is supports(name)
        assert found.options == {name for name in TABLE if supports(name)}
        assert hash(found)

    def test_there_is_one_for_each_name(self):
        assert tuple(module._NAMED) == FEATURES
