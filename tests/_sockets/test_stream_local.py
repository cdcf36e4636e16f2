"""Descriptors and whole sockets over local streams: what arrives, and whose it is."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys

import pytest
import trio
import trio.testing

from sockscope._addresses.values import LocalAddress
from sockscope._core.errors import (
    IncompleteReadError,
    SocketError,
    TruncatedError,
    UnsupportedOptionError,
    WrongSocketError,
)
from sockscope._open.descriptors import socket_from_fd, socket_pair
from sockscope._open.open import make_socket, open_socket
from sockscope._options.values import SocketOptions
from sockscope._sockets import ancillary
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket
from sockscope.testing import cancel_everywhere, open_descriptors, open_loopback_pair

SCM_RIGHTS = socket.SCM_RIGHTS


@pytest.fixture(params=["stream", "seqpacket"])
async def pair(request):
    near, far = socket_pair(request.param)
    async with near, far:
        yield near, far


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    yield reader, writer
    for number in (reader, writer):
        os.close(number)


@pytest.fixture
def counted():
    """The descriptors are the same before and after, by name; they are numbers, not objects."""
    before = sorted(open_descriptors().values())
    yield
    assert sorted(open_descriptors().values()) == before


def close(numbers):
    for number in numbers:
        os.close(number)


class TestDescriptors:
    async def test_arrive_open_and_close_on_exec(self, counted, pair, pipe):
        near, far = pair
        reader, writer = pipe
        assert await near.send_fds(b"take", [writer]) == 4
        data, [received] = await far.receive_fds(100, 1)
        assert data == b"take"
        assert received != writer
        assert not os.get_inheritable(received)
        os.write(received, b"x")
        assert os.read(reader, 5) == b"x"
        close([received])

    async def test_the_senders_stay_open(self, pair, pipe):
        near, far = pair
        await near.send_fds(b"x", pipe)
        _, received = await far.receive_fds(1, 2)
        assert len(received) == 2
        close(received)
        os.fstat(pipe[0])

    async def test_files_and_sockets_are_taken_as_they_are(self, pair, tmp_path):
        near, far = pair
        with (tmp_path / "file").open("wb") as file, socket.socket() as sock:
            await near.send_fds(b"x", [file, sock, near])
        _, received = await far.receive_fds(1, 3)
        assert os.path.samestat(os.fstat(received[0]), os.stat(tmp_path / "file"))
        close(received)

    async def test_no_descriptors_are_just_bytes(self, pair):
        near, far = pair
        await near.send_fds(b"plain", [])
        assert await far.receive_fds(100, 5) == (b"plain", [])

    async def test_as_many_as_one_message_takes(self, counted, pair):
        near, far = pair
        await near.send_fds(b"x", [0] * ancillary.MOST_DESCRIPTORS)
        _, received = await far.receive_fds(1, ancillary.MOST_DESCRIPTORS)
        assert len(received) == ancillary.MOST_DESCRIPTORS
        close(received)

    @pytest.mark.parametrize("welcome", [0, 1, 2, 3])
    @pytest.mark.parametrize("excess", [1, 2, 100])
    async def test_more_than_asked_for_are_all_closed(self, counted, pair, welcome, excess):
        """Also one more than an odd number, for which rounding leaves room."""
        near, far = pair
        await near.send_fds(b"flood", [0] * (welcome + excess))
        with pytest.raises(TruncatedError, match=f"max_fds={welcome}") as caught:
            await far.receive_fds(100, welcome)
        assert caught.value.data == b"flood"
        # The stream goes on.
        await near.send_fds(b"x", [0])
        _, received = await far.receive_fds(1, 1)
        close(received)

    async def test_a_full_table_closes_what_came(self, counted, pair):
        """The kernel passes what it can, and says that it has cut the rest."""
        resource = pytest.importorskip("resource")
        near, far = pair
        await near.send_fds(b"x", [0] * 20)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken = open_descriptors()
        free = [number for number in range(1000) if number not in taken]
        resource.setrlimit(resource.RLIMIT_NOFILE, (free[5], hard))  # room for five
        try:
            with pytest.raises(TruncatedError):
                await far.receive_fds(1, 20)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    async def test_other_control_messages_do_not_push_them_out(self, counted, pair, pipe):
        near, far = pair
        far.set_option("pass_credentials", True)
        if hasattr(socket, "SO_PASSPIDFD") or sys.platform == "linux":
            far.set_option("pass_pidfd", True, missing_ok=True)
        await near.send_fds(b"x", [pipe[0]])
        _, received = await far.receive_fds(1, 1)
        assert len(received) == 1
        close(received)

    async def test_the_kernels_two_messages_are_two_receives(self):
        """Descriptors come with the byte that they were sent with."""
        near, far = socket_pair()
        async with near, far:
            await near.send_all(b"before")
            await near.send_fds(b"with", [0])
            await near.send_all(b"after")
            assert (await far.receive_fds(6, 1))[0] == b"before"
            data, received = await far.receive_fds(100, 1)
            assert (data, len(received)) == (b"with", 1)
            close(received)
            assert await far.receive_some() == b"after"

    async def test_what_was_received_ahead_comes_first(self):
        near, far = socket_pair()
        async with near, far:
            await near.send_all(b"abc")
            assert await far.receive(3, wait_all=True, peek=True) == b"abc"
            assert await far.receive_fds(2, 1) == (b"ab", [])
            assert await far.receive_fds(2, 1) == (b"c", [])

    async def test_the_end(self, pair):
        near, far = pair
        await near.aclose()
        assert await far.receive_fds(10, 1) == (b"", [])

    async def test_after_an_error_the_error_and_no_false_end(self):
        near, far = socket_pair()
        async with near, far:
            await far.send_all(b"unread")
            await near.aclose()  # a reset: it had not read
            with pytest.raises(trio.BrokenResourceError):
                await far.send_all(b"x")
            for _ in range(2):
                with pytest.raises(trio.BrokenResourceError):
                    await far.receive_fds(1, 1)

    async def test_figures(self, pair):
        near, far = pair
        await near.send_fds(b"four", [])
        await far.receive_fds(10, 0)
        assert near.statistics().bytes_sent == far.statistics().bytes_received == 4

    @pytest.mark.parametrize(
        ("data", "fds", "error", "words"),
        [
            (b"", [0], ValueError, "need a byte"),
            (b"x", [0] * 254, ValueError, "at most 253"),
            (b"x", ["0"], TypeError, "a descriptor is a number"),
            (b"x", [True], TypeError, "a descriptor is a number"),
            (b"x", [-1], ValueError, "closed"),
            (b"x", [0, 2**40], ValueError, f"no descriptor has the number {2**40}"),
            (b"x", [999999], SocketError, "Bad file descriptor"),
        ],
    )
    async def test_bad_things_to_send(self, pair, data, fds, error, words):
        near, far = pair
        with pytest.raises(error, match=words):
            await near.send_fds(data, fds)
        # Nothing is wrong with the stream.
        await near.send_all(b"fine")
        assert await far.receive_some() == b"fine"

    async def test_a_peer_that_takes_none(self, pair):
        near, far = pair
        if not far.set_option("pass_rights", False, missing_ok=True):
            pytest.skip("needs SO_PASSRIGHTS (Linux 6.16)")
        with pytest.raises(PermissionError):
            await near.send_fds(b"x", [0])
        await near.send_all(b"fine")

    @pytest.mark.parametrize(
        ("arguments", "error"),
        [
            ((0, 1), ValueError),
            ((1, -1), ValueError),
            ((1, 254), ValueError),
            ((1.0, 1), TypeError),
            ((1, True), TypeError),
        ],
    )
    async def test_bad_room(self, pair, arguments, error):
        with pytest.raises(error, match=r"max_(bytes|fds) must be"):
            await pair[0].receive_fds(*arguments)

    async def test_only_local_sockets_can(self):
        async with (
            open_socket(connect="passive", local=("127.0.0.1", 0)) as passive,
            open_socket(passive.address) as stream,
        ):
            for call in (
                stream.send_fds(b"x", [0]),
                stream.receive_fds(1, 1),
                stream.send_socket(passive),
                stream.receive_socket(),
            ):
                with pytest.raises(SocketError, match="only local sockets") as caught:
                    await call
                assert caught.value.errno == errno.EOPNOTSUPP
            with pytest.raises(UnsupportedOptionError):
                stream.peer_credentials()

    async def test_checkpoints(self, pair):
        near, far = pair
        with trio.testing.assert_checkpoints():
            await near.send_fds(b"x", [0])
        with trio.testing.assert_checkpoints():
            _, received = await far.receive_fds(1, 1)
        close(received)

    async def test_a_closed_stream(self, pair):
        await pair[0].aclose()
        with pytest.raises(trio.ClosedResourceError):
            await pair[0].send_fds(b"x", [0])
        with pytest.raises(trio.ClosedResourceError):
            await pair[0].receive_fds(1, 1)

    async def test_a_second_task_is_refused(self, pair):
        near, _ = pair
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.receive_fds, 1, 1)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError):
                await near.receive_fds(1, 1)
            nursery.cancel_scope.cancel()

    async def test_cancelled_anywhere_nothing_is_lost_or_left(self):
        async def pass_one():
            near, far = socket_pair()
            async with near, far, trio.open_nursery() as nursery:
                nursery.start_soon(near.send_fds, b"x", [0])
                _, received = await far.receive_fds(1, 1)
                close(received)

        await cancel_everywhere(pass_one)

    def test_without_close_on_exec_in_the_call_it_is_set_after(self, monkeypatch):
        monkeypatch.setattr(ancillary, "CLOSE_ON_EXEC", 0)
        number = os.dup(0)
        os.set_inheritable(number, True)
        packed = struct.pack("i", number)
        assert ancillary.take_descriptors([(socket.SOL_SOCKET, SCM_RIGHTS, packed)]) == [number]
        assert not os.get_inheritable(number)
        close([number])

    def test_strange_control_messages_are_passed_over(self):
        number = os.dup(0)
        messages = [
            (socket.IPPROTO_IP, SCM_RIGHTS, b"abcd"),
            (socket.SOL_SOCKET, 2, b"abcd"),
            # The sending process; and one cut in the middle.
            (socket.SOL_SOCKET, 4, struct.pack("i", number)),
            (socket.SOL_SOCKET, 4, struct.pack("i", -1)),
            (socket.SOL_SOCKET, SCM_RIGHTS, b"abc"),
        ]
        assert ancillary.take_descriptors(messages) == []
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
        ancillary.close_all([number])  # not open any more: no error


class TestSockets:
    async def test_a_listener_goes_over_and_both_may_close_theirs(self, pair):
        near, far = pair
        async with open_socket(connect="passive", local=("127.0.0.1", 0)) as passive:
            await near.send_socket(passive)
            address = passive.address
        received = await far.receive_socket()
        assert isinstance(received, PassiveSocket)
        async with received, open_socket(address), await received.accept():
            pass

    @pytest.mark.parametrize("kind", ["stream", "datagram"])
    async def test_other_kinds(self, pair, kind):
        near, far = pair
        first, second = socket_pair(kind)
        async with first, second:
            await near.send_socket(first)
            async with await far.receive_socket() as received:
                assert isinstance(received, StreamSocket if kind == "stream" else DatagramSocket)

    async def test_sockets_of_other_libraries(self, pair):
        near, far = pair
        with trio.socket.socket() as sock:
            await near.send_socket(sock)
        async with await far.receive_socket():
            pass

    async def test_options(self, pair):
        near, far = pair
        with socket.socket() as sock:
            await near.send_socket(sock)
        options = SocketOptions(keepalive=True)
        async with await far.receive_socket(options=options) as received:
            assert received.get_option("keepalive") is True

    async def test_the_path_goes_with_it(self, pair, tmp_path):
        near, far = pair
        path = tmp_path / "s"
        passive = await make_socket(connect="passive", local=path)
        await near.send_socket(passive)
        await passive.aclose()
        async with await far.receive_socket() as received:
            async with open_socket(path), await received.accept():
                pass
        assert path.exists()

    async def test_a_detached_one_leaves_its_path(self, tmp_path):
        path = tmp_path / "s"
        passive = await make_socket(connect="passive", local=path)
        async with socket_from_fd(passive.detach()) as again:
            await passive.aclose()
            assert path.exists()
            assert again.address == LocalAddress(os.fsencode(path))

    async def test_the_end(self, pair):
        near, far = pair
        await near.aclose()
        with pytest.raises(IncompleteReadError, match="the stream has ended"):
            await far.receive_socket()

    async def test_bytes_without_one(self, pair):
        near, far = pair
        await near.send_all(b"S")
        with pytest.raises(WrongSocketError, match="bytes came without") as caught:
            await far.receive_socket()
        assert caught.value.errno == errno.EBADMSG

    async def test_a_file_is_closed(self, counted, pair, pipe):
        near, far = pair
        await near.send_fds(b"S", [pipe[0]])
        with pytest.raises(WrongSocketError, match="cannot receive a socket") as caught:
            await far.receive_socket()
        assert caught.value.errno == errno.ENOTSOCK

    async def test_a_socket_that_nobody_knows_is_closed(self, counted, pair):
        if not hasattr(socket, "AF_NETLINK"):
            pytest.skip("a family of Linux")
        near, far = pair
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
            await near.send_socket(sock)
        with pytest.raises(WrongSocketError):
            await far.receive_socket()

    async def test_two_at_once_are_closed(self, counted, pair):
        near, far = pair
        await near.send_fds(b"S", [near, far])
        with pytest.raises(TruncatedError):
            await far.receive_socket()


linux_only = pytest.mark.skipif(sys.platform != "linux", reason="SO_PEERCRED is Linux's")


@linux_only
class TestPeerCredentials:
    async def test_of_this_process(self, pair):
        credentials = pair[0].peer_credentials()
        assert (credentials.pid, credentials.uid, credentials.gid) == (
            os.getpid(),
            os.geteuid(),
            os.getegid(),
        )
        assert set(credentials.groups) == set(os.getgroups())

    @pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
    async def test_of_another_user(self, tmp_path):
        """As the accept side sees them: of the moment of connect."""
        program = (
            "import os, socket, sys\n"
            "os.setgroups([65533]), os.setgid(65534), os.setuid(65534)\n"
            "sock = socket.socket(socket.AF_UNIX)\n"
            "sock.connect(b'\\0' + sys.argv[1].encode())\n"
            "sys.stdin.read()\n"
        )
        name = f"sockscope-{os.getpid()}-credentials"
        async with open_socket(connect="passive", local=LocalAddress.abstract(name)) as passive:
            child = subprocess.Popen(  # noqa: ASYNC220  # it starts at once
                [sys.executable, "-I", "-c", program, name], stdin=subprocess.PIPE
            )
            try:
                async with await passive.accept(timeout=20) as stream:
                    credentials = stream.peer_credentials()
            finally:
                child.communicate(timeout=20)
        assert credentials[:4] == (child.pid, 65534, 65534, (65533,))

    async def test_of_nobody(self):
        async with await make_socket(family="local") as stream:
            with pytest.raises(OSError, match="not connected") as caught:
                stream.peer_credentials()
            assert caught.value.errno == errno.ENOTCONN

    async def test_closed(self, pair):
        await pair[0].aclose()
        with pytest.raises(trio.ClosedResourceError):
            pair[0].peer_credentials()


async def test_a_socket_that_has_received_ahead_is_not_handed_over():
    """What it holds would be lost on the way."""
    async with (
        open_loopback_pair("local") as (near, _),
        open_loopback_pair("local") as (one, other),
    ):
        await other.send_all(b"held")
        assert await one.receive(4, wait_all=True, peek=True) == b"held"
        with pytest.raises(ValueError, match="receive that first"):
            await near.send_socket(one)
        assert await one.receive_some() == b"held"
        await near.send_socket(one)
