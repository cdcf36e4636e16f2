"""One option at a time, on sockets of ours, of Trio's and of the standard library's."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import sys

import pytest
import trio

from sockscope._core.errors import OptionError, UnknownOptionError, UnsupportedOptionError
from sockscope._options import kinds
from sockscope._options.access import get_option, set_option
from sockscope._options.codec import Codec
from sockscope._options.codec_struct import DeadPeerCodec, FrozenMapping
from sockscope._options.features import supports
from sockscope._options.table import TABLE
from sockscope._options.value_types import (
    DeadPeer,
    KeepAlive,
    Linger,
    PathMTUDiscovery,
    TcpInfo,
    parse_extended_error,
    parse_tcp_info,
)
from sockscope._options.values import SocketOptions
from tests._options import sockets
from tests._options.test_plan import Recording

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's options")


class Ours:
    """What a stream of ours shows of itself to the options."""

    receive_timeout = 7.0
    send_timeout = float("inf")

    def __init__(self, sock):
        self.sock, self.changes = sock, []

    def _option_target(self):
        return self.sock

    def _options_changed(self, options):
        self.changes.append(options)


class TestSet:
    def test_it_says_whether_it_was_set(self):
        with socket.socket() as sock:
            assert set_option(sock, "nodelay", True) is True
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

    async def test_on_trios_sockets(self):
        with trio.socket.socket() as sock:
            assert set_option(sock, "linger", Linger(2))
            assert get_option(sock, "linger") == Linger(2)

    def test_ours_are_told(self):
        with socket.socket() as sock:
            ours = Ours(sock)
            set_option(ours, "nodelay", True)
            set_option(ours, "receive_timeout", 5)
            SocketOptions(priority=1, send_timeout=3).apply(ours)
            assert get_option(ours, "nodelay") is True
        assert ours.changes == [
            SocketOptions(nodelay=True),
            SocketOptions(receive_timeout=5.0),
            SocketOptions(priority=1, send_timeout=3.0),
        ]

    def test_ours_are_not_told_of_a_failure(self):
        with socket.socket() as sock:
            ours = Ours(sock)
            with pytest.raises(OptionError):
                set_option(ours, "ipv6_only", True)
        assert ours.changes == []

    def test_missing_ok_forgives_what_is_not_supported(self):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            assert set_option(sock, "nodelay", True, missing_ok=True) is False
            with pytest.raises(UnsupportedOptionError):
                set_option(sock, "nodelay", True)

    @linux
    def test_missing_ok_forgives_nothing_else(self):
        with socket.socket() as sock:
            for number in (errno.EPERM, errno.EINVAL, errno.ENODEV):
                key = (socket.SOL_SOCKET, socket.SO_PRIORITY)
                with pytest.raises(OptionError) as caught:
                    set_option(Recording(sock, {key: number}), "priority", 9, missing_ok=True)
                assert caught.value.errno == number
            with pytest.raises(ValueError, match="priority"):
                set_option(sock, "priority", -1, missing_ok=True)
            with pytest.raises(TypeError, match="priority"):
                set_option(sock, "priority", None, missing_ok=True)
            with pytest.raises(OptionError, match="nowhere0"):
                set_option(sock, "bind_to_device", "nowhere0", missing_ok=True)
            with pytest.raises(UnknownOptionError):
                set_option(sock, "prioriti", 1, missing_ok=True)

    def test_too_late_is_an_error(self):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            with pytest.raises(OptionError, match="before bind only") as caught:
                set_option(sock, "reuse_address", True)
            assert caught.value.phase == "after bind"
            with pytest.raises(OptionError) as caught:
                set_option(sock, "reuse_address", True, phase="in the middle")
            assert caught.value.phase == "in the middle"

    def test_what_is_only_read(self):
        with socket.socket() as sock, pytest.raises(OptionError, match="only read") as caught:
            set_option(sock, "type", 1, missing_ok=True)
        assert caught.value.phase == "read only"

    def test_timers_are_kept_by_our_streams_alone(self):
        with socket.socket() as sock:
            with pytest.raises(UnsupportedOptionError, match="Trio's clock"):
                set_option(sock, "receive_timeout", 5)
            assert set_option(sock, "send_timeout", 5, missing_ok=True) is False
            with pytest.raises(UnsupportedOptionError, match="Trio's clock"):
                SocketOptions(receive_timeout=5).apply(sock)
            # SO_RCVTIMEO and SO_SNDTIMEO do nothing under an event loop: never written.
            if sys.platform == "linux":
                for name in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
                    assert sock.getsockopt(socket.SOL_SOCKET, name, 16) == bytes(16)


class TestGet:
    @pytest.mark.parametrize("name", ["kepalive", "", "NODELAY", None, 3])
    def test_an_unknown_name(self, name):
        with socket.socket() as sock, pytest.raises(UnknownOptionError):
            get_option(sock, name)

    def test_the_nearest_known_name(self):
        with socket.socket() as sock, pytest.raises(UnknownOptionError, match="'keepalive'"):
            get_option(sock, "kepalive")

    def test_keepalive_is_true_with_the_systems_timing(self):
        with socket.socket() as sock:
            assert get_option(sock, "keepalive") is False
            set_option(sock, "keepalive", True)
            assert get_option(sock, "keepalive") is True
            set_option(sock, "keepalive", KeepAlive(30, 10, 3))
            assert get_option(sock, "keepalive") == KeepAlive(30, 10, 3)
            set_option(sock, "keepalive", False)
            assert get_option(sock, "keepalive") is False

    def test_keepalive_where_there_is_no_timing(self):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            set_option(sock, "keepalive", True)
            assert get_option(sock, "keepalive") is True

    @linux
    def test_a_buffer_in_the_kernels_figures(self):
        with socket.socket() as sock:
            set_option(sock, "receive_buffer", 50000)
            assert get_option(sock, "receive_buffer") == 100000
            assert SocketOptions.read(sock).receive_buffer == 50000

    @linux
    def test_a_negative_linger_that_others_stored(self):
        """Linux takes it, and gives back nonsense."""
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, -1))
            assert 0 <= get_option(sock, "linger").seconds <= 65535

    def test_of_another_kind(self):
        with (
            socket.socket(type=socket.SOCK_DGRAM) as sock,
            pytest.raises(UnsupportedOptionError, match="IPv4 datagram socket") as caught,
        ):
            get_option(sock, "nodelay")
        assert caught.value.option == "nodelay"

    @linux
    @pytest.mark.parametrize("name", ["no_sigpipe", "tcp_md5_key", "busy_poll_budget"])
    def test_what_the_system_lacks_or_does_not_give_back(self, name):
        with socket.socket() as sock, pytest.raises(UnsupportedOptionError, match=name):
            get_option(sock, name)

    def test_timers_of_ours(self):
        with socket.socket() as sock:
            assert get_option(Ours(sock), "receive_timeout") == 7.0
            with pytest.raises(UnsupportedOptionError, match="Trio's clock"):
                get_option(sock, "receive_timeout")

    @linux
    def test_so_error_is_left_alone(self):
        """Reading it clears it, and nothing here may."""
        with (
            socket.socket(type=socket.SOCK_DGRAM) as sock,
            socket.socket(type=socket.SOCK_DGRAM) as gone,
        ):
            gone.bind(("127.0.0.1", 0))
            sock.connect(gone.getsockname())
            gone.close()
            sock.send(b"")
            SocketOptions.read(sock)
            for row in TABLE.values():
                with contextlib.suppress(OptionError):
                    get_option(sock, row.name)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED

    @linux
    def test_a_family_of_which_the_table_knows_nothing(self):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
            assert get_option(sock, "send_buffer") > 0
            assert get_option(sock, "domain") == socket.AF_NETLINK
            with pytest.raises(UnsupportedOptionError, match="of this family"):
                get_option(sock, "nodelay")


@linux
class TestReadOnly:
    def test_what_kind_it_is(self):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            assert get_option(sock, "type") is socket.SOCK_DGRAM
            assert get_option(sock, "domain") is socket.AF_INET6
            assert get_option(sock, "protocol") == socket.IPPROTO_UDP
            assert get_option(sock, "accepting") is False

    def test_a_listening_one(self):
        with sockets.listener(kinds.TCP4) as listening:
            assert get_option(listening, "accepting") is True
            with sockets.accepted(listening) as (_, child):
                assert get_option(child, "accepting") is False

    def test_cookies_are_of_64_bits(self):
        with socket.socket() as sock, socket.socket() as other, sock.dup() as same:
            assert get_option(sock, "cookie") == get_option(same, "cookie")
            assert get_option(sock, "cookie") != get_option(other, "cookie")
            assert get_option(sock, "network_namespace_cookie") == get_option(
                other, "network_namespace_cookie"
            )

    def test_memory(self):
        with socket.socket(type=socket.SOCK_DGRAM) as sock:
            set_option(sock, "receive_buffer", 5000)
            sock.bind(("127.0.0.1", 0))
            for _ in range(100):
                sock.sendto(bytes(500), sock.getsockname())
            info = get_option(sock, "memory_info")
        assert info.receive_buffer == 10000
        assert info.dropped > 0

    def test_path_mtu(self):
        for kind in (kinds.TCP4, kinds.UDP6):
            with sockets.connected(kind) as sock:
                assert get_option(sock, "path_mtu") >= 1280
            with sockets.make(kind) as sock, pytest.raises(OptionError) as caught:
                get_option(sock, "path_mtu")
            assert caught.value.errno == errno.ENOTCONN

    def test_tcp_info_of_a_connection(self):
        with sockets.connected(kinds.TCP4) as sock:
            sock.send(b"12345")
            info = get_option(sock, "tcp_info")
        assert info.state == 1
        assert info.bytes_sent == 5
        assert info.snd_mss > 500

    def test_tcp_info_of_a_listening_socket(self):
        with sockets.listener(kinds.TCP4) as listening:
            listening.listen(7)
            with socket.create_connection(listening.getsockname()):
                info = get_option(listening, "tcp_info")
        assert (info.unacked, info.sacked) == (1, 7)

    def test_the_saved_syn_once(self):
        with sockets.listener(kinds.TCP4, SocketOptions(save_syn=1).apply) as listening:
            with sockets.accepted(listening) as (_, child):
                SocketOptions.read(child)
                assert get_option(child, "saved_syn")[0] == 0x45
                assert get_option(child, "saved_syn") == b""

    def test_congestion_info(self):
        with sockets.connected(kinds.TCP4) as sock:
            assert isinstance(get_option(sock, "congestion_info"), bytes)
            assert get_option(sock, "is_mptcp") is False
            assert get_option(sock, "incoming_napi_id") >= 0
            assert get_option(sock, "incoming_cpu") >= 0

    @pytest.mark.parametrize("kind", [kinds.LOCAL_STREAM, kinds.LOCAL_SEQPACKET])
    def test_peer_credentials(self, kind):
        with sockets.connected(kind) as sock:
            credentials = get_option(sock, "peer_credentials")
            assert credentials[:3] == (os.getpid(), os.geteuid(), os.getegid())
            assert credentials.groups == get_option(sock, "peer_groups")
            assert set(credentials.groups) == set(os.getgroups())
            assert credentials.label is None or credentials.label

    def test_the_label_that_a_security_module_gives(self, monkeypatch):
        """There is none here: its answer is given by hand."""
        one, other = socket.socketpair()
        with one, other:
            labelled = Recording(one)

            def getsockopt(level, number, size=0):
                if number == 31:
                    return b"system_u:object_r:unlabeled_t\0"
                return one.getsockopt(level, number, size)

            labelled.getsockopt = getsockopt
            label = get_option(labelled, "peer_credentials").label
            assert label == "system_u:object_r:unlabeled_t"
            assert get_option(labelled, "peer_security") == label

    def test_no_peer_no_credentials(self):
        with sockets.make(kinds.LOCAL_STREAM) as sock, pytest.raises(OptionError) as caught:
            get_option(sock, "peer_credentials")
        assert caught.value.errno == errno.ENOTCONN

    @pytest.mark.skipif(not supports("peer_pidfd"), reason="Linux 6.5")
    def test_a_descriptor_of_the_peer(self):
        one, other = socket.socketpair()
        with one, other:
            pidfd = get_option(one, "peer_pidfd")
            try:
                assert not os.get_inheritable(pidfd)
                with open(f"/proc/self/fdinfo/{pidfd}") as info:
                    assert f"Pid:\t{os.getpid()}\n" in info.readlines()
            finally:
                os.close(pidfd)


class TestCodecs:
    def test_a_composed_value_has_no_single_raw_form(self):
        for call in (
            lambda: DeadPeerCodec().pack(DeadPeer(5)),
            lambda: DeadPeerCodec().unpack(1),
            lambda: Codec().check("name", 1),
        ):
            with pytest.raises(NotImplementedError):
                call()

    def test_a_frozen_mapping_looks_like_one(self):
        assert repr(FrozenMapping({1: 2})) == "{1: 2}"
        assert FrozenMapping({1: 2}) == {1: 2}


class TestParsing:
    def test_tcp_info_of_an_older_kernel(self):
        whole = bytes(range(256)) + bytes(24)
        old = parse_tcp_info(whole[:104])
        assert old.total_retrans == int.from_bytes(whole[100:104], sys.byteorder)
        assert old[:32] == parse_tcp_info(whole)[:32]
        assert set(old[32:]) == {None}
        # A field that was cut is not there.
        assert parse_tcp_info(whole[:111]).pacing_rate is None
        assert parse_tcp_info(whole[:112]).pacing_rate is not None

    def test_tcp_info_of_a_newer_kernel(self):
        raw = bytes(range(256)) + bytes(24)
        assert parse_tcp_info(raw + b"more") == parse_tcp_info(raw)
        assert len(TcpInfo._fields) == len(parse_tcp_info(raw))

    def test_an_entry_of_the_error_queue(self):
        offender = bytes(16)
        raw = struct.pack("=IBBBxII", 111, 2, 3, 3, 1500, 0) + offender
        error, rest = parse_extended_error(raw)
        assert error == (111, 2, 3, 3, 1500, 0)
        assert rest == offender

    def test_path_mtu_discovery_has_the_kernels_numbers(self):
        assert [int(member) for member in PathMTUDiscovery] == list(range(6))
