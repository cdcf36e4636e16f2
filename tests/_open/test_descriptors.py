"""socket_from_fd and socket_pair: what becomes of a descriptor, and whose it is when it fails."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import socket
import ssl

import pytest
import trio

from sockscope._addresses.values import LocalAddress
from sockscope._core.errors import OptionError, SocketError, WrongSocketError
from sockscope._open import descriptors
from sockscope._open.descriptors import socket_from_fd, socket_pair
from sockscope._open.open import make_socket, open_socket
from sockscope._options.values import SocketOptions
from sockscope._serve.serve import serve_passive
from sockscope._sockets.datagram import DatagramSocket
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket
from sockscope.testing import open_descriptors


def is_blocking(number):
    return not fcntl.fcntl(number, fcntl.F_GETFL) & os.O_NONBLOCK


@pytest.fixture
def plain():
    """Makes sockets of the standard library; whatever is still open is closed at the end."""
    made = []

    def make(family=socket.AF_INET, kind=socket.SOCK_STREAM, *, bound=False, listening=False):
        sock = socket.socket(family, kind)
        made.append(sock)
        if bound or listening:
            sock.bind(("127.0.0.1", 0))
        if listening:
            sock.listen()
        return sock

    yield make
    for sock in made:
        sock.close()


class TestSocketFromFd:
    @pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
    async def test_a_connected_stream(self, kind):
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        with far:
            async with socket_from_fd(near.detach()) as stream:
                assert isinstance(stream, StreamSocket)
                assert stream.is_connected
                assert stream.remote_address == LocalAddress.unnamed
                assert not is_blocking(stream.fileno())
                assert not os.get_inheritable(stream.fileno())
                await stream.send_all(b"x")
                assert far.recv(5) == b"x"

    async def test_a_listening_socket(self, plain):
        listening = plain(listening=True)
        address = listening.getsockname()
        passive = socket_from_fd(listening.detach())
        assert isinstance(passive, PassiveSocket)
        async with passive, open_socket(address), await passive.accept() as child:
            assert child.accepted

    async def test_a_datagram_socket(self, plain):
        near, far = plain(kind=socket.SOCK_DGRAM, bound=True), plain(kind=socket.SOCK_DGRAM)
        far.connect(near.getsockname())
        far.send(b"hello")
        async with socket_from_fd(near.detach()) as datagram:
            assert isinstance(datagram, DatagramSocket)
            assert (await datagram.receive_from()).data == b"hello"

    async def test_a_connected_datagram_socket_has_its_peer(self, plain):
        far = plain(kind=socket.SOCK_DGRAM, bound=True)
        near = plain(kind=socket.SOCK_DGRAM)
        near.connect(far.getsockname())
        async with socket_from_fd(near) as datagram:
            assert datagram.remote_address.sockaddr == far.getsockname()

    async def test_a_bound_stream_will_listen_if_it_is_to_be_passive(self, plain):
        """As Emacs's :use-external-socket has it: only socket() and bind() were done."""
        async with socket_from_fd(plain(bound=True), connect="passive") as passive:
            async with open_socket(passive.address):
                await (await passive.accept()).aclose()

    async def test_a_fresh_stream_is_to_be_connected(self, plain):
        listening = plain(listening=True)
        async with socket_from_fd(plain(), connect="active") as stream:
            assert stream.remote_address is None
            await stream.connect(listening.getsockname())
            assert stream.remote_address.sockaddr == listening.getsockname()

    async def test_a_socket_object_is_detached(self, plain):
        sock = plain()
        async with socket_from_fd(sock):
            assert sock.fileno() == -1

    async def test_a_trio_socket_is_detached(self):
        sock = trio.socket.socket()
        async with socket_from_fd(sock) as stream:
            assert sock.fileno() == -1
            assert stream.is_open

    async def test_tcp_gets_what_our_own_streams_get(self, plain):
        async with socket_from_fd(plain()) as stream:
            assert stream.get_option("nodelay") is True

    async def test_options_are_set_and_stated_ones_rule(self, plain):
        options = SocketOptions(nodelay=False, keepalive=True, receive_timeout=5.0)
        async with socket_from_fd(plain(), options=options) as stream:
            assert stream.get_option("nodelay") is False
            assert stream.get_option("keepalive") is True
            assert stream.receive_timeout == 5.0

    async def test_children_of_an_adopted_listener_get_what_they_need(self, plain):
        async with socket_from_fd(plain(listening=True)) as passive:
            async with open_socket(passive.address), await passive.accept() as child:
                assert child.get_option("nodelay") is True

    async def test_a_duplicate_leaves_the_callers_own(self, plain):
        sock = plain(listening=True)
        async with socket_from_fd(sock, dup=True) as passive:
            assert passive.fileno() != sock.fileno()
            assert not os.get_inheritable(passive.fileno())
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        # One open file description: this much the caller has to know.
        assert not is_blocking(sock.fileno())

    async def test_a_path_is_not_ours_to_remove(self, tmp_path):
        path = tmp_path / "s"
        sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen()
        async with socket_from_fd(sock) as passive:
            assert passive.address == LocalAddress(os.fsencode(path))
        assert path.exists()

    async def test_works_outside_of_trio(self):
        def make():
            near, far = socket_pair()
            near._close(), far._close()

        await trio.to_thread.run_sync(make)


class TestWrongDescriptors:
    """An error, and the descriptor is the caller's, as it was."""

    def test_closed(self):
        number = os.dup(0)
        os.close(number)
        with pytest.raises(SocketError, match=f"cannot use descriptor {number}") as caught:
            socket_from_fd(number)
        assert caught.value.errno == errno.EBADF

    def test_a_closed_object(self, plain):
        sock = plain()
        sock.close()
        with pytest.raises(SocketError, match="closed") as caught:
            socket_from_fd(sock)
        assert caught.value.errno == errno.EBADF

    @pytest.mark.parametrize("dup", [False, True])
    def test_a_file(self, tmp_path, dup):
        with open(tmp_path / "file", "wb") as file:
            before = open_descriptors()
            with pytest.raises(SocketError, match="cannot use descriptor") as caught:
                socket_from_fd(file.fileno(), dup=dup)
            assert caught.value.errno == errno.ENOTSOCK
            assert open_descriptors() == before

    @pytest.mark.parametrize(
        ("connect", "what", "words"),
        [
            ("active", {"listening": True}, "it listens"),
            ("passive", {}, "not bound to an address"),
            ("passive", {"kind": socket.SOCK_DGRAM}, "takes no connections"),
        ],
    )
    @pytest.mark.parametrize("dup", [False, True])
    def test_another_kind_than_said(self, plain, connect, what, words, dup):
        sock = plain(**what)
        before = open_descriptors()
        with pytest.raises(WrongSocketError, match=words) as caught:
            socket_from_fd(sock, connect=connect, dup=dup)
        assert isinstance(caught.value, ValueError)
        assert sock.fileno() != -1
        assert is_blocking(sock.fileno())
        assert open_descriptors() == before

    def test_a_connected_one_is_not_passive(self):
        near, far = socket.socketpair()
        with near, far, pytest.raises(WrongSocketError, match="it is connected"):
            socket_from_fd(near, connect="passive")

    @pytest.mark.skipif(not hasattr(socket, "AF_NETLINK"), reason="a family of Linux")
    def test_a_family_that_nobody_knows(self):
        with (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock,
            pytest.raises(WrongSocketError, match="neither internet nor local"),
        ):
            socket_from_fd(sock)

    def test_a_type_that_nobody_knows(self, monkeypatch, plain):
        sock = plain()
        monkeypatch.setattr("sockscope._sockets.adopting._SEQPACKET", socket.SOCK_STREAM)
        monkeypatch.setattr("socket.SOCK_STREAM", -1)
        with pytest.raises(WrongSocketError, match="no socket here has its type"):
            socket_from_fd(sock.fileno())

    def test_a_failed_option(self, plain):
        sock = plain()
        with pytest.raises(OptionError):
            socket_from_fd(sock, options=SocketOptions(ipv6_only=True))
        assert sock.fileno() != -1
        assert is_blocking(sock.fileno())

    def test_a_failed_listen(self, plain):
        """Two may be bound to an address, but only one listens."""
        first, second = plain(), plain()
        for sock in (first, second):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        first.listen()
        with pytest.raises(SocketError, match="cannot use descriptor") as caught:
            socket_from_fd(second, connect="passive")
        assert caught.value.errno == errno.EADDRINUSE
        assert second.fileno() != -1

    def test_a_full_table_of_descriptors(self, plain, monkeypatch):
        def full(number):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(socket, "dup", full)
        with pytest.raises(SocketError, match="Too many open files"):
            socket_from_fd(plain(), dup=True)

    def test_a_tls_socket(self):
        near, far = socket.socketpair()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        wrapped = context.wrap_socket(
            near, server_hostname="localhost", do_handshake_on_connect=False
        )
        with far, wrapped, pytest.raises(TypeError, match="would lose its encryption"):
            socket_from_fd(wrapped)

    @pytest.mark.parametrize("fd", ["3", None, True, 1.5])
    def test_no_descriptor_at_all(self, fd):
        with pytest.raises(TypeError, match="fd must be"):
            socket_from_fd(fd)

    def test_a_bad_connect(self, plain):
        with pytest.raises(ValueError, match="connect must be"):
            socket_from_fd(plain(), connect="both")

    async def test_a_custom_factorys_socket(self):
        class Custom(trio.socket.SocketType):
            def __init__(self):
                pass

        with pytest.raises(TypeError, match="custom socket factory"):
            socket_from_fd(Custom())


class TestDesignators:
    async def test_make_socket_takes_a_descriptor(self, plain):
        listening = plain(listening=True)
        local = f"fd:{listening.detach()}"
        async with open_socket(connect="passive", local=local, backlog=7) as passive:
            assert passive.backlog == 7
            number = (await make_socket(passive.address)).detach()
            async with open_socket(f"fd:{number}") as stream:
                assert stream.is_connected

    async def test_serve_passive_takes_a_descriptor(self, plain):
        async def handler(stream):
            await stream.send_all(b"hello")

        listening = plain(listening=True)
        address = listening.getsockname()
        async with serve_passive([f"fd:{listening.detach()}"], handler):
            async with open_socket(address) as stream:
                assert await stream.receive_some() == b"hello"

    async def test_hooks_and_options_apply(self, plain):
        seen = []
        local = f"fd:{plain(listening=True).detach()}"
        async with open_socket(
            connect="passive",
            local=local,
            options=SocketOptions(receive_buffer=5000),
            configure=lambda sock, context: seen.append(context.role),
        ) as passive:
            assert passive.get_option("receive_buffer") >= 5000
        assert seen == ["passive"]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ({"connect": "passive", "type": "seqpacket"}, "no socket of type='seqpacket'"),
            ({"connect": "passive", "options": SocketOptions(ipv6_only=False)}, "ipv6_only"),
        ],
    )
    async def test_after_an_error_the_descriptor_is_still_there(self, plain, arguments, words):
        listening = plain(listening=True)
        with pytest.raises(SocketError, match=words):
            await make_socket(local=f"fd:{listening.fileno()}", **arguments)
        assert listening.getsockname()

    async def test_an_unknown_one(self):
        with pytest.raises(SocketError, match="descriptor 999999"):
            await make_socket("fd:999999")

    async def test_a_seqpacket_listener(self, tmp_path):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(str(tmp_path / "s"))
            listening.listen()
            local = f"fd:{listening.detach()}"
            async with open_socket(connect="passive", local=local, type="seqpacket") as passive:
                async with (
                    open_socket(tmp_path / "s", type="seqpacket") as client,
                    await passive.accept() as child,
                ):
                    await client.send_all(b"one")
                    await client.send_all(b"two")
                    assert await child.receive_some() == b"one"


class TestSocketPair:
    @pytest.mark.parametrize("kind", ["stream", "seqpacket"])
    async def test_streams(self, kind):
        near, far = socket_pair(kind)
        async with near, far:
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"
            assert near.local_address == far.remote_address == LocalAddress.unnamed

    async def test_datagrams(self):
        near, far = socket_pair("datagram")
        async with near, far:
            await near.send_to(b"x")
            assert (await far.receive_from()).data == b"x"

    async def test_options(self):
        for end in socket_pair(options=SocketOptions(receive_timeout=2.0)):
            assert end.receive_timeout == 2.0
            await end.aclose()

    def test_a_bad_type(self):
        with pytest.raises(ValueError, match="type must be one of 'stream', 'datagram'"):
            socket_pair("raw")

    def test_a_failed_option_leaves_no_descriptor(self):
        before = open_descriptors()
        with pytest.raises(OptionError):
            socket_pair(options=SocketOptions(nodelay=True))
        gc.collect()
        assert open_descriptors() == before

    def test_no_descriptors_left(self, monkeypatch):
        def full(*args):
            raise OSError(errno.EMFILE, "Too many open files")

        monkeypatch.setattr(socket, "socketpair", full)
        with pytest.raises(SocketError, match="cannot make a pair of stream") as caught:
            socket_pair()
        assert caught.value.errno == errno.EMFILE


def test_the_copy_is_closed_if_it_is_no_socket_after_all(monkeypatch):
    """The number may have been given to a file between the two calls."""
    before = open_descriptors()
    with pytest.raises(OSError, match="Socket operation on non-socket"):
        descriptors._duplicate(0)
    assert open_descriptors() == before
