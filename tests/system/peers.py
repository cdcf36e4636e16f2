"""Programs of others as peers of ours."""

from __future__ import annotations

import socket
import ssl

import trio
import trustme

from sockscope import open_socket, tls_upgrade
from sockscope.testing import serving
from tests.system.support import Checks, acall, echo, folder, need, program, until

CHECKS = Checks()
REPLY = b"y" * 1_000_000


class Certificates:
    """An authority, the files of a certificate for localhost, and contexts of both sides."""

    def __init__(self, where):
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        self.chain, self.authority = where / "chain.pem", where / "authority.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(self.chain)
        authority.cert_pem.write_to_path(self.authority)
        self.server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.configure_cert(self.server)
        self.client = ssl.create_default_context()
        authority.configure_trust(self.client)


async def reply(stream):
    """Answer a request of which only the beginning is read."""
    await stream.receive_some(1000)
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(REPLY)
    await stream.send_all(head + REPLY)


@CHECKS
async def curl_gets_a_reply_while_it_uploads():
    need("curl")
    async with serving(reply) as server:
        url = f"http://127.0.0.1:{server.port}/"
        for _ in range(5):
            got = await acall("curl", "-sS", "--data-binary", "@-", url, data=b"x" * 300_000)
            assert got == REPLY, f"{len(got)} bytes of {len(REPLY)}"


@CHECKS
async def curl_over_tls():
    need("curl")
    with folder() as where:
        made = Certificates(where)
        async with serving(reply, upgrade=tls_upgrade(made.server)) as server:
            url = f"https://localhost:{server.port}/"
            options = [
                "--cacert",
                made.authority,
                "--resolve",
                f"localhost:{server.port}:127.0.0.1",
            ]
            for _ in range(3):
                assert await acall("curl", "-sS", *options, url) == REPLY
            data = b"x" * 300_000
            assert await acall("curl", "-sS", *options, "-d", "@-", url, data=data) == REPLY


@CHECKS
async def openssl_is_our_client():
    need("openssl")
    with folder() as where:
        made = Certificates(where)
        for version in ("-tls1_2", "-tls1_3"):
            async with serving(echo, upgrade=tls_upgrade(made.server)) as server:
                command = ["openssl", "s_client", "-quiet", "-no_ign_eof", version]
                command += ["-verify_return_error", "-CAfile", made.authority]
                command += ["-connect", f"127.0.0.1:{server.port}", "-servername", "localhost"]
                with program(*command) as client:
                    client.stdin.write("hello\n")
                    client.stdin.flush()
                    line = await trio.to_thread.run_sync(client.stdout.readline)
                    client.stdin.close()
                    await trio.to_thread.run_sync(client.wait, 10)
                assert line == "hello\n", f"{version}: {line!r}"


@CHECKS
async def openssl_is_our_server():
    need("openssl")
    with folder() as where, socket.socket() as reserved:
        made = Certificates(where)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        reserved.close()
        command = ["openssl", "s_server", "-quiet", "-rev", "-cert", made.chain, "-accept", port]
        upgrade = tls_upgrade(made.client, server_hostname="localhost")
        with program(*command):
            for _ in range(100):
                try:
                    async with open_socket(("127.0.0.1", port), upgrade=upgrade) as stream:
                        await stream.send_all(b"abc\n")
                        assert await stream.receive_some() == b"cba\n"
                        return
                except ConnectionRefusedError:
                    await trio.sleep(0.05)
    raise AssertionError("it never listened")


@CHECKS
async def socat_half_closes():
    need("socat")
    with folder() as where:
        data = bytes(range(256)) * 1000
        async with serving(echo, [("127.0.0.1", 0), where / "socket"]) as server:
            for target in (f"TCP:127.0.0.1:{server.port}", f"UNIX-CONNECT:{where}/socket"):
                assert await acall("socat", "-t10", "-", target, data=data) == data, target


@CHECKS
async def nc_half_closes():
    need("nc")
    async with serving(echo) as server:
        assert await acall("nc", "-N", "127.0.0.1", server.port, data=b"x" * 1000) == b"x" * 1000


HAPROXY = """
defaults
  mode tcp
  timeout connect 2s
  timeout client 10s
  timeout server 10s
  retries 3
  option redispatch 1
frontend front
  bind unix@{where}/front
  default_backend back
backend back
  balance roundrobin
  server one 127.0.0.1:{one} check inter 50ms fall 1 rise 1
  server two 127.0.0.1:{two} check inter 50ms fall 1 rise 1
"""


@CHECKS
async def haproxy_loses_nothing_when_a_server_drains():
    need("haproxy")
    asked = 0

    async def ask(where):
        nonlocal asked
        async with open_socket(where / "front", timeout=5) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x", "cut"
            asked += 1

    with folder() as where:
        async with serving(echo) as one, serving(echo) as two:
            text = HAPROXY.format(where=where, one=one.port, two=two.port)
            (where / "haproxy.cfg").write_text(text)
            with program("haproxy", "-db", "-f", where / "haproxy.cfg"):
                await until((where / "front").exists, "haproxy listens")
                for _ in range(100):
                    await ask(where)
                assert one.statistics().accepted > 20
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(one.drain, 5)
                    for _ in range(200):
                        await ask(where)
        assert asked == 300
