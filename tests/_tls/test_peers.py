"""Outside peers: OpenSSL's own client and server, curl, and Python's blocking ssl."""

from __future__ import annotations

import contextlib
import functools
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trio.testing

from sockscope._core.errors import HandshakeError
from sockscope._tls.stream import TLSStream
from sockscope._tls.upgrade import tls_upgrade
from tests._tls.certificates import NAME, Certificates
from tests._tls.gated import Gated

openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
VERSION_FLAGS = {ssl.TLSVersion.TLSv1_2: "-tls1_2", ssl.TLSVersion.TLSv1_3: "-tls1_3"}


class Files:
    """The certificates as files, which the commands want."""

    def __init__(self, certificates: Certificates, folder: Path) -> None:
        self.authority = str(folder / "authority.pem")
        certificates.authority.cert_pem.write_to_path(self.authority)
        self.of: dict[str, str] = {}
        for name, leaf in (
            ("server", certificates.server),
            ("client", certificates.client),
            ("other", certificates.issue("other.example")),
            ("expired", certificates.expired()),
        ):
            self.of[name] = str(folder / f"{name}.pem")
            leaf.private_key_and_cert_chain_pem.write_to_path(self.of[name])


@pytest.fixture(scope="session")
def files(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(certificates, tmp_path_factory.mktemp("certificates"))


@contextlib.asynccontextmanager
async def listening(
    handler: Callable[[trio.SocketStream], Awaitable[None]],
) -> AsyncGenerator[str, None]:
    """Serve one connection; yields ``host:port``."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

    async def serve() -> None:
        async with listener:
            await handler(await listener.accept())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield f"127.0.0.1:{listener.socket.getsockname()[1]}"


class Command:
    """A command that runs beside the test, with its output read as it comes."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = b""

    async def until(self, words: bytes) -> None:
        """Read on until the command has printed *words*."""
        while words not in self.output:
            data = await self.process.stdout.receive_some()
            assert data, f"no {words!r} in {self.output!r}"
            self.output += data

    async def type(self, text: bytes) -> None:
        await self.process.stdin.send_all(text)

    async def quit(self) -> None:
        await self.type(b"Q\n")
        assert await self.process.wait() == 0


@contextlib.asynccontextmanager
async def command(*arguments: str) -> AsyncGenerator[Command, None]:
    async with trio.open_nursery() as nursery:
        options = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            "check": False,
        }
        process = await nursery.start(functools.partial(trio.run_process, arguments, **options))
        with trio.fail_after(20):
            yield Command(process)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def s_server(*arguments: str) -> AsyncGenerator[tuple[Command, trio.SocketStream], None]:
    """OpenSSL's server, and a connection to it."""
    async with command("openssl", "s_server", "-accept", "127.0.0.1:0", *arguments) as server:
        await server.until(b"ACCEPT 127.0.0.1:")
        while not (rest := server.output.partition(b"ACCEPT ")[2]).endswith(b"\n"):
            server.output += await server.process.stdout.receive_some()
        port = int(rest.split(b":")[1])
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            yield server, stream
        finally:
            await trio.aclose_forcefully(stream)


def s_client(address: str, files: Files, *arguments: str):
    return command(
        "openssl",
        "s_client",
        *("-connect", address, "-CAfile", files.authority, "-servername", NAME),
        *("-verify_return_error", "-verify_hostname", NAME),
        *arguments,
    )


async def echo(tls: TLSStream) -> None:
    async for data in tls:
        await tls.send_all(data)
    await tls.send_eof()
    await tls.aclose()


@openssl
@pytest.mark.parametrize("more", [(), ("-no_ticket",)], ids=["tickets", "no tickets"])
async def test_s_client_is_served(certificates, files, version, more) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        await echo(
            await tls_upgrade(certificates.server_context(version), server_side=True)(stream)
        )

    async with (
        listening(serve) as address,
        s_client(address, files, VERSION_FLAGS[version], *more) as client,
    ):
        await client.until(b"Verify return code: 0 (ok)")
        await client.type(b"hello, world\n")
        await client.until(b"hello, world")
        await client.quit()


@openssl
@pytest.mark.parametrize(
    ("certificate", "alert"),
    [("other", "BAD_CERTIFICATE"), ("expired", "CERTIFICATE_EXPIRED")],
)
async def test_s_client_refuses(certificates, files, version, certificate, alert) -> None:
    leaf = certificates.issue("other.example") if certificate == "other" else certificates.expired()
    context = certificates.server_context(version, certificate=leaf)

    async def serve(stream: trio.SocketStream) -> None:
        with pytest.raises(HandshakeError) as caught:
            await tls_upgrade(context, server_side=True)(stream)
        assert caught.value.reason.endswith("ALERT_" + alert)

    async with (
        listening(serve) as address,
        s_client(address, files, VERSION_FLAGS[version]) as client,
    ):
        assert await client.process.wait() == 1


@openssl
async def test_s_client_hears_that_its_certificate_is_missing(certificates, files, version) -> None:
    context = certificates.server_context(version, wants_client=True)

    async def serve(stream: trio.SocketStream) -> None:
        with pytest.raises(HandshakeError) as caught:
            await tls_upgrade(context, server_side=True)(stream)
        assert caught.value.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"

    async with (
        listening(serve) as address,
        s_client(address, files, VERSION_FLAGS[version]) as client,
    ):
        words = {
            ssl.TLSVersion.TLSv1_2: b"alert handshake failure",
            ssl.TLSVersion.TLSv1_3: b"alert certificate required",
        }
        await client.until(words[version])


@openssl
async def test_s_client_with_a_certificate(certificates, files, version) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        context = certificates.server_context(version, wants_client=True)
        tls = await tls_upgrade(context, server_side=True)(stream)
        assert ("email", "client@example.org") in tls.getpeercert()["subjectAltName"]
        await echo(tls)

    async with (
        listening(serve) as address,
        s_client(address, files, VERSION_FLAGS[version], "-cert", files.of["client"]) as client,
    ):
        await client.type(b"hello\n")
        await client.until(b"hello")
        await client.quit()


@openssl
async def test_s_client_asks_for_new_keys(certificates, files) -> None:
    """A key update is answered while the server only receives, and while it sends."""
    received = trio.Event()

    async def serve(stream: trio.SocketStream) -> None:
        tls = await tls_upgrade(certificates.server_context(), server_side=True)(stream)
        assert await tls.receive_some() == b"after three updates\n"
        received.set()
        await echo(tls)

    async with listening(serve) as address, s_client(address, files, "-tls1_3") as client:
        await client.until(b"Verify return code: 0 (ok)")
        for _ in range(3):
            await client.type(b"K\n")
            await client.until(b"KEYUPDATE")
            client.output = b""
        await client.type(b"after three updates\n")
        await received.wait()
        await client.type(b"still there?\n")
        await client.until(b"still there?\n")
        await client.quit()


@openssl
async def test_s_client_may_not_renegotiate(certificates, files) -> None:
    """OpenSSL 3 refuses it by default, and the connection goes on or ends: never hangs."""

    async def serve(stream: trio.SocketStream) -> None:
        context = certificates.server_context(ssl.TLSVersion.TLSv1_2)
        tls = await tls_upgrade(context, server_side=True)(stream)
        with contextlib.suppress(trio.BrokenResourceError):
            assert await tls.receive_some() == b""
        await tls.aclose()

    async with listening(serve) as address, s_client(address, files, "-tls1_2") as client:
        await client.until(b"Verify return code: 0 (ok)")
        await client.type(b"R\n")
        await client.until(b"no renegotiation")


@openssl
async def test_s_server_is_talked_to(certificates, files, version) -> None:
    async with s_server("-cert", files.of["server"], VERSION_FLAGS[version]) as (server, stream):
        upgrade = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
        tls = await upgrade(stream)
        await tls.send_all(b"hello\n")
        await server.until(b"hello\n")
        await server.type(b"and back\n")
        assert await tls.receive_some() == b"and back\n"
        await tls.send_eof()
        await server.until(b"DONE")


@openssl
@pytest.mark.parametrize(
    ("certificate", "words", "alert"),
    [
        ("other", "Hostname mismatch", b"alert bad certificate"),
        ("expired", "expired", b"alert certificate expired"),
    ],
)
async def test_s_server_is_refused(certificates, files, version, certificate, words, alert) -> None:
    arguments = ("-cert", files.of[certificate], VERSION_FLAGS[version])
    async with s_server(*arguments) as (server, stream):
        upgrade = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
        with pytest.raises(HandshakeError, match=words) as caught:
            await upgrade(stream)
        assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
        assert "127.0.0.1:" in str(caught.value)
        await server.until(alert)


@openssl
async def test_s_server_misses_our_certificate(certificates, files, version) -> None:
    arguments = ("-cert", files.of["server"], "-Verify", "1", "-CAfile", files.authority)
    async with s_server(*arguments, VERSION_FLAGS[version]) as (_, stream):
        upgrade = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
        if version is ssl.TLSVersion.TLSv1_2:
            with pytest.raises(HandshakeError) as caught:
                await upgrade(stream)
            assert caught.value.reason.endswith("ALERT_HANDSHAKE_FAILURE")
        else:
            tls = await upgrade(stream)
            with pytest.raises(trio.BrokenResourceError, match="CERTIFICATE_REQUIRED"):
                await tls.receive_some()


@openssl
async def test_s_server_asks_for_new_keys_in_the_middle_of_a_send(certificates, files) -> None:
    """The answer goes out in order, between the records of a send that is under way."""
    arguments = ("-cert", files.of["server"], "-tls1_3", "-naccept", "1")
    async with s_server(*arguments) as (server, stream):
        tls = await tls_upgrade(certificates.client_context(), server_hostname=NAME)(stream)

        async def send() -> None:
            for _ in range(40):
                await tls.send_all(b"." * 65536)
            await tls.send_all(b"finished")

        async def receive() -> None:
            assert await tls.receive_some() == b"from the server\n"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            nursery.start_soon(receive)
            await server.type(b"K\n")
            await server.until(b"SSL_do_handshake -> 1")
            await server.type(b"from the server\n")
            # Read its output all the while, or it stands still.
            await server.until(b"finished")


@openssl
async def test_s_server_renegotiates(certificates, files) -> None:
    """A server may begin a new handshake under TLS 1.2: in the middle of receiving."""
    arguments = ("-cert", files.of["server"], "-tls1_2")
    async with s_server(*arguments) as (server, stream):
        context = certificates.client_context(ssl.TLSVersion.TLSv1_2)
        tls = await tls_upgrade(context, server_hostname=NAME)(stream)
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await tls.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await server.type(b"r\n")
            await server.until(b"SSL_do_handshake -> ")
            await server.until(b"Read BLOCK")
            await server.type(b"after\n")
        assert received == [b"after\n"]
        await tls.send_all(b"still there\n")
        await server.until(b"still there\n")


@contextlib.asynccontextmanager
async def renegotiating(
    certificates: Certificates, files: Files, *, https_compatible: bool = False
) -> AsyncGenerator[tuple[Command, Gated, TLSStream], None]:
    """A client that has received the request for a new handshake, and could not answer yet.

    A cancelled receive has done nothing: what it owes the server still waits.
    """
    arguments = ("-cert", files.of["server"], "-tls1_2")
    async with s_server(*arguments) as (server, stream):
        gate = Gated(stream)
        upgrade = tls_upgrade(
            certificates.client_context(ssl.TLSVersion.TLSv1_2),
            server_hostname=NAME,
            https_compatible=https_compatible,
        )
        tls = await upgrade(gate)
        await tls.send_all(b"before\n")
        await server.until(b"before\n")
        gate.room = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tls.receive_some)
                await server.type(b"r\n")
                await gate.waiting.wait()
                scope.cancel()
        gate.room.set()
        yield server, gate, tls


@openssl
@pytest.mark.parametrize("kind", [bytes, bytearray])
async def test_a_new_handshake_is_finished_by_one_that_only_sends(
    certificates, files, kind
) -> None:
    async with renegotiating(certificates, files) as (server, _, tls):
        await tls.send_all(kind(b"after\n"))
        await server.until(b"after\n")
        await server.type(b"and back\n")
        assert await tls.receive_some() == b"and back\n"


@openssl
async def test_a_new_handshake_is_finished_by_both_directions(certificates, files) -> None:
    async with renegotiating(certificates, files) as (server, gate, tls):
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await tls.receive_some())

        gate.room = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(tls.send_all, b"after\n")
            await trio.testing.wait_all_tasks_blocked()
            gate.room.set()
            await server.until(b"after\n")
            await server.type(b"and back\n")
        assert received == [b"and back\n"]


@openssl
async def test_a_receiver_waits_for_a_sender_that_finishes_the_handshake(
    certificates, files
) -> None:
    async with renegotiating(certificates, files) as (server, gate, tls):
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await tls.receive_some())

        gate.deaf = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(tls.send_all, b"after\n")
            await gate.receiving.wait()
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            gate.deaf.set()
            await server.until(b"after\n")
            await server.type(b"and back\n")
        assert received == [b"and back\n"]


@openssl
async def test_a_sender_cancelled_in_a_new_handshake(certificates, files) -> None:
    async with renegotiating(certificates, files) as (_, gate, tls):
        gate.deaf = trio.Event()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tls.send_all, b"after\n")
                await gate.receiving.wait()
                scope.cancel()
        for call in (tls.receive_some, tls.send_eof):
            with pytest.raises(trio.BrokenResourceError, match="cancelled half-way"):
                await call()


@openssl
@pytest.mark.parametrize("https_compatible", [False, True])
async def test_the_end_comes_in_a_new_handshake(certificates, files, https_compatible) -> None:
    async with renegotiating(certificates, files, https_compatible=https_compatible) as (
        _,
        gate,
        tls,
    ):
        gate.ended = True
        with pytest.raises(trio.BrokenResourceError, match="closed the connection"):
            await tls.send_all(b"after\n")


@openssl
async def test_rubbish_comes_in_a_new_handshake(certificates, files) -> None:
    async with renegotiating(certificates, files) as (_, gate, tls):
        gate.rubbish = b"\x17\x03\x03\x00\x20" + bytes(32)
        with pytest.raises(trio.BrokenResourceError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
            await tls.send_all(b"after\n")


@openssl
async def test_a_new_handshake_leaves_no_place_for_the_end(certificates, files) -> None:
    async with renegotiating(certificates, files) as (_, _, tls):
        with pytest.raises(trio.BrokenResourceError, match="SHUTDOWN_WHILE_IN_INIT"):
            await tls.send_eof()
    async with renegotiating(certificates, files) as (_, _, tls):
        await tls.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await tls.receive_some()


@openssl
async def test_a_certificate_is_asked_for_after_the_handshake(certificates, files) -> None:
    arguments = ("-cert", files.of["server"], "-tls1_3", "-CAfile", files.authority)
    async with s_server(*arguments, "-verify", "1") as (server, stream):
        context = certificates.client_context(certificate=certificates.client)
        context.post_handshake_auth = True
        tls = await tls_upgrade(context, server_hostname=NAME)(stream)
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await tls.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await server.type(b"c\n")
            await server.until(b"SSL_do_handshake -> 1")
            await server.until(b"verify return:1")
            await server.type(b"thanks\n")
        assert received == [b"thanks\n"]


def curl_command(files: Files, address: str, url: str) -> list[str]:
    always = ("curl", "--silent", "--noproxy", "*", "--cacert", files.authority)
    return [*always, "--connect-to", f"::{address}", url]


@curl
@pytest.mark.parametrize("clean", [True, False], ids=["close_notify", "cut"])
async def test_curl_is_served(certificates, files, version, clean) -> None:
    body = b"x" * 1_000_000

    async def serve(stream: trio.SocketStream) -> None:
        tls = await tls_upgrade(certificates.server_context(version), server_side=True)(stream)
        assert (await tls.receive_some()).startswith(b"GET / HTTP/1.1\r\n")
        size = len(body) if clean else len(body) + 1
        await tls.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        await tls.send_all(body)
        await tls.aclose()

    async with listening(serve) as address:
        url = f"https://{NAME}:{address.partition(':')[2]}/"
        result = await trio.run_process(
            curl_command(files, address, url),
            capture_stdout=True,
            check=False,
        )
    assert result.stdout == body
    # 18: the server said that there would be more.
    assert result.returncode == (0 if clean else 18)


@curl
async def test_curl_refuses_the_certificate(certificates, files, version) -> None:
    async def serve(stream: trio.SocketStream) -> None:
        context = certificates.server_context(version, certificate=certificates.expired())
        with pytest.raises(HandshakeError, match="CERTIFICATE_EXPIRED"):
            await tls_upgrade(context, server_side=True)(stream)

    async with listening(serve) as address:
        result = await trio.run_process(
            curl_command(files, address, f"https://{NAME}/"),
            check=False,
        )
    assert result.returncode == 60


# Python's blocking ssl, in a thread


async def test_a_blocking_client(certificates, version) -> None:
    import socket

    data = bytes(range(256)) * 2048

    async def serve(stream: trio.SocketStream) -> None:
        tls = await tls_upgrade(certificates.server_context(version), server_side=True)(stream)
        received = bytearray()
        async for piece in tls:
            received += piece
        await tls.send_all(received)
        await tls.aclose()

    def talk(address: str) -> bytes:
        host, port = address.split(":")
        context = certificates.client_context(version)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with socket.create_connection((host, int(port)), timeout=10) as plain:
            client = context.wrap_bio(incoming, outgoing, server_hostname=NAME)

            def retry(step, *arguments):
                while True:
                    try:
                        result = step(*arguments)
                    except ssl.SSLWantReadError:
                        plain.sendall(outgoing.read())
                        piece = plain.recv(65536)
                        if not piece:
                            incoming.write_eof()
                        incoming.write(piece)
                    else:
                        plain.sendall(outgoing.read())
                        return result

            retry(client.do_handshake)
            retry(client.write, data)
            with contextlib.suppress(ssl.SSLWantReadError):
                client.unwrap()
            plain.sendall(outgoing.read())
            received = bytearray()
            with contextlib.suppress(ssl.SSLZeroReturnError):
                while True:
                    received += retry(client.read, 65536)
            return bytes(received)

    async with listening(serve) as address:
        assert await trio.to_thread.run_sync(talk, address) == data


async def test_a_blocking_server(certificates, version) -> None:
    import socket

    data = bytes(range(256)) * 2048

    def serve(listener: socket.socket) -> str:
        plain, _ = listener.accept()
        plain.settimeout(10)
        context = certificates.server_context(version)
        with context.wrap_socket(plain, server_side=True, suppress_ragged_eofs=False) as server:
            received = bytearray()
            while len(received) < len(data):
                received += server.recv(65536)
            server.sendall(received)
            end = server.recv(1)
            server.unwrap()
            return f"{end!r}"

    with socket.create_server(("127.0.0.1", 0)) as listener:
        ends: list[str] = []

        async def run_server() -> None:
            ends.append(await trio.to_thread.run_sync(serve, listener))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_server)
            stream = await trio.open_tcp_stream(*listener.getsockname())
            upgrade = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
            tls = await upgrade(stream)
            await tls.send_all(data)
            received = bytearray()
            while len(received) < len(data):
                received += await tls.receive_some()
            assert received == data
            await tls.send_eof()
            assert await tls.receive_some() == b""
            await tls.aclose()
    assert ends == ["b''"]


if sys.platform == "win32":
    pytest.skip("the commands are those of a Unix system", allow_module_level=True)
