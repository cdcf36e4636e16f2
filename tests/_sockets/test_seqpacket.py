"""Messages over local sockets of type "seqpacket": whole, or said to be cut."""

from __future__ import annotations

import errno
import os
import socket

import pytest
import trio
import trio.testing

from sockscope._core.errors import SocketError, TruncatedError
from sockscope._open.descriptors import socket_from_fd, socket_pair
from sockscope._open.open import open_socket
from sockscope._options.values import SocketOptions
from sockscope._serve.serve import serve_passive
from sockscope._sockets import seqpacket
from sockscope._sockets.stream import StreamSocket
from sockscope.testing import open_descriptors

pytestmark = pytest.mark.skipif(
    not hasattr(socket, "SOCK_SEQPACKET") or not hasattr(socket, "AF_UNIX"),
    reason="no local sockets of messages",
)


@pytest.fixture
async def pair():
    near, far = socket_pair("seqpacket")
    async with near, far:
        yield near, far


@pytest.fixture
async def raw():
    """A peer of another make, which may send empty messages, and one of ours."""
    peer, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with peer:
        async with socket_from_fd(ours) as stream:
            yield peer, stream


async def receive_into(stream, size):
    buffer = bytearray(size)
    return bytes(buffer[: await stream.receive_into(buffer)])


RECEIVES = {
    "receive_some": lambda stream: stream.receive_some(),
    "receive_some(n)": lambda stream: stream.receive_some(100),
    "receive": lambda stream: stream.receive(100),
    "receive(wait_all)": lambda stream: stream.receive(100, wait_all=True),
    "receive_into": lambda stream: receive_into(stream, 100),
    "receive(peek)": lambda stream: stream.receive(100, peek=True),
}


@pytest.fixture(params=RECEIVES)
def receive(request):
    return RECEIVES[request.param]


class TestBoundaries:
    async def test_each_receive_is_one_message(self, pair, receive):
        near, far = pair
        await near.send_all(b"first")
        await near.send(b"second")
        assert await receive(far) == b"first"

    async def test_of_any_size_without_a_limit(self, pair):
        near, far = pair
        for size in (1, 70_000, 3):
            await near.send_all(b"x" * size)
        for size in (1, 70_000, 3):
            assert len(await far.receive_some()) == size

    async def test_a_sender_waits_for_room(self, pair):
        near, far = pair
        sent = 200
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send():
                for number in range(sent):
                    await near.send_all(b"%03d" % number * 1000)

            await trio.testing.wait_all_tasks_blocked()
            for number in range(sent):
                assert (await far.receive_some())[:3] == b"%03d" % number

    async def test_too_long_for_the_socket(self, pair):
        near, far = pair
        near.set_option("send_buffer", 5000)
        with pytest.raises(SocketError) as caught:
            await near.send_all(b"x" * 1_000_000)
        assert caught.value.errno == errno.EMSGSIZE
        await near.send_all(b"fine")
        assert await far.receive_some() == b"fine"


class TestCutMessages:
    @pytest.mark.parametrize(
        "receive",
        [
            lambda stream: stream.receive_some(4),
            lambda stream: stream.receive(4),
            lambda stream: stream.receive(4, wait_all=True),
            lambda stream: receive_into(stream, 4),
            lambda stream: stream.receive_fds(4, 1),
        ],
    )
    async def test_are_an_error_with_the_head(self, pair, receive):
        near, far = pair
        await near.send_all(b"longer")
        await near.send_all(b"next")
        with pytest.raises(TruncatedError, match="longer") as caught:
            await receive(far)
        assert caught.value.data == b"long"
        assert caught.value.errno == errno.EMSGSIZE
        assert await far.receive_some() == b"next"

    async def test_peeking_cuts_nothing(self, pair):
        near, far = pair
        await near.send_all(b"longer")
        assert await far.receive(4, peek=True) == b"long"
        assert await far.receive_some() == b"longer"


class TestEmptyMessages:
    @pytest.mark.parametrize(
        "send", [StreamSocket.send_all, StreamSocket.send, lambda s, data: s.send_fds(data, [0])]
    )
    async def test_are_not_sent(self, pair, send):
        with pytest.raises(ValueError, match="data is empty"):
            await send(pair[0], b"")

    async def test_a_peers_are_no_end(self, raw, receive):
        peer, stream = raw
        for message in (b"", b"", b"message"):
            peer.send(message)
        assert await receive(stream) == b"message"

    async def test_nor_when_it_has_closed_meanwhile(self, raw, receive):
        peer, stream = raw
        for message in (b"", b"", b"message", b""):
            peer.send(message)
        peer.close()
        assert await receive(stream) == b"message"
        assert await stream.receive_some() in (b"message", b"")
        assert await stream.receive_some() == b""
        assert await receive(stream) == b""

    async def test_nor_while_nothing_else_is_there(self, raw, receive):
        peer, stream = raw
        peer.send(b"")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def check():
                assert await receive(stream) == b"message"

            await trio.testing.wait_all_tasks_blocked()
            peer.send(b"message")

    async def test_a_flood_of_them_breaks_the_stream(self, raw, monkeypatch):
        monkeypatch.setattr(seqpacket, "_MOST_EMPTY", 3)
        peer, stream = raw
        for _ in range(5):
            peer.send(b"")
        with pytest.raises(trio.BrokenResourceError, match="nothing but empty"):
            await stream.receive_some()


async def test_the_end(pair, receive):
    near, far = pair
    await near.send_all(b"last")
    await near.send_eof()
    assert await far.receive_some() == b"last"
    assert await receive(far) == b""


async def test_after_an_error_no_false_end(pair, receive):
    near, far = pair
    await far.send_all(b"unread")
    await near.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await far.send_all(b"x")
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError):
            await receive(far)


async def test_dont_wait(pair):
    with pytest.raises(trio.WouldBlock):
        await pair[0].receive(5, dont_wait=True)
    with pytest.raises(trio.WouldBlock):
        await pair[0].receive(5, dont_wait=True, wait_all=True)


async def test_files_have_no_messages(pair, tmp_path):
    with pytest.raises(SocketError, match="send its parts as messages") as caught:
        await pair[0].send_file(None)
    assert caught.value.errno == errno.EOPNOTSUPP


async def test_opened_accepted_and_served(tmp_path):
    async def echo(stream):
        async for message in stream:
            await stream.send_all(message)

    path = tmp_path / "s"
    async with open_socket(connect="passive", local=path, type="seqpacket") as passive:
        async with serve_passive(passive, echo):
            async with open_socket(path, type="seqpacket") as client:
                for message in (b"one", b"two"):
                    await client.send_all(message)
                assert [await client.receive_some() for _ in "12"] == [b"one", b"two"]


async def test_an_accepted_child_has_options(tmp_path):
    path = tmp_path / "s"
    async with open_socket(connect="passive", local=path, type="seqpacket") as passive:
        async with open_socket(path, type="seqpacket"):
            options = SocketOptions(receive_timeout=1.0)
            async with await passive.accept(options=options) as child:
                assert child.receive_timeout == 1.0


async def test_checkpoints(pair):
    near, far = pair
    with trio.testing.assert_checkpoints():
        await near.send_all(b"x")
    with trio.testing.assert_checkpoints():
        await far.receive_some()


def send_with_descriptors(peer, data, number=3):
    """A message with descriptors, of which the sender keeps none."""
    ends = os.pipe()
    socket.send_fds(peer, [data], [ends[0]] * number)
    for end in ends:
        os.close(end)


class TestDescriptorsOfAHostilePeer:
    async def test_with_empty_messages_before_the_end(self, raw, receive):
        peer, stream = raw
        before = open_descriptors()
        for _ in range(3):
            peer.send(b"")
            send_with_descriptors(peer, b"data")
            send_with_descriptors(peer, b"")
        peer.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert await receive(stream) == b"data"
            if receive is RECEIVES["receive(peek)"]:
                assert await stream.receive_some() == b"data"
        assert await stream.receive_some() == b""
        assert open_descriptors() == before

    async def test_an_empty_message_is_no_end(self, raw):
        peer, stream = raw
        before = open_descriptors()
        send_with_descriptors(peer, b"")
        send_with_descriptors(peer, b"data", 1)
        data, [descriptor] = await stream.receive_fds(100, 1)
        assert data == b"data"
        os.close(descriptor)
        peer.shutdown(socket.SHUT_WR)
        assert await stream.receive_fds(100, 1) == (b"", [])
        assert open_descriptors() == before

    async def test_nothing_but_empty_ones(self, raw, monkeypatch):
        peer, stream = raw
        monkeypatch.setattr(seqpacket, "_MOST_EMPTY", 5)
        before = open_descriptors()
        for _ in range(5):
            send_with_descriptors(peer, b"")
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_fds(100, 3)
        assert open_descriptors() == before
