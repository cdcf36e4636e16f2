"""`tls_upgrade`: sides, names, contexts, and failures that say why."""

from __future__ import annotations

import errno
import ipaddress
import logging
import ssl

import pytest
import trio
import trio.testing
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from sockscope._core.errors import HandshakeError
from sockscope._tls.client_hello import ClientHello
from sockscope._tls.faults import ALERT_SECONDS
from sockscope._tls.stream import TLSStream
from sockscope._tls.upgrade import tls_upgrade
from sockscope.buffered import BufferedStream
from tests._tls.certificates import NAME
from tests._tls.pairs import Streams, socket_pair


class Told:
    """A stream that tells of itself what ours tell."""

    def __init__(self, below: trio.abc.Stream, **told: object) -> None:
        self.below = below
        self.__dict__.update(told)

    def __getattr__(self, name: str) -> object:
        if name == "transport_stream":
            raise AttributeError(name)
        return getattr(self.below, name)


class Address:
    """As much of an address as is looked at."""

    def __init__(self, host: str) -> None:
        self.host = ipaddress.ip_address(host)

    def __str__(self) -> str:
        return f"{self.host}:443"


async def upgraded(client, server, streams: Streams) -> tuple[TLSStream, TLSStream]:
    """Both ends, each by its upgrade."""
    done: list[TLSStream] = []

    async def serve() -> None:
        done.append(await server(streams[1]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        done.insert(0, await client(streams[0]))
    return done[0], done[1]


async def failures(client, server, streams: Streams) -> tuple[Exception | None, Exception | None]:
    """What both ends raise; each reads one byte, for under TLS 1.3 a client hears late."""
    caught: list[Exception | None] = [None, None]

    async def run(end: int, upgrade) -> None:
        try:
            with trio.fail_after(5):
                tls = await upgrade(streams[end])
                await tls.receive_some()
        except Exception as exc:
            caught[end] = exc
            await streams[end].aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, 0, client)
        nursery.start_soon(run, 1, server)
    return caught[0], caught[1]


async def close(*streams: trio.abc.AsyncResource) -> None:
    for stream in streams:
        await trio.aclose_forcefully(stream)


# Sides and names


async def test_the_sides_are_the_streams_own(certificates, version) -> None:
    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(certificates.client_context(version)),
        tls_upgrade(certificates.server_context(version)),
        (Told(left, accepted=False, remote_name=NAME), Told(right, accepted=True)),
    )
    assert (client.server_side, server.server_side) == (False, True)
    assert (client.accepted, server.accepted) == (False, True)
    assert client.server_hostname == NAME
    assert client.version() == version.name.replace("_", ".")
    await close(client, server)


@pytest.mark.parametrize("name", [None, "other.example"])
async def test_an_argument_wins_over_the_stream(certificates, name) -> None:
    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(certificates.client_context(), server_hostname=NAME, server_side=False),
        tls_upgrade(certificates.server_context(), server_side=True),
        (Told(left, accepted=True, remote_name=name), Told(right, accepted=False)),
    )
    assert client.server_hostname == NAME
    await close(client, server)


async def test_a_literal_address_that_was_opened_is_checked(certificates) -> None:
    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(certificates.client_context()),
        tls_upgrade(certificates.server_context(), server_side=True),
        (Told(left, remote_name=None, remote_address=Address("127.0.0.1")), right),
    )
    assert client.server_hostname == "127.0.0.1"
    await close(client, server)


async def test_names_and_sides_are_found_below_a_buffered_stream(certificates) -> None:
    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(certificates.client_context()),
        tls_upgrade(certificates.server_context()),
        (BufferedStream(Told(left, remote_name=NAME)), BufferedStream(Told(right, accepted=True))),
    )
    assert server.server_side
    assert client.server_hostname == NAME
    await close(client, server)


async def test_a_name_that_is_not_ascii_is_the_one_that_was_looked_up(certificates) -> None:
    """By IDNA 2008 ß stays; by the standard library's IDNA 2003 it would be ss."""
    leaf = certificates.issue("xn--strae-oqa.example")
    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(certificates.client_context(), server_hostname="straße.example"),
        tls_upgrade(certificates.server_context(certificate=leaf), server_side=True),
        (left, right),
    )
    assert client.server_hostname == "xn--strae-oqa.example"
    await close(client, server)


async def test_a_client_without_a_name(certificates) -> None:
    left, right = socket_pair()
    with pytest.raises(ValueError, match="server_hostname"):
        await tls_upgrade(certificates.client_context())(left)
    with pytest.raises(trio.ClosedResourceError):
        await left.send_all(b"x")
    await right.aclose()


async def test_a_client_that_checks_no_names_needs_none(certificates) -> None:
    context = certificates.client_context()
    context.check_hostname = False
    client, server = await upgraded(
        tls_upgrade(context),
        tls_upgrade(certificates.server_context(), server_side=True),
        socket_pair(),
    )
    assert client.server_hostname is None
    await close(client, server)


def test_a_context_is_a_context() -> None:
    with pytest.raises(TypeError, match="context"):
        tls_upgrade("context")


async def test_an_upgrade_is_a_checkpoint(certificates) -> None:
    left, right = socket_pair()

    async def serve() -> None:
        await tls_upgrade(certificates.server_context(), server_side=True)(right)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with assert_checkpoints():
            await tls_upgrade(certificates.client_context(), server_hostname=NAME)(left)
    await close(left, right)


# Failures


async def test_the_client_refuses_the_server(certificates, version) -> None:
    """A wrong name, an expired certificate, an unknown authority: both sides say so."""
    import trustme

    stranger = trustme.CA(key_type=trustme.KeyType.ECDSA).issue_cert(NAME)
    for certificate, words, alert in (
        (certificates.issue("other.example"), "Hostname mismatch", "BAD_CERTIFICATE"),
        (certificates.expired(), "expired", "CERTIFICATE_EXPIRED"),
        (stranger, "unable to get local issuer", "UNKNOWN_CA"),
    ):
        client, server = await failures(
            tls_upgrade(certificates.client_context(version), server_hostname=NAME),
            tls_upgrade(
                certificates.server_context(version, certificate=certificate), server_side=True
            ),
            socket_pair(),
        )
        assert isinstance(client, HandshakeError)
        assert client.reason == "CERTIFICATE_VERIFY_FAILED"
        assert client.errno == errno.EPROTO
        assert words in str(client)
        assert NAME in str(client)
        assert isinstance(client.__cause__, ssl.SSLCertVerificationError)
        assert isinstance(server, HandshakeError)
        assert server.reason.endswith("ALERT_" + alert)


async def test_the_server_misses_the_client_s_certificate(certificates, version) -> None:
    client, server = await failures(
        tls_upgrade(certificates.client_context(version), server_hostname=NAME),
        tls_upgrade(certificates.server_context(version, wants_client=True), server_side=True),
        socket_pair(),
    )
    assert isinstance(server, HandshakeError)
    assert server.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    if version is ssl.TLSVersion.TLSv1_2:
        assert isinstance(client, HandshakeError)
        assert client.reason.endswith("ALERT_HANDSHAKE_FAILURE")
    else:
        # Its handshake had succeeded: the refusal comes with the first receive.
        assert isinstance(client, trio.BrokenResourceError)
        assert "CERTIFICATE_REQUIRED" in str(client)


async def test_mutual_tls(certificates, version) -> None:
    client, server = await upgraded(
        tls_upgrade(
            certificates.client_context(version, certificate=certificates.client),
            server_hostname=NAME,
        ),
        tls_upgrade(certificates.server_context(version, wants_client=True), server_side=True),
        socket_pair(),
    )
    assert ("email", "client@example.org") in server.getpeercert()["subjectAltName"]
    await close(client, server)


async def test_no_version_in_common(certificates) -> None:
    client, server = await failures(
        tls_upgrade(certificates.client_context(ssl.TLSVersion.TLSv1_2), server_hostname=NAME),
        tls_upgrade(certificates.server_context(ssl.TLSVersion.TLSv1_3), server_side=True),
        socket_pair(),
    )
    assert isinstance(client, HandshakeError)
    assert "PROTOCOL_VERSION" in client.reason
    assert isinstance(server, HandshakeError)
    assert server.reason == "UNSUPPORTED_PROTOCOL"


@pytest.mark.parametrize(
    ("garbage", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "HTTP_REQUEST"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "WRONG_VERSION_NUMBER"),
        (bytes(100), "WRONG_VERSION_NUMBER"),
        (b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(20_000), "EXCESSIVE_MESSAGE_SIZE"),
    ],
    ids=["http", "ssh", "zeros", "16 MB"],
)
@pytest.mark.parametrize("chooses", [False, True], ids=["context", "callable"])
async def test_garbage_at_the_port(certificates, caplog, garbage, reason, chooses) -> None:
    context = certificates.server_context()
    left, right = socket_pair()

    async def send() -> None:
        try:
            await left.send_all(garbage)
            await left.send_eof()
        except trio.BrokenResourceError:
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        upgrade = tls_upgrade((lambda _: context) if chooses else context, server_side=True)
        with pytest.raises(HandshakeError) as caught:
            await upgrade(right)
    assert caught.value.reason == reason
    assert not caplog.records
    with pytest.raises(trio.ClosedResourceError):
        await right.receive_some()
    await left.aclose()


@pytest.mark.parametrize("chooses", [False, True], ids=["context", "callable"])
async def test_a_peer_that_goes_in_the_handshake(certificates, chooses) -> None:
    context = certificates.server_context()
    left, right = socket_pair()
    await left.send_eof()
    upgrade = tls_upgrade((lambda _: context) if chooses else context, server_side=True)
    with pytest.raises(HandshakeError, match="closed the connection") as caught:
        await upgrade(right)
    assert caught.value.reason == "UNEXPECTED_EOF_WHILE_READING"
    await left.aclose()


async def test_the_stream_s_own_error_comes_out_as_it_is(certificates) -> None:
    left, right = socket_pair()
    await left.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await tls_upgrade(certificates.client_context(), server_hostname=NAME)(right)
    with pytest.raises(trio.ClosedResourceError):
        await right.send_all(b"x")


@pytest.mark.parametrize("chooses", [False, True], ids=["context", "callable"])
async def test_a_stalled_hello_is_cancelled_and_closed(certificates, chooses) -> None:
    context = certificates.server_context()
    left, right = socket_pair()
    await left.send_all(b"\x16\x03\x01\x02\x00\x01")
    upgrade = tls_upgrade((lambda _: context) if chooses else context, server_side=True)
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(upgrade, right)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    with pytest.raises(trio.ClosedResourceError):
        await right.receive_some()
    assert await left.receive_some() == b""
    await left.aclose()


async def test_an_alert_nobody_reads_holds_nothing_up(certificates, autojump_clock) -> None:
    left, right = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(left.send_all, b"\x16\x03\x01\x00\x04\x01\x00\x00\x00")
        before = trio.current_time()
        with pytest.raises(HandshakeError):
            await tls_upgrade(certificates.server_context(), server_side=True)(right)
        assert trio.current_time() - before == ALERT_SECONDS


# Contexts by name


async def test_a_context_is_chosen_by_name(certificates, version) -> None:
    hellos: list[ClientHello] = []
    contexts = {
        name: certificates.server_context(version, certificate=certificates.issue(name))
        for name in ("one.example", "two.example")
    }

    def choose(hello: ClientHello) -> ssl.SSLContext:
        hellos.append(hello)
        return contexts[hello.server_name]

    upgrade = tls_upgrade(choose)
    for name in contexts:
        left, right = socket_pair()
        client, server = await upgraded(
            tls_upgrade(certificates.client_context(version), server_hostname=name),
            upgrade,
            (left, Told(right, accepted=True, remote_address="somewhere")),
        )
        assert server.context is contexts[name]
        assert hellos[-1] == ClientHello(name, "somewhere")
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        await close(client, server)


async def test_all_of_the_chosen_context_counts(certificates, version) -> None:
    """Client verification, versions and ALPN are the chosen one's, not only its certificate."""
    context = certificates.server_context(version, wants_client=True)
    context.set_alpn_protocols(["proto"])
    upgrade = tls_upgrade(lambda _: context, server_side=True)
    plain = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
    _, failure = await failures(plain, upgrade, socket_pair())
    assert isinstance(failure, HandshakeError)
    assert failure.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    client_context = certificates.client_context(version, certificate=certificates.client)
    client_context.set_alpn_protocols(["other", "proto"])
    client, server = await upgraded(
        tls_upgrade(client_context, server_hostname=NAME), upgrade, socket_pair()
    )
    assert server.selected_alpn_protocol() == "proto"
    assert server.getpeercert()
    await close(client, server)


async def test_a_client_that_names_no_server(certificates) -> None:
    context = certificates.client_context()
    context.check_hostname = False
    seen: list[str | None] = []

    def choose(hello: ClientHello) -> ssl.SSLContext:
        seen.append(hello.server_name)
        return certificates.server_context()

    client, server = await upgraded(
        tls_upgrade(context), tls_upgrade(choose, server_side=True), socket_pair()
    )
    assert seen == [None]
    await close(client, server)


async def test_a_hello_in_single_bytes(certificates) -> None:
    left, right = trio.testing.memory_stream_pair()
    trickling, away = trio.testing.memory_stream_pair()
    context = certificates.server_context()

    async def trickle() -> None:
        async for data in right:
            for value in data:
                await away.send_all(bytes([value]))
                await wait_all_tasks_blocked()
        await away.aclose()

    class Spliced(Told):
        async def receive_some(self, max_bytes=None) -> bytes:
            return await trickling.receive_some(max_bytes)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        client, server = await upgraded(
            tls_upgrade(certificates.client_context(), server_hostname=NAME),
            tls_upgrade(lambda _: context, server_side=True),
            (left, Spliced(right)),
        )
        nursery.cancel_scope.cancel()
    assert client.version() == server.version()


@pytest.mark.parametrize(
    ("choose", "reason", "alert", "logged"),
    [
        (lambda _: None, "UNRECOGNIZED_NAME", "UNRECOGNIZED_NAME", 0),
        (lambda hello: {}[hello.server_name], "CONTEXT_CALLABLE_FAILED", "INTERNAL_ERROR", 1),
        (lambda _: "no context", "CONTEXT_CALLABLE_FAILED", "INTERNAL_ERROR", 1),
    ],
    ids=["none", "raises", "nonsense"],
)
async def test_no_context_for_a_name(
    certificates, version, caplog, choose, reason, alert, logged
) -> None:
    client, server = await failures(
        tls_upgrade(certificates.client_context(version), server_hostname=NAME),
        tls_upgrade(choose, server_side=True),
        socket_pair(),
    )
    assert isinstance(server, HandshakeError)
    assert server.reason == reason
    assert isinstance(server.__cause__, (LookupError, TypeError))
    assert isinstance(client, HandshakeError)
    assert client.reason.endswith(alert)
    records = [record for record in caplog.records if record.name == "sockscope.server"]
    assert len(records) == logged
    assert all(record.levelno == logging.ERROR and record.exc_info for record in records)
    assert all(NAME in record.getMessage() for record in records)


async def test_a_client_s_context_may_be_chosen_too(certificates) -> None:
    hellos: list[ClientHello] = []

    def choose(hello: ClientHello) -> ssl.SSLContext:
        hellos.append(hello)
        return certificates.client_context()

    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(choose),
        tls_upgrade(certificates.server_context(), server_side=True),
        (Told(left, remote_name=NAME), right),
    )
    assert hellos == [ClientHello(NAME)]
    await close(client, server)
    left, right = socket_pair()
    with pytest.raises(LookupError):
        await tls_upgrade(lambda _: None)(left)
    await close(left, right)


# In the middle of a connection


async def test_starttls(certificates, version) -> None:
    left, right = socket_pair()
    buffered = BufferedStream(Told(right, accepted=True))
    server_upgrade = tls_upgrade(certificates.server_context(version))

    async def serve() -> None:
        assert await buffered.receive_until(b"\n", max_size=100) == b"STARTTLS"
        await buffered.transport_stream.send_all(b"OK\n")
        tls = await server_upgrade(buffered)
        await tls.send_all(await tls.receive_some())
        await tls.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        await left.send_all(b"STARTTLS\n")
        assert await left.receive_some() == b"OK\n"
        tls = await tls_upgrade(certificates.client_context(version), server_hostname=NAME)(left)
        await tls.send_all(b"secret")
        assert await tls.receive_some() == b"secret"
        assert await tls.receive_some() == b""
        await tls.aclose()


async def test_bytes_from_before_the_encryption_are_refused(certificates) -> None:
    left, right = socket_pair()
    buffered = BufferedStream(right)
    await left.send_all(b"STARTTLS\nRCPT TO: injected\n")
    await buffered.receive_until(b"\n", max_size=100)
    with pytest.raises(HandshakeError, match="read ahead") as caught:
        await tls_upgrade(certificates.server_context(), server_side=True)(buffered)
    assert caught.value.reason == "DATA_BEFORE_HANDSHAKE"
    with pytest.raises(trio.ClosedResourceError):
        await right.receive_some()
    await left.aclose()


async def test_tls_in_tls(certificates, version) -> None:
    left, right = socket_pair()
    server_upgrade = tls_upgrade(certificates.server_context(version))

    async def serve() -> None:
        outer = await server_upgrade(Told(right, accepted=True))
        inner = await server_upgrade(outer)
        await inner.send_all(await inner.receive_some())
        assert await inner.receive_some() == b""
        await inner.send_eof()

    client_upgrade = tls_upgrade(certificates.client_context(version), server_hostname=NAME)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        outer = await client_upgrade(left)
        inner = await client_upgrade(outer)
        await inner.send_all(b"x" * 10_000)
        assert len(await inner.receive_some()) == 10_000
        await inner.send_eof()
        assert await inner.receive_some() == b""
        await inner.aclose()
    await close(right)


async def test_the_name_of_a_tunnel_is_not_that_of_its_end(certificates) -> None:
    left, right = socket_pair()
    client, server = await upgraded(
        tls_upgrade(certificates.client_context()),
        tls_upgrade(certificates.server_context(), server_side=True),
        (Told(left, remote_name=NAME, remote_address=Address("127.0.0.1")), right),
    )
    with pytest.raises(ValueError, match="server_hostname"):
        await tls_upgrade(certificates.client_context())(client)
    await close(client, server)


async def test_what_the_stream_below_knows_is_told(certificates) -> None:
    left, right = socket_pair()
    told = {
        "remote_name": NAME,
        "local_address": "here",
        "remote_address": "there",
        "get_option": {"nodelay": True}.get,
        "set_option": lambda name, value, missing_ok: (name, value, missing_ok) == ("a", 1, True),
        "statistics": lambda: "figures",
    }
    client, server = await upgraded(
        tls_upgrade(certificates.client_context()),
        tls_upgrade(certificates.server_context(), server_side=True),
        (Told(left, **told), right),
    )
    assert (client.local_address, client.remote_address) == ("here", "there")
    assert client.get_option("nodelay") is True
    assert client.set_option("a", 1, missing_ok=True) is True
    assert client.statistics() == "figures"
    assert client.socket is left.socket
    await close(client, server)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_messages_name_the_peer_s_address(certificates, host) -> None:
    try:
        (listener,) = await trio.open_tcp_listeners(0, host=host)
    except OSError as exc:
        pytest.skip(f"no {host} here: {exc}")
    client = await trio.testing.open_stream_to_socket_listener(listener)
    server = await listener.accept()
    await client.send_all(b"GET / HTTP/1.1\r\n\r\n")
    port = client.socket.getsockname()[1]
    with pytest.raises(HandshakeError) as caught:
        await tls_upgrade(certificates.server_context(), server_side=True)(server)
    assert (f"[{host}]:{port}" if ":" in host else f"{host}:{port}") in str(caught.value)
    await close(client, server, listener)


async def test_messages_without_an_address(certificates) -> None:
    for left, right in (socket_pair(), trio.testing.memory_stream_pair()):
        await left.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with pytest.raises(HandshakeError, match="the peer"):
            await tls_upgrade(certificates.server_context(), server_side=True)(right)
        await close(left, right)


@pytest.mark.parametrize("name", ["server_hostname", "server_side", "https_compatible"])
def test_arguments_of_another_type(certificates, name):
    with pytest.raises(TypeError, match=name):
        tls_upgrade(
            certificates.client_context(), **{name: "x" if name != "server_hostname" else 1}
        )
