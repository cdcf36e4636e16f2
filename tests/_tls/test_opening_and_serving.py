"""TLS as the ``upgrade`` of `open_socket` and `serve_passive`."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import sys
import tempfile

import pytest
import trio
import trio.testing

from sockscope._core.errors import HandshakeError, HandshakeTimeoutError
from sockscope._open.open import make_socket, open_socket
from sockscope._open.upgrade import chain
from sockscope._serve.accept_connection import accept_connection
from sockscope._serve.serve import serve_passive
from sockscope._sockets.stream import StreamSocket
from sockscope._tls.stream import TLSStream
from sockscope._tls.upgrade import tls_upgrade
from sockscope.testing import ScriptedResolver, cancel_everywhere
from tests._tls.certificates import NAME

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

LOOPBACK = ("127.0.0.1", 0)


async def echo(stream: TLSStream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def counted(server, **expected: object) -> object:
    """The server's figures, once they are as *expected*."""
    with trio.fail_after(5):
        while True:
            figures = server.statistics()
            if all(getattr(figures, name) == value for name, value in expected.items()):
                return figures
            await trio.sleep(0.001)


async def test_a_tls_server_and_its_client(certificates, version) -> None:
    upgrade = tls_upgrade(certificates.server_context(version))
    async with serve_passive(LOOPBACK, echo, upgrade=upgrade) as server:
        async with open_socket(
            ("127.0.0.1", server.port), upgrade=tls_upgrade(certificates.client_context(version))
        ) as tls:
            # A literal address was opened: the certificate was checked for it.
            assert tls.server_hostname == "127.0.0.1"
            assert tls.remote_address == server.addresses[0]
            assert tls.get_option("nodelay") is True
            assert tls.set_option("nodelay", False) is True
            assert isinstance(tls.transport_stream, StreamSocket)
            assert tls.local_address == tls.transport_stream.local_address
            await tls.send_all(b"hello")
            assert await tls.receive_some() == b"hello"
            assert tls.statistics().bytes_received > 5
            assert tls.socket.getpeername()[1] == server.port
            await tls.send_eof()
            assert await tls.receive_some() == b""
        await counted(server, finished=1, handler_errors=0)


async def test_the_name_that_was_opened_is_checked(certificates) -> None:
    resolver = ScriptedResolver({NAME: ["127.0.0.1"], "other.example": ["127.0.0.1"]})
    trio.socket.set_custom_hostname_resolver(resolver)
    upgrade = tls_upgrade(certificates.client_context())
    async with serve_passive(
        LOOPBACK, echo, upgrade=tls_upgrade(certificates.server_context())
    ) as server:
        async with open_socket((NAME, server.port), upgrade=upgrade) as tls:
            assert tls.server_hostname == NAME
        with pytest.raises(HandshakeError, match=r"other\.example") as caught:
            async with open_socket(("other.example", server.port), upgrade=upgrade):
                raise AssertionError("never opened")
        assert f"127.0.0.1:{server.port}" in str(caught.value)
        figures = await counted(server, accepted=2, finished=1)
        assert list(figures.upgrade_failures.values()) == [1]
        assert next(iter(figures.upgrade_failures)).endswith("ALERT_BAD_CERTIFICATE")


async def test_a_literal_address_is_told_once(certificates) -> None:
    upgrade = tls_upgrade(certificates.server_context(certificate=certificates.issue("a.example")))
    async with serve_passive(LOOPBACK, echo, upgrade=upgrade) as server:
        with pytest.raises(HandshakeError) as caught:
            async with open_socket(
                server.addresses[0], upgrade=tls_upgrade(certificates.client_context())
            ):
                raise AssertionError("never opened")
        assert f"with server {server.addresses[0]}): " in str(caught.value)


async def test_a_stream_of_one_s_own(certificates) -> None:
    async with serve_passive(
        LOOPBACK, echo, upgrade=tls_upgrade(certificates.server_context())
    ) as server:
        tls = await make_socket(
            server.addresses[0], upgrade=tls_upgrade(certificates.client_context())
        )
        assert type(tls) is TLSStream
        await tls.aclose()
        assert not tls.transport_stream.is_open


async def test_failed_handshakes_are_counted_by_reason(certificates, caplog) -> None:
    upgrade = tls_upgrade(certificates.server_context())
    async with serve_passive(LOOPBACK, echo, upgrade=upgrade, handshake_timeout=0.05) as server:
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"\x16\x03\x01"):
            async with open_socket(server.addresses[0]) as plain:
                await plain.send_all(garbage)
                try:
                    while await plain.receive_some():
                        pass
                except trio.BrokenResourceError:
                    pass
        figures = await counted(server, accepted=3, active=0)
        assert figures.upgrade_failures == {
            "HTTP_REQUEST": 1,
            "WRONG_VERSION_NUMBER": 1,
            "timeout": 1,
        }
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


async def test_a_server_that_says_nothing(certificates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        with pytest.raises(HandshakeTimeoutError):
            async with open_socket(
                listener.getsockname()[:2],
                upgrade=tls_upgrade(certificates.client_context()),
                timeout=0.05,
            ):
                raise AssertionError("never opened")


async def test_a_callable_that_fails_is_one_connection_s(certificates, caplog) -> None:
    contexts = {NAME: certificates.server_context()}

    def choose(hello) -> ssl.SSLContext:
        assert hello.remote_address.host.is_loopback
        return contexts[hello.server_name]

    async with serve_passive(LOOPBACK, echo, upgrade=tls_upgrade(choose)) as server:
        for name, works in (("other.example", False), (NAME, True)):
            upgrade = tls_upgrade(certificates.client_context(), server_hostname=name)
            try:
                async with open_socket(server.addresses[0], upgrade=upgrade) as tls:
                    await tls.send_all(b"x")
                    assert await tls.receive_some() == b"x"
            except HandshakeError as exc:
                assert not works
                assert exc.reason.endswith("INTERNAL_ERROR")  # noqa: PT017  # of two, one fails
        figures = await counted(server, accepted=2, finished=1)
        assert figures.upgrade_failures == {"CONTEXT_CALLABLE_FAILED": 1}
    assert [record.name for record in caplog.records] == ["sockscope.server"]


async def test_accepting_without_a_handler(certificates) -> None:
    async with serve_passive(
        LOOPBACK, upgrade=tls_upgrade(certificates.server_context())
    ) as server:

        async def connect() -> None:
            upgrade = tls_upgrade(certificates.client_context())
            async with open_socket(server.addresses[0], upgrade=upgrade) as tls:
                await tls.send_all(b"hello")
                assert await tls.receive_some() == b""

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            async with accept_connection(server) as tls:
                assert tls.accepted
                assert await tls.receive_some() == b"hello"


async def test_an_upgrade_behind_another(certificates) -> None:
    async def read_preamble(stream: StreamSocket) -> StreamSocket:
        assert await stream.receive_some(4) == b"PRE\n"
        return stream

    async def send_preamble(stream: StreamSocket) -> StreamSocket:
        await stream.send_all(b"PRE\n")
        return stream

    upgrade = chain(read_preamble, tls_upgrade(certificates.server_context()))
    client_upgrade = chain(send_preamble, tls_upgrade(certificates.client_context()))
    async with serve_passive(LOOPBACK, echo, upgrade=upgrade) as server:
        async with open_socket(server.addresses[0], upgrade=client_upgrade) as tls:
            await tls.send_all(b"hello")
            assert await tls.receive_some() == b"hello"


async def test_a_file_and_much_else_through_real_sockets(certificates, version) -> None:
    data = bytes(range(256)) * 8192
    upgrade = tls_upgrade(certificates.server_context(version))

    async def serve(stream: TLSStream) -> None:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            assert await stream.send_file(file) == len(data)

    async with serve_passive(LOOPBACK, serve, upgrade=upgrade) as server:
        client_upgrade = tls_upgrade(certificates.client_context(version))
        async with open_socket(server.addresses[0], upgrade=client_upgrade) as tls:
            received = bytearray()
            async for piece in tls:
                received += piece
            assert received == data


async def test_a_client_cut_off_in_the_middle(certificates, version) -> None:
    """A man in the middle who ends the connection: both sides see the truncation."""
    failures: list[BaseException] = []

    async def serve(stream: TLSStream) -> None:
        await stream.send_all(b"all is well")
        try:
            await stream.receive_some()
        except trio.BrokenResourceError as exc:
            failures.append(exc)

    async def cut(stream: StreamSocket) -> None:
        async with open_socket(server.addresses[0]) as onward:
            async with trio.open_nursery() as nursery:

                async def copy(source: StreamSocket, sink: StreamSocket) -> None:
                    async for data in source:
                        await sink.send_all(data)

                nursery.start_soon(copy, stream, onward)
                nursery.start_soon(copy, onward, stream)
                await enough.wait()
                nursery.cancel_scope.cancel()
            await onward.send_eof()
            await stream.send_eof()

    enough = trio.Event()
    upgrade = tls_upgrade(certificates.server_context(version))
    async with (
        serve_passive(LOOPBACK, serve, upgrade=upgrade) as server,
        serve_passive(LOOPBACK, cut) as middle,
    ):
        client_upgrade = tls_upgrade(certificates.client_context(version))
        async with open_socket(middle.addresses[0], upgrade=client_upgrade) as tls:
            assert await tls.receive_some() == b"all is well"
            enough.set()
            with pytest.raises(trio.BrokenResourceError, match="closed the connection"):
                await tls.receive_some()
    assert len(failures) == 1


async def test_every_step_of_opening_and_serving(certificates, version) -> None:
    context = certificates.server_context(version)
    client_context = certificates.client_context(version)

    async def converse() -> None:
        async with serve_passive(LOOPBACK, echo, upgrade=tls_upgrade(context)) as server:
            upgrade = tls_upgrade(client_context)
            async with open_socket(server.addresses[0], upgrade=upgrade) as tls:
                await tls.send_all(b"hello")
                assert await tls.receive_some() == b"hello"

    await cancel_everywhere(converse)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_what_ends_the_program_passes_through_the_context_callable(certificates, error):
    """OpenSSL swallows what its callbacks raise; Ctrl-C must come out."""

    def choose(hello):
        raise error

    async def connect(server):
        with pytest.raises(trio.BrokenResourceError):
            async with open_socket(
                server.addresses[0],
                upgrade=tls_upgrade(certificates.client_context(), server_hostname=NAME),
            ):
                pass

    async def run():
        async with serve_passive(("127.0.0.1", 0), echo, upgrade=tls_upgrade(choose)) as server:
            await connect(server)
            await trio.sleep_forever()

    with pytest.raises(BaseExceptionGroup) as caught:
        await run()
    assert caught.group_contains(error)


@pytest.mark.parametrize("layers", [1, 2])
async def test_a_client_that_leaves_without_a_word_is_a_reset(certificates, caplog, layers):
    """Any client can do it: no error of the handler's, and no line in the log."""
    outcomes = []
    encrypt = tls_upgrade(certificates.server_context(), server_side=True)
    async with serve_passive(
        ("127.0.0.1", 0),
        echo,
        upgrade=chain(*[encrypt] * layers),
        on_close=lambda stream, outcome: outcomes.append(outcome),
    ) as server:
        for goodbye in (b"", b"garbage that is no record"):
            async with open_socket(server.addresses[0]) as below:
                tls = under = below
                for _ in range(layers):
                    under = tls
                    again = tls_upgrade(
                        certificates.client_context(), server_hostname=NAME, server_side=False
                    )
                    tls = await again(tls)
                await tls.send_all(b"x")
                assert await tls.receive_some() == b"x"
                await under.send_all(goodbye)
    statistics = server.statistics()
    assert (statistics.resets, statistics.handler_errors) == (2, 0)
    assert outcomes == ["reset", "reset"]
    assert [record for record in caplog.records if record.levelno > 20] == []


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that can be waited for")
@pytest.mark.parametrize("end", ["cancel", "close"])
async def test_a_silent_pipe_holds_nothing_up(certificates, end):
    """Neither a cancellation nor a close waits for whoever should write."""
    reader, writer = os.pipe()
    ended = []

    async def send(tls):
        try:
            await tls.send_file(file)
        finally:
            ended.append(trio.lowlevel.current_task().name)

    async def read(tls):
        async for data in tls:
            assert data == b"said"

    with open(reader, "rb", buffering=0) as file:  # noqa: ASYNC230  # a pipe's end
        async with serve_passive(
            LOOPBACK, read, upgrade=tls_upgrade(certificates.server_context())
        ) as server:
            upgrade = tls_upgrade(certificates.client_context())
            async with open_socket(server.addresses[0], upgrade=upgrade) as tls:
                with trio.fail_after(10):
                    async with trio.open_nursery() as nursery:
                        if end == "close":

                            @nursery.start_soon
                            async def told():
                                with pytest.raises(trio.ClosedResourceError):
                                    await send(tls)

                        else:
                            nursery.start_soon(send, tls)
                        os.write(writer, b"said")
                        await trio.testing.wait_all_tasks_blocked(0.01)
                        if end == "close":
                            await tls.aclose()
                        else:
                            nursery.cancel_scope.cancel()
    os.close(writer)
    assert len(ended) == 1
