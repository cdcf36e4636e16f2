"""Local sockets by make_socket and serve_passive, from end to end."""

from __future__ import annotations

import errno
import os
import stat
import sys

import pytest
import trio

from sockscope._addresses.values import LocalAddress
from sockscope._core.errors import (
    ConnectError,
    ConnectTimeoutError,
    DatagramError,
    SocketError,
)
from sockscope._open.descriptors import socket_from_fd
from sockscope._open.open import make_socket, open_socket
from sockscope._serve.serve import serve_passive
from sockscope._sockets.datagram_types import Datagram
from sockscope.testing import cancel_everywhere, open_descriptors

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no local sockets")
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="Linux's alone")
TYPES = ["stream", "seqpacket"] if sys.platform == "linux" else ["stream"]


@pytest.fixture(params=TYPES)
def kind(request):
    return request.param


@pytest.fixture
def path(tmp_path):
    return tmp_path / "socket"


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def check_echo(remote, kind="stream", **arguments):
    async with open_socket(remote, type=kind, **arguments) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"
        return stream.remote_address, stream.local_address


async def test_a_path(kind, path):
    async with open_socket(connect="passive", local=path, type=kind, mode=0o600) as passive:
        assert passive.address == LocalAddress(os.fsencode(path))
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with open_socket(path, type=kind) as client, await passive.accept() as child:
            assert client.remote_address == passive.address
            assert child.remote_address == LocalAddress.unnamed
    assert not path.exists()


@linux_only
async def test_an_abstract_name(kind):
    local = LocalAddress.abstract()
    async with open_socket(connect="passive", local=local, type=kind) as passive:
        assert passive.address.is_abstract
        assert passive.address != local  # the kernel has picked one
        async with open_socket(passive.address, type=kind), await passive.accept():
            pass


@linux_only
@pytest.mark.parametrize("where", ["directory", "name"])
async def test_a_path_of_any_length(kind, tmp_path, where):
    path = tmp_path / ("d" * 200) / "s" if where == "directory" else tmp_path / ("n" * 255)
    path.parent.mkdir(exist_ok=True)
    before = open_descriptors()
    async with open_socket(connect="passive", local=path, type=kind) as passive:
        # The kernel knows it by another name; we do not.
        assert passive.address == LocalAddress(os.fsencode(path))
        async with serve_passive(passive, echo):
            assert (await check_echo(path, kind))[0] == passive.address
            async with await make_socket(family="local", type=kind) as later:
                await later.connect(path)
    assert list(path.parent.iterdir()) == []
    assert open_descriptors() == before


async def test_nothing_at_a_long_path(tmp_path):
    with pytest.raises(ConnectError) as caught:
        await make_socket(tmp_path / ("n" * 200))
    assert caught.value.errno in (errno.ENOENT, errno.ENAMETOOLONG)


@linux_only
class TestLongPaths:
    """The kernel tells peers another name, which must never be taken for the socket's."""

    @pytest.fixture
    def long_path(self, tmp_path):
        (tmp_path / ("d" * 120)).mkdir()
        return tmp_path / ("d" * 120) / "socket"

    async def test_children_have_the_listeners_path(self, kind, long_path):
        expected = LocalAddress(os.fsencode(long_path))
        async with open_socket(connect="passive", local=long_path, type=kind) as passive:
            async with open_socket(long_path, type=kind) as client, await passive.accept() as child:
                assert child.local_address == client.remote_address == expected
            assert child.local_address == expected
            async with open_socket(long_path, type=kind), passive.accept_nowait() as child:
                assert child.local_address == expected

    async def test_served_ones_have_it_too(self, long_path):
        async def tell(stream):
            await stream.send_all(str(stream.local_address).encode())

        async with serve_passive(long_path, tell), open_socket(long_path) as stream:
            assert await stream.receive_some() == str(stream.remote_address).encode()

    async def test_the_peer_of_a_bound_client_sees_no_name(self, kind, path, long_path):
        async with open_socket(connect="passive", local=path, type=kind) as passive:
            async with open_socket(path, local=long_path, type=kind) as client:
                async with await passive.accept() as child:
                    assert child.remote_address == LocalAddress.unnamed
                    assert client.local_address == LocalAddress(os.fsencode(long_path))

    async def test_a_datagram_socket_receives_there_and_answers(self, path, long_path):
        async with (
            open_socket(local=long_path, type="datagram") as server,
            open_socket(long_path, local=path, type="datagram") as client,
        ):
            assert server.local_address == client.remote_address
            assert server.local_address == LocalAddress(os.fsencode(long_path))
            await client.send_to(b"question")
            question = await server.receive_from()
            assert question.address == client.local_address
            await server.reply(question, b"answer")
            assert (await client.receive_from()).data == b"answer"

    async def test_a_datagram_from_there_has_no_sender_to_answer(self, path, long_path):
        async with (
            open_socket(local=path, type="datagram") as server,
            open_socket(path, local=long_path, type="datagram") as client,
        ):
            await client.send_to(b"question")
            question = await server.receive_from()
            assert question.address == LocalAddress.unnamed
            with pytest.raises(DatagramError, match="or with a path longer than"):
                await server.reply(question, b"answer")
            # Who knows the path reaches it.
            await server.send_to(b"answer", client.local_address)
            assert (await client.receive_from()) == Datagram(b"answer", server.local_address)

    async def test_an_adopted_one_has_no_name(self, long_path):
        async with open_socket(connect="passive", local=long_path) as passive:
            async with socket_from_fd(passive.fileno(), dup=True) as twin:
                assert twin.address == LocalAddress.unnamed


class TestActiveSocketsWithAPath:
    async def test_the_peer_sees_it_and_it_goes_when_the_socket_does(self, kind, tmp_path, path):
        own = tmp_path / "own"
        async with open_socket(connect="passive", local=path, type=kind) as passive:
            async with open_socket(path, local=own, type=kind, mode=0o640) as client:
                assert stat.S_IMODE(own.stat().st_mode) == 0o640
                async with await passive.accept() as child:
                    assert child.remote_address == client.local_address
                    assert client.local_address == LocalAddress(os.fsencode(own))
            assert not own.exists()

    async def test_a_stale_one_is_replaced_and_a_live_one_is_not(self, tmp_path, path):
        own = tmp_path / "own"
        async with serve_passive(path, echo):
            os.close((await make_socket(path, local=own)).detach())  # nobody removes it
            async with open_socket(path, local=own):
                with pytest.raises(SocketError, match="a live socket is there") as caught:
                    await make_socket(path, local=own)
                assert caught.value.errno == errno.EADDRINUSE

    async def test_it_goes_when_the_connect_fails(self, tmp_path, path):
        with pytest.raises(FileNotFoundError):
            await make_socket(path, local=tmp_path / "own")
        assert list(tmp_path.iterdir()) == []

    async def test_one_that_connects_later(self, tmp_path, path):
        own = tmp_path / "own"
        async with serve_passive(path, echo), open_socket(local=own) as stream:
            assert own.exists()
            await stream.connect(path)
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert not own.exists()

    async def test_cancelled_anywhere_nothing_is_left(self, tmp_path, path):
        own = tmp_path / "own"

        async def connect():
            async with open_socket(path, local=own):
                pass
            assert not own.exists()

        async with open_socket(connect="passive", local=path):
            await cancel_everywhere(connect)
        assert not own.exists()


class TestServing:
    async def test_permissions_and_removal(self, path):
        async with serve_passive(path, echo, mode=0o606):
            assert stat.S_IMODE(path.stat().st_mode) == 0o606
            await check_echo(path)
        assert not path.exists()

    async def test_what_a_killed_server_leaves_is_replaced(self, path):
        os.close((await make_socket(connect="passive", local=path)).detach())
        assert path.exists()
        with pytest.raises(SocketError, match="replace_stale=False"):
            await make_socket(connect="passive", local=path, replace_stale=False)
        async with serve_passive(path, echo):
            await check_echo(path)

    async def test_a_second_server_is_refused_and_the_first_goes_on(self, path):
        async with serve_passive(path, echo):
            with pytest.raises(SocketError) as caught:
                async with serve_passive(path, echo):
                    pass  # pragma: no cover  # it is not entered
            assert caught.value.identifier == "address-in-use"
            await check_echo(path)

    async def test_when_draining_the_path_goes_first(self, path):
        """Who comes after that is told so; who came before is served."""
        async with serve_passive(path, echo) as server:
            async with open_socket(path) as early:
                server.stop_accepting()
                assert not path.exists()
                await early.send_all(b"x")
                assert await early.receive_some() == b"x"
                with pytest.raises(FileNotFoundError):
                    await make_socket(path)

    async def test_cancelled_anywhere_nothing_is_left(self, path):
        async def serve():
            async with serve_passive(path, echo, mode=0o600):
                await trio.lowlevel.checkpoint()

        await cancel_everywhere(serve)
        assert not path.exists()


class TestAFullQueue:
    async def test_the_connect_waits_for_room(self, path):
        """Never an unconnected stream, which is what poll would make of it."""
        async with open_socket(connect="passive", local=path, backlog=0) as passive:
            async with open_socket(path) as first:
                with pytest.raises(ConnectTimeoutError):
                    await make_socket(path, timeout=0.02)
                async with trio.open_nursery() as nursery:

                    @nursery.start_soon
                    async def second():
                        async with open_socket(path) as stream:
                            await stream.send_all(b"second")

                    async with await passive.accept() as child:
                        await first.send_all(b"first")
                        assert await child.receive_some() == b"first"
                    async with await passive.accept() as child:
                        assert await child.receive_some() == b"second"
