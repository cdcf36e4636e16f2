"""What the protocol makes a receiver answer: here, for its certificate after the handshake."""

from __future__ import annotations

import sys

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import sockscope._tls.driver
from sockscope._tls.stream import TLSStream
from tests._tls.certificates import NAME, Certificates
from tests._tls.gated import Gated
from tests._tls.pairs import shaken, socket_pair

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class Asked:
    """A client that is asked for its certificate, and its server."""

    def __init__(self, certificates: Certificates, below=None) -> None:
        left, right = below or socket_pair()
        self.gate = Gated(left)
        context = certificates.client_context(certificate=certificates.client)
        context.post_handshake_auth = True
        server_context = certificates.server_context(wants_client=True)
        server_context.post_handshake_auth = True
        self.client = TLSStream(self.gate, context, server_hostname=NAME)
        self.server = TLSStream(right, server_context, server_side=True)

    async def __aenter__(self) -> Asked:
        await shaken((self.client, self.server))
        self.gate.sends.clear()
        self.gate.sending = trio.Event()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        for stream in (self.client, self.server):
            await trio.aclose_forcefully(stream)

    async def ask(self, data: bytes = b"question") -> None:
        """Ask, and send *data* behind it."""
        self.server.verify_client_post_handshake()
        await self.server.send_all(data)

    async def knows_the_client(self) -> bool:
        """Let the server receive what there is; whether it has the certificate."""
        with trio.move_on_after(0.05):
            await self.server.receive_some()
        return bool(self.server.getpeercert())


@pytest.fixture
async def asked(certificates):
    async with Asked(certificates) as asked:
        yield asked


async def receive_until_it_raises(stream: TLSStream) -> None:
    while await stream.receive_some():
        pass


async def test_the_answer_goes_out_while_the_client_only_receives(asked) -> None:
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.client.receive_some)
        assert await asked.knows_the_client()
        nursery.cancel_scope.cancel()
    assert len(asked.gate.sends) == 1


async def test_the_answer_goes_out_with_the_next_send(asked) -> None:
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    await asked.client.send_all(b"x")
    assert len(asked.gate.sends) == 1
    assert await asked.server.receive_some() == b"x"
    assert asked.server.getpeercert()


async def test_receiving_goes_on_while_there_is_no_room_for_the_answer(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    for _ in range(3):
        await asked.server.send_all(b"more")
        assert await asked.client.receive_some() == b"more"
    assert not asked.gate.sends
    asked.gate.room.set()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.client.receive_some)
        assert await asked.knows_the_client()
        nursery.cancel_scope.cancel()


async def test_a_receive_cancelled_before_the_answer_has_room_has_done_nothing(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.client.receive_some)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    asked.gate.room.set()
    await asked.client.send_all(b"x")
    assert await asked.server.receive_some() == b"x"
    assert asked.server.getpeercert()


async def test_a_sender_waits_for_the_answer_that_goes_before_it(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.client.receive_some)
        await wait_all_tasks_blocked()
        nursery.start_soon(asked.client.send_all, b"x")
        await wait_all_tasks_blocked()
        assert not asked.gate.sends
        asked.gate.room.set()
        assert await asked.server.receive_some() == b"x"
        assert asked.server.getpeercert()
        nursery.cancel_scope.cancel()
    assert len(asked.gate.sends) == 2


async def test_the_answer_waits_for_the_sender_before_it(asked) -> None:
    await asked.ask()
    asked.gate.room = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.client.send_all, b"x")
        await wait_all_tasks_blocked()
        assert await asked.client.receive_some() == b"question"
        nursery.start_soon(asked.client.receive_some)
        await wait_all_tasks_blocked()
        asked.gate.room.set()
        assert await asked.server.receive_some() == b"x"
        assert await asked.knows_the_client()
        nursery.cancel_scope.cancel()
    # The sender, at the end of its turn, took the answer along.
    assert len(asked.gate.sends) == 2


async def test_the_answer_waits_for_one_who_waits_for_room(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(asked.client.wait_send_all_might_not_block)
        await wait_all_tasks_blocked()
        nursery.start_soon(asked.client.receive_some)
        await wait_all_tasks_blocked()
        asked.gate.room.set()
        assert await asked.knows_the_client()
        nursery.cancel_scope.cancel()


async def test_a_sender_cancelled_while_it_waits_for_its_turn_breaks_the_stream(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"

    async def receive() -> None:
        with pytest.raises(trio.BrokenResourceError):
            await receive_until_it_raises(asked.client)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        with trio.move_on_after(0.01):
            await asked.client.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="cancelled half-way"):
            await asked.client.send_all(b"x")
        await asked.server.send_all(b"wake up")


async def test_closing_wakes_a_sender_that_waits_for_its_turn(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"

    async def expect_closed(call, *arguments) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call(*arguments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, asked.client.receive_some)
        await wait_all_tasks_blocked()
        nursery.start_soon(expect_closed, asked.client.send_all, b"x")
        await wait_all_tasks_blocked()
        await asked.client.aclose()


async def test_closing_while_the_answer_waits_for_its_turn(asked) -> None:
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"

    async def expect_closed(call, *arguments) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await call(*arguments)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, asked.client.wait_send_all_might_not_block)
        await wait_all_tasks_blocked()
        nursery.start_soon(expect_closed, asked.client.receive_some)
        await wait_all_tasks_blocked()
        await asked.client.aclose()
        asked.gate.room.set()


async def test_an_answer_that_is_not_taken_ends_the_stream(certificates, autojump_clock) -> None:
    async with Asked(certificates, trio.testing.memory_stream_pair()) as asked:
        await asked.ask()
        assert await asked.client.receive_some() == b"question"
        asked.gate.slow = trio.Event()
        before = trio.current_time()
        with trio.move_on_after(1):
            await asked.client.receive_some()
        assert trio.current_time() - before == sockscope._tls.driver.ANSWER_SECONDS
        for call in (asked.client.receive_some, asked.client.send_eof):
            with pytest.raises(trio.BrokenResourceError, match="did not take"):
                await call()


async def test_an_answer_that_cannot_be_sent_does_not_end_receiving(asked) -> None:
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    asked.gate.failure = trio.BrokenResourceError("reset")
    received: list[bytes] = []

    async def receive() -> None:
        received.extend([data async for data in asked.client])

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        await asked.server.send_all(b"still")
        await asked.server.send_eof()
    assert received == [b"still"]
    with pytest.raises(trio.BrokenResourceError, match="reset"):
        await asked.client.send_all(b"x")


async def test_too_much_unanswered_is_not_received_on(asked, monkeypatch) -> None:
    monkeypatch.setattr(sockscope._tls.driver, "MOST_UNANSWERED", 1)
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    await asked.server.send_all(b"more")
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await asked.client.receive_some())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        assert not received
        asked.gate.room.set()
    assert received == [b"more"]


async def test_an_interrupt_in_an_answer_is_not_hidden(asked) -> None:
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    asked.gate.failure = KeyboardInterrupt()
    with pytest.raises(BaseExceptionGroup) as caught:
        await asked.client.receive_some()
    assert caught.group_contains(KeyboardInterrupt)


async def test_a_cancellation_comes_out_bare(asked) -> None:
    """Where a user's ``except trio.Cancelled`` finds it."""
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    bare: list[bool] = []

    async def receive() -> None:
        try:
            await asked.client.receive_some()
        except trio.Cancelled:
            bare.append(True)
            raise

    async with trio.open_nursery() as nursery:
        nursery.start_soon(receive)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert bare == [True]


async def test_cancelled_while_the_answer_is_on_its_way_and_data_has_come(certificates) -> None:
    async with Asked(certificates, trio.testing.memory_stream_pair()) as asked:
        await asked.ask()
        assert await asked.client.receive_some() == b"question"
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await asked.client.receive_some())

        asked.gate.slow = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            await asked.gate.sending.wait()
            await asked.server.send_all(b"more")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            asked.gate.slow.set()
        if not received:
            await receive()
        assert received == [b"more"]
        await asked.client.send_all(b"x")
        assert await asked.server.receive_some() == b"x"
        assert asked.server.getpeercert()


async def test_cancelled_while_too_much_is_unanswered(asked, monkeypatch) -> None:
    monkeypatch.setattr(sockscope._tls.driver, "MOST_UNANSWERED", 1)
    asked.gate.room = trio.Event()
    await asked.ask()
    assert await asked.client.receive_some() == b"question"
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(asked.client.receive_some)
            await wait_all_tasks_blocked()
            scope.cancel()
    assert scope.cancelled_caught
    asked.gate.room.set()
    await asked.server.send_all(b"more")
    assert await asked.client.receive_some() == b"more"
