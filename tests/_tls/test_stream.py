"""`TLSStream`: what Trio's streams promise, and what this one adds."""

from __future__ import annotations

import io
import os
import ssl
import tempfile

import pytest
import trio
import trio.testing
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

import sockscope._tls.driver
import sockscope._tls.stream
from sockscope._core.errors import HandshakeError
from sockscope._tls.sending import PIECE_SIZE, READ_SIZE
from sockscope._tls.stream import TLSStream
from tests._tls.pairs import over, shaken, socket_pair, tcp_pair, tls_pair

LARGE = bytes(range(256)) * 4096  # 1 MiB: more than all buffers on the way


async def receive_until_it_raises(stream: trio.abc.ReceiveStream) -> None:
    while await stream.receive_some():
        pass


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        data = await stream.receive_some(size - len(received))
        assert data, f"ended after {len(received)} of {size} bytes"
        received += data
    return bytes(received)


@pytest.mark.parametrize(
    "make", [trio.testing.memory_stream_pair, socket_pair], ids=["memory", "socket"]
)
async def test_trio_finds_a_half_closeable_stream(certificates, version, make) -> None:
    async def make_pair():
        return await shaken(over(make(), certificates, version))

    async def make_clogged_pair():
        return await shaken(over(trio.testing.lockstep_stream_pair(), certificates, version))

    await trio.testing.check_half_closeable_stream(make_pair, make_clogged_pair)


async def test_both_directions_full_at_once(certificates, version) -> None:
    async with tls_pair(certificates, version) as pair:
        received: dict[TLSStream, bytes] = {}

        async def receive(stream: TLSStream) -> None:
            received[stream] = await receive_exactly(stream, len(LARGE))

        async with trio.open_nursery() as nursery:
            for stream in pair:
                nursery.start_soon(stream.send_all, LARGE)
                nursery.start_soon(receive, stream)
        assert all(data == LARGE for data in received.values())


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [1, 16384, 16385, PIECE_SIZE, PIECE_SIZE + 1])
async def test_any_size_and_kind_of_bytes(certificates, kind, size) -> None:
    async with tls_pair(certificates) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, kind(LARGE[:size]))
        assert await receive_exactly(server, size) == LARGE[:size]


async def test_a_memoryview_of_wide_items_is_sent_as_its_bytes(certificates) -> None:
    async with tls_pair(certificates) as (client, server):
        await client.send_all(memoryview(LARGE[:4000]).cast("I"))
        assert await receive_exactly(server, 4000) == LARGE[:4000]


async def test_one_receive_gives_at_most_one_record(certificates) -> None:
    async with tls_pair(certificates, make=trio.testing.memory_stream_pair) as (client, server):
        await client.send_all(bytes(40_000))
        sizes = [len(await server.receive_some()) for _ in range(3)]
        assert sizes == [16384, 16384, 40_000 - 2 * 16384]


class CountingStream(trio.abc.Stream):
    """Counts the calls of the stream below, and remembers what passed."""

    def __init__(self, below: trio.abc.Stream) -> None:
        self.below = below
        self.calls: list[str] = []

    async def send_all(self, data) -> None:
        self.calls.append("send_all")
        await self.below.send_all(data)

    async def receive_some(self, max_bytes=None) -> bytes:
        self.calls.append("receive_some")
        return await self.below.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        self.calls.append("wait")
        await self.below.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        self.calls.append("aclose")
        await self.below.aclose()


async def counted_pair(certificates, version=ssl.TLSVersion.TLSv1_3):
    below = trio.testing.memory_stream_pair()
    counted = tuple(CountingStream(end) for end in below)
    pair = await shaken(over(counted, certificates, version))
    await pair[1].send_all(b"x")
    assert await pair[0].receive_some() == b"x"
    for end in counted:
        end.calls.clear()
    return pair, counted


async def test_one_call_below_for_each_call(certificates) -> None:
    (client, server), (below_client, below_server) = await counted_pair(certificates)
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"
    assert below_client.calls == ["send_all"]
    assert below_server.calls == ["receive_some"]


async def test_what_is_decrypted_is_served_without_a_call_below(certificates) -> None:
    (client, server), (_, below_server) = await counted_pair(certificates)
    await client.send_all(b"hello")
    for letter in b"hello":
        with assert_checkpoints():
            assert await server.receive_some(1) == bytes([letter])
    assert below_server.calls == ["receive_some"]


async def test_a_cancelled_receive_of_decrypted_bytes_loses_none(certificates) -> None:
    (client, server), _ = await counted_pair(certificates)
    await client.send_all(b"hello")
    assert await server.receive_some(1) == b"h"
    with trio.CancelScope() as scope:
        scope.cancel()
        await server.receive_some()
    assert scope.cancelled_caught
    assert await server.receive_some() == b"ello"


async def test_session_tickets_wait_for_the_first_data(certificates) -> None:
    below_client, below_server = (CountingStream(s) for s in trio.testing.memory_stream_pair())
    client, server = await shaken(over((below_client, below_server), certificates))
    handshake_sends = below_server.calls.count("send_all")
    await client.send_all(b"x")
    await server.receive_some()
    assert handshake_sends == below_server.calls.count("send_all") == 1
    await server.send_all(b"y")
    assert await client.receive_some() == b"y"
    assert below_server.calls.count("send_all") == 2
    assert client.session.has_ticket


# Ending


async def test_data_that_waits_survives_send_eof(certificates, version) -> None:
    async with tls_pair(certificates, version, trio.testing.memory_stream_pair) as (left, right):
        await right.send_all(bytes(range(100)))
        await right.send_all(b"second record")
        assert await left.receive_some(1) == b"\0"
        await left.send_eof()
        with assert_checkpoints():
            assert await left.receive_some(9) == bytes(range(1, 10))
        assert await left.receive_some() == bytes(range(10, 100))
        assert await left.receive_some() == b"second record"
        await right.send_all(b"third")
        assert await left.receive_some() == b"third"
        await right.send_eof()
        for _ in range(2):
            with assert_checkpoints():
                assert await left.receive_some() == b""
        assert await right.receive_some() == b""


async def test_send_eof_with_half_a_record_received(certificates, version) -> None:
    below_client, below_server = trio.testing.memory_stream_pair()
    client, server = await shaken(over((below_client, below_server), certificates, version))
    await server.send_all(b"x" * 1000)
    held = await below_client.receive_some()
    below_client.receive_stream.put_data(held[:700])
    async with trio.open_nursery() as nursery:
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await client.receive_some())

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await client.send_eof()
        below_client.receive_stream.put_data(held[700:])
    assert received == [b"x" * 1000]
    assert await server.receive_some() == b""


async def test_send_eof_twice_and_sending_after_it(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, _):
        for _ in range(2):
            with assert_checkpoints():
                await client.send_eof()
        with pytest.raises(trio.ClosedResourceError, match="send_eof"):
            await client.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError, match="send_eof"):
            await client.wait_send_all_might_not_block()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_eof()


async def test_an_end_without_close_notify_is_an_error_each_time(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.send_all(b"before")
        await server.transport_stream.aclose()
        assert await client.receive_some() == b"before"
        for _ in range(3):
            with pytest.raises(trio.BrokenResourceError, match="closed the connection") as caught:
                await client.receive_some()
            assert isinstance(caught.value.__cause__, ssl.SSLEOFError)


async def test_openssl_may_not_hide_an_end_without_close_notify(certificates) -> None:
    context = certificates.client_context()
    context.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
    below_client, below_server = socket_pair()
    client = TLSStream(below_client, context, server_hostname="server.example")
    _, server = over((below_client, below_server), certificates)
    await shaken((client, server))
    await below_server.aclose()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()
    await client.aclose()


async def test_https_takes_an_end_without_close_notify(certificates, version) -> None:
    async with tls_pair(certificates, version, https_compatible=True) as (client, server):
        await server.send_all(b"before")
        await server.transport_stream.send_eof()
        assert await client.receive_some() == b"before"
        for _ in range(2):
            with assert_checkpoints():
                assert await client.receive_some() == b""
        await client.send_all(b"after")
        assert await server.receive_some() == b"after"


async def test_https_takes_no_end_below_a_broken_stream_for_one(certificates) -> None:
    class Broken(CountingStream):
        broken = False

        async def send_all(self, data) -> None:
            if self.broken:
                raise trio.BrokenResourceError from ConnectionResetError("reset")
            await super().send_all(data)

    below_client, below_server = trio.testing.memory_stream_pair()
    broken = Broken(below_client)
    client, server = over((broken, below_server), certificates, https_compatible=True)
    await shaken((client, server))
    broken.broken = True
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.send_all(b"x")
        assert isinstance(caught.value.__cause__, ConnectionResetError)
    await server.send_all(b"before")
    await below_server.aclose()
    assert await client.receive_some() == b"before"
    for _ in range(2):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)


async def test_a_reset_comes_after_what_came_before_it_and_stays(certificates, version) -> None:
    below = await tcp_pair()
    client, server = await shaken(over(below, certificates, version))
    await server.send_all(b"before")
    below[1].setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    await below[1].aclose()
    assert await client.receive_some() == b"before"
    for _ in range(3):
        with pytest.raises(trio.BrokenResourceError) as caught:
            await client.receive_some()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    await client.aclose()


async def test_aclose_says_goodbye_and_waits_for_no_answer(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        with assert_checkpoints():
            await client.aclose()
        assert await server.receive_some() == b""
        with assert_checkpoints():
            await client.aclose()


async def test_aclose_before_the_handshake_just_closes(certificates) -> None:
    below_client, below_server = socket_pair()
    client, _ = over((below_client, below_server), certificates)
    with assert_checkpoints():
        await client.aclose()
    assert await below_server.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await client.do_handshake()
    await below_server.aclose()


async def test_aclose_while_another_task_shakes_hands(certificates) -> None:
    below_client, below_server = socket_pair()
    client, _ = over((below_client, below_server), certificates)
    async with trio.open_nursery() as nursery:

        async def shake(expected: type[Exception]) -> None:
            with pytest.raises(expected):
                await client.do_handshake()

        nursery.start_soon(shake, trio.ClosedResourceError)
        await wait_all_tasks_blocked()
        nursery.start_soon(shake, trio.ClosedResourceError)
        await wait_all_tasks_blocked()
        await client.aclose()
    await below_server.aclose()


async def test_aclose_wakes_the_receiver(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await client.aclose()
        assert await server.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()


async def test_aclose_cuts_a_send_that_is_under_way(certificates) -> None:
    async with tls_pair(certificates) as (client, server), trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.send_all(LARGE)

        nursery.start_soon(send)
        await wait_all_tasks_blocked()
        with assert_checkpoints():
            await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await receive_until_it_raises(server)


async def test_a_peer_that_never_reads_does_not_keep_aclose(certificates, autojump_clock) -> None:
    async with tls_pair(certificates, make=trio.testing.lockstep_stream_pair) as (client, _):
        before = trio.current_time()
        await client.aclose()
        assert trio.current_time() - before == sockscope._tls.stream.CLOSE_SECONDS
        with pytest.raises(trio.ClosedResourceError):
            await client.transport_stream.send_all(b"x")


async def test_a_cancelled_aclose_has_closed(certificates) -> None:
    async with tls_pair(certificates, make=trio.testing.lockstep_stream_pair) as (client, _):
        with trio.move_on_after(0) as scope:
            await client.aclose()
        assert scope.cancelled_caught
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        with pytest.raises(trio.ClosedResourceError):
            await client.transport_stream.send_all(b"x")


async def test_goodbye_to_a_peer_that_has_gone(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await trio.aclose_forcefully(server.transport_stream)
        await client.aclose()


async def test_unwrap_gives_the_stream_below_and_what_came_in_the_clear(
    certificates, version
) -> None:
    async with tls_pair(certificates, version) as (client, server):

        async def serve() -> None:
            below, trailing = await server.unwrap()
            assert not trailing
            await below.send_all(b"in the clear")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            below, trailing = await client.unwrap()
        rest = b"in the clear"[len(trailing) :]
        assert trailing + (await receive_exactly(below, len(rest)) if rest else b"") == (
            b"in the clear"
        )
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        await client.aclose()
        await below.send_all(b"still open")
        assert await receive_exactly(server.transport_stream, 10) == b"still open"


async def test_unwrap_after_the_peer_s_send_eof(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.send_eof()
        assert await client.receive_some() == b""
        assert await client.unwrap() == (client.transport_stream, b"")


async def test_unwrap_loses_no_data_silently(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.send_all(b"unread")
        with pytest.raises(trio.BrokenResourceError, match="APPLICATION_DATA_AFTER_CLOSE_NOTIFY"):
            await client.unwrap()
        with pytest.raises(trio.BrokenResourceError):
            await client.send_all(b"x")


async def test_unwrap_loses_no_data_that_send_eof_has_put_aside(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.send_all(b"unread")
        assert await client.receive_some(2) == b"un"
        await client.send_eof()
        await server.send_eof()
        with pytest.raises(trio.BrokenResourceError, match="4 bytes of it have not been received"):
            await client.unwrap()
        assert await client.receive_some() == b"read"
        assert await client.unwrap() == (client.transport_stream, b"")


async def test_unwrap_of_a_truncated_stream(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.transport_stream.send_eof()
        with pytest.raises(trio.BrokenResourceError):
            await client.unwrap()
    async with tls_pair(certificates, version, https_compatible=True) as (client, server):
        await server.transport_stream.send_eof()
        assert (await client.unwrap())[1] == b""
    client, server = over(socket_pair(), certificates, version)
    await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.unwrap()
    await server.transport_stream.aclose()


# Faults


async def test_garbage_breaks_the_stream_and_the_peer_is_told(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
            await client.receive_some()
        with pytest.raises(trio.BrokenResourceError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
            await client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="ALERT_BAD_RECORD_MAC"):
            await server.receive_some()
        await client.aclose()


async def test_an_alert_goes_out_behind_a_send_that_is_under_way(certificates) -> None:
    async with tls_pair(certificates) as (client, server), trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, LARGE[:PIECE_SIZE])
        await wait_all_tasks_blocked()
        await server.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(trio.BrokenResourceError):
            await client.receive_some()
        assert await receive_exactly(server, PIECE_SIZE) == LARGE[:PIECE_SIZE]
        with pytest.raises(trio.BrokenResourceError, match="ALERT_BAD_RECORD_MAC"):
            await server.receive_some()


async def test_a_cancelled_send_breaks_the_stream_for_good(certificates, version) -> None:
    async with tls_pair(certificates, version) as (client, server):
        await server.send_all(b"arrived")
        with trio.move_on_after(0.01) as scope:
            await client.send_all(LARGE)
        assert scope.cancelled_caught
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="cancelled half-way"):
                await client.send_all(b"x")
            with pytest.raises(trio.BrokenResourceError, match="cancelled half-way"):
                await client.receive_some()
            with pytest.raises(trio.BrokenResourceError, match="cancelled half-way"):
                await client.send_eof()
        with assert_checkpoints():
            await client.aclose()
        with pytest.raises(trio.BrokenResourceError):
            await receive_until_it_raises(server)


async def test_a_cancelled_handshake_breaks_the_stream_for_good(certificates, version) -> None:
    below_client, below_server = socket_pair()
    client, _ = over((below_client, below_server), certificates, version)
    with trio.move_on_after(0.01) as scope:
        await client.do_handshake()
    assert scope.cancelled_caught
    for call in (client.do_handshake, client.receive_some, client.send_eof, client.unwrap):
        with pytest.raises(trio.BrokenResourceError, match="cancelled half-way"):
            await call()
    await client.aclose()
    await below_server.aclose()


async def test_two_tasks_in_one_direction(certificates) -> None:
    async with tls_pair(certificates) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_some)
            await wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match="receiving"):
                await client.receive_some()
            with pytest.raises(trio.BusyResourceError):
                await client.unwrap()
            nursery.cancel_scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, LARGE)
            await wait_all_tasks_blocked()
            for call in (
                lambda: client.send_all(b""),
                client.send_eof,
                client.unwrap,
                client.wait_send_all_might_not_block,
                lambda: client.send_file(io.BytesIO()),
            ):
                with pytest.raises(trio.BusyResourceError):
                    await call()
            assert await receive_exactly(server, len(LARGE)) == LARGE


async def test_closed_behind_our_back(certificates) -> None:
    async with tls_pair(certificates) as (client, _):
        await trio.aclose_forcefully(client.transport_stream)
        with pytest.raises(trio.ClosedResourceError):
            await client.receive_some()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_all(b"x")
        await client.aclose()


# The handshake


async def test_hands_are_shaken_when_first_used(certificates, version) -> None:
    client, server = over(socket_pair(), certificates, version)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"x")
        assert await server.receive_some() == b"x"
    with assert_checkpoints():
        await client.do_handshake()
    await client.aclose()
    await server.aclose()


async def test_several_tasks_wait_for_one_handshake(certificates, version) -> None:
    client, server = over(socket_pair(), certificates, version)
    async with trio.open_nursery() as nursery:
        for stream in (client, server):
            nursery.start_soon(stream.do_handshake)
            nursery.start_soon(stream.wait_send_all_might_not_block)
            nursery.start_soon(stream.do_handshake)
    await client.aclose()
    await server.aclose()


async def test_a_failed_handshake_is_told_to_both(certificates, version) -> None:
    below = socket_pair()
    _, server = over(below, certificates, version)
    client = TLSStream(
        below[0], certificates.client_context(version), server_hostname="other.example"
    )

    async def serve() -> None:
        with pytest.raises(trio.BrokenResourceError) as caught:
            await server.receive_some()
        assert "ALERT_BAD_CERTIFICATE" in str(caught.value)
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await client.do_handshake()
            assert isinstance(caught.value.__cause__, HandshakeError)
            assert caught.value.__cause__.reason == "CERTIFICATE_VERIFY_FAILED"
            assert "other.example" in str(caught.value)
        await client.aclose()


# What it tells


async def test_it_tells_what_trio_s_tells(certificates, version) -> None:
    client_context = certificates.client_context(version)
    server_context = certificates.server_context(version)
    for context in (client_context, server_context):
        context.set_alpn_protocols(["h2", "http/1.1"])
    below = socket_pair()
    client = TLSStream(below[0], client_context, server_hostname="server.example")
    server = TLSStream(below[1], server_context, server_side=True)
    for name in (
        "getpeercert",
        "cipher",
        "version",
        "compression",
        "shared_ciphers",
        "selected_alpn_protocol",
        "selected_npn_protocol",
        "get_channel_binding",
        "verify_client_post_handshake",
    ):
        with pytest.raises(trio.NeedHandshakeError, match=name):
            getattr(client, name)()
    with pytest.raises(trio.NeedHandshakeError):
        _ = client.session_reused
    assert client.pending() == 0
    await shaken((client, server))
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "h2"
    assert client.selected_npn_protocol() is None
    assert client.version() == server.version() == version.name.replace("_", ".")
    assert client.cipher() == server.cipher()
    assert client.shared_ciphers() is None
    assert server.shared_ciphers()
    assert client.compression() is None
    assert ("DNS", "server.example") in client.getpeercert()["subjectAltName"]
    assert client.getpeercert(binary_form=True)
    assert server.getpeercert() is None
    if version is ssl.TLSVersion.TLSv1_2:
        assert client.get_channel_binding() == server.get_channel_binding() is not None
    assert (client.server_side, server.server_side) == (False, True)
    assert client.server_hostname == "server.example"
    assert client.context is client_context
    assert client.transport_stream is below[0]
    assert client.session_reused is False
    assert "TLSStream over" in repr(client)
    await client.aclose()
    assert "closed" in repr(client)
    await server.aclose()


async def test_a_session_is_resumed(certificates, version) -> None:
    client_context = certificates.client_context(version)
    server_context = certificates.server_context(version)

    async def connect(session: ssl.SSLSession | None) -> TLSStream:
        below = socket_pair()
        client = TLSStream(below[0], client_context, server_hostname="server.example")
        server = TLSStream(below[1], server_context, server_side=True)
        if session is not None:
            client.session = session
        await shaken((client, server))
        await server.send_all(b"x")
        await client.receive_some()
        for stream in (client, server):
            await stream.aclose()
        return client

    first = await connect(None)
    assert first.session_reused is False
    assert (await connect(first.session)).session_reused is True


async def test_the_context_can_be_exchanged_in_the_sni_callback(certificates, version) -> None:
    """As with trio.SSLStream: a user's own sni_callback gets the SSLObject."""
    other = certificates.server_context(version, certificate=certificates.issue("other.example"))
    outer = certificates.server_context(version)

    def choose(ssl_object, name, _) -> None:
        if name == "other.example":
            ssl_object.context = other

    outer.sni_callback = choose
    below = socket_pair()
    client = TLSStream(
        below[0], certificates.client_context(version), server_hostname="other.example"
    )
    server = TLSStream(below[1], outer, server_side=True)
    await shaken((client, server))
    assert server.context is other
    server.context = outer
    assert server.context is outer
    await client.aclose()
    await server.aclose()


# Files


@pytest.mark.parametrize(
    ("offset", "count", "expected"),
    [
        (0, None, LARGE),
        (5, 10, LARGE[5:15]),
        (5, READ_SIZE + 1, LARGE[5 : READ_SIZE + 6]),
        (len(LARGE) - 3, 10, LARGE[-3:]),
        (len(LARGE) + 1, None, b""),
        (0, 0, b""),
    ],
)
@pytest.mark.parametrize("kind", ["descriptor", "memory"])
async def test_send_file(certificates, kind, offset, count, expected) -> None:
    with tempfile.TemporaryFile() if kind == "descriptor" else io.BytesIO() as file:
        file.write(LARGE)
        file.flush()
        file.seek(7)
        told: list[int] = []
        async with tls_pair(certificates) as (client, server), trio.open_nursery() as nursery:

            async def receive() -> None:
                assert await receive_exactly(server, len(expected)) == expected

            nursery.start_soon(receive)
            with assert_checkpoints():
                sent = await client.send_file(file, offset, count, progress=told.append)
        assert sent == len(expected)
        assert told == sorted(told)
        assert told[-1:] == [sent] * bool(expected)
        if kind == "descriptor":
            assert file.tell() == 7


async def test_send_file_refuses_what_makes_no_sense(certificates) -> None:
    async with tls_pair(certificates) as (client, _):
        with pytest.raises(ValueError, match="offset"):
            await client.send_file(io.BytesIO(), -1)
        with pytest.raises(ValueError, match="count"):
            await client.send_file(io.BytesIO(), 0, -1)
        await client.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await client.send_file(io.BytesIO())


@pytest.mark.skipif(os.name != "posix", reason="needs pipes that can be waited for")
@pytest.mark.parametrize("buffering", [0, -1])
async def test_send_file_of_a_silent_pipe_can_be_cancelled(certificates, buffering) -> None:
    reader, writer = os.pipe()
    told: list[int] = []
    async with tls_pair(certificates) as (client, server):
        with os.fdopen(writer, "wb", 0) as end, os.fdopen(reader, "rb", buffering) as file:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: client.send_file(file, progress=told.append))
                end.write(b"some")
                assert await receive_exactly(server, 4) == b"some"
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            assert told == [4]
            end.write(b"more")
            assert await client.send_file(file, 0, 4) == 4
        assert await receive_exactly(server, 4) == b"more"


async def test_send_file_of_what_is_no_file(certificates) -> None:
    async with tls_pair(certificates) as (client, _):
        with pytest.raises(TypeError, match="file must be"):
            await client.send_file("path")  # type: ignore[arg-type]  # that is the mistake
        with pytest.raises(ValueError, match="offset"):
            await client.send_file(io.BytesIO(), 2**63)


async def test_bad_sizes(certificates) -> None:
    async with tls_pair(certificates) as (client, _):
        with pytest.raises(ValueError, match="max_bytes"):
            await client.receive_some(0)
        with pytest.raises(TypeError):
            await client.receive_some(1.5)
