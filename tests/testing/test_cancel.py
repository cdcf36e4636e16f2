"""cancel_everywhere finds what is planted, at its step, and nothing where nothing is."""

from __future__ import annotations

import gc
import os
import re
import socket
import threading
import time
import traceback
import warnings

import pytest
import trio
import trio.testing

from sockscope.testing import LeakError, StuckError, _cancel, cancel_everywhere, open_descriptors


@pytest.fixture
async def listener():
    """A listener of Trio's with an accept loop that closes what it gets."""
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def close_each():
            async with listener:
                while True:
                    await (await listener.accept()).aclose()

        nursery.start_soon(close_each)
        yield listener.socket.getsockname()
        nursery.cancel_scope.cancel()


@pytest.fixture
async def kept():
    """Where a planted leak is held, as the collector would close it."""
    kept = []
    yield kept
    for leaked in kept:
        leaked.close()


@pytest.fixture
def briefly(monkeypatch):
    """Wait only briefly for the rest of the world: for tests in which a leak stays."""
    monkeypatch.setattr(_cancel, "SETTLE_SECONDS", 0.05)


@pytest.fixture
def quickly(monkeypatch):
    """Give up on a run soon: for tests in which one is stuck."""
    monkeypatch.setattr(_cancel, "STUCK_AFTER_SECONDS", 0.3)


async def sleep_forever_shielded():
    with trio.CancelScope(shield=True):
        await trio.sleep_forever()


class TestNothingPlanted:
    async def test_counts_the_steps_of_the_operation(self):
        async def three_checkpoints():
            for _ in range(3):
                await trio.lowlevel.checkpoint()

        # The last step is the one that ends the task.
        assert await cancel_everywhere(three_checkpoints) == 4

    async def test_cancels_at_every_step_on_both_sides(self):
        reached = []

        async def two_checkpoints():
            try:
                reached.append(0)
                await trio.lowlevel.checkpoint()
                reached.append(1)
                await trio.lowlevel.checkpoint()
                reached.append(2)
            except trio.Cancelled:
                reached.append("cancelled")
                raise

        await cancel_everywhere(two_checkpoints)
        runs = re.findall("0(?:1(?:2|c)|c)", "".join(str(entry)[0] for entry in reached))
        # A checkpoint whose result is on its way looks for a cancellation when it resumes.
        assert runs[:3] == ["012", "0c", "0c"]  # not cancelled; before and after step 1
        assert runs[3:5] == ["0c", "01c"]  # before and after step 2
        assert runs[5:] == ["01c", "012", "012"]  # before and after step 3; not reached

    async def test_follows_children(self):
        async def child():
            await trio.lowlevel.checkpoint()

        async def parent():
            async with trio.open_nursery() as nursery:
                nursery.start_soon(child)
                nursery.start_soon(child)

        assert await cancel_everywhere(parent) == 2 + 2 * 2

    async def test_open_tcp_stream_leaks_nothing(self, listener):
        async def connect():
            await (await trio.open_tcp_stream(*listener)).aclose()

        assert await cancel_everywhere(connect) > 4

    async def test_threads_and_system_tasks_around(self, listener):
        async def with_thread_and_system_task():
            # A name, so that the look-up goes through a thread.
            await trio.socket.getaddrinfo("localhost", 80, family=socket.AF_INET)
            done = trio.Event()

            async def system_task():
                done.set()

            trio.lowlevel.spawn_system_task(system_task)
            await done.wait()
            await trio.to_thread.run_sync(threading.get_ident)

        assert await cancel_everywhere(with_thread_and_system_task) > 4

    async def test_tasks_that_others_start_are_not_the_operations(self, nursery):
        requests, at_work = trio.open_memory_channel(0)

        async def outside():
            async for _ in at_work:
                nursery.start_soon(trio.sleep_forever)

        async def asks_others():
            await requests.send(None)

        nursery.start_soon(outside)
        await cancel_everywhere(asks_others)
        nursery.cancel_scope.cancel()

    async def test_what_is_opened_once_is_no_leak(self, kept):
        async def opens_once():
            await trio.lowlevel.checkpoint()
            if not kept:
                kept.append(socket.socket())
            await trio.lowlevel.checkpoint()

        await cancel_everywhere(opens_once)

    async def test_waits_for_the_other_side_to_close(self, kept, nursery):
        send, receive = trio.open_memory_channel(100)

        async def outside():
            async for sock in receive:
                await trio.to_thread.run_sync(time.sleep, 0.01)
                sock.close()

        nursery.start_soon(outside)

        async def hands_over():
            send.send_nowait(socket.socket())
            await trio.lowlevel.checkpoint()

        await cancel_everywhere(hands_over)
        await send.aclose()

    async def test_an_outer_cancellation_ends_it(self):
        with trio.move_on_after(0.05) as scope:
            await cancel_everywhere(trio.sleep_forever)
        assert scope.cancelled_caught

    async def test_is_a_checkpoint(self):
        async def nothing():
            pass

        with trio.testing.assert_checkpoints():
            await cancel_everywhere(nothing)


@pytest.mark.usefixtures("briefly")
class TestPlanted:
    @pytest.mark.parametrize("moment", ["before", "after"])
    async def test_leak_after_connect(self, listener, kept, moment):
        async def leaks_after_connect():
            sock = trio.socket.socket()
            kept.append(sock)
            handed_over = False
            try:
                await sock.connect(listener)
                handed_over = True  # from here on nobody closes it
                await trio.lowlevel.checkpoint()
                handed_over = False
            finally:
                if not handed_over:
                    sock.close()

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_cancel, "_MOMENTS", (moment,))
            with pytest.raises(LeakError) as caught:
                await cancel_everywhere(leaks_after_connect)
        error = caught.value
        assert error.moment == moment
        # The connect waits from the first step on; its result comes with the second.
        assert error.step == 2
        assert "in leaks_after_connect" in str(error)
        assert f"cancelled {moment} step {error.step}" in str(error)
        [leak] = error.leaks
        assert re.search(r"socket:\[\d+\], AF_INET SOCK_STREAM", leak)
        assert f"to {listener!r}" in leak

    async def test_leak_of_the_run_that_succeeds(self, kept):
        async def leaks():
            kept.append(socket.socket())

        with pytest.raises(LeakError, match="step 1"):
            await cancel_everywhere(leaks)

    async def test_leak_that_the_collector_would_hide(self):
        async def accepted_and_lost():
            lost = socket.socket()
            await trio.lowlevel.checkpoint()
            lost.close()

        with pytest.raises(
            LeakError, match=r"step 1.*garbage collector: unclosed <socket"
        ) as caught:
            await cancel_everywhere(accepted_and_lost)
        assert caught.value.step == 1

    async def test_leak_in_a_cycle(self):
        async def lost_in_a_cycle():
            cycle = [socket.socket()]
            cycle.append(cycle)
            await trio.lowlevel.checkpoint()
            cycle[0].close()

        with pytest.raises(LeakError, match="garbage collector"):
            await cancel_everywhere(lost_in_a_cycle)

    async def test_leaked_pipe_is_named(self, kept):
        async def leaks_a_pipe():
            read, write = os.pipe()
            os.close(read)
            kept.append(os.fdopen(write, "wb"))

        with pytest.raises(LeakError, match=r"descriptor \d+ \(pipe:\[\d+\]\)"):
            await cancel_everywhere(leaks_a_pipe)

    async def test_leaked_task(self, nursery):
        async def outlives():
            await trio.sleep_forever()

        async def starts_outside():
            nursery.start_soon(outlives)
            await trio.lowlevel.checkpoint()

        with pytest.raises(LeakError, match=r"task .*outlives, at .* in outlives") as caught:
            await cancel_everywhere(starts_outside)
        assert caught.value.step == 1
        nursery.cancel_scope.cancel()

    async def test_stuck_in_a_shield(self, quickly):
        async def cleans_up_for_ever():
            try:
                await trio.lowlevel.checkpoint()
                await trio.lowlevel.checkpoint()
            finally:
                if trio.current_effective_deadline() == -float("inf"):
                    await sleep_forever_shielded()

        with pytest.raises(StuckError, match=r"at .* in sleep_forever_shielded") as caught:
            await cancel_everywhere(cleans_up_for_ever)
        assert (caught.value.step, caught.value.moment) == (1, "before")

    async def test_stuck_for_what_an_earlier_run_took(self, quickly):
        tokens = iter([1, 2])

        async def takes_a_token():
            await trio.lowlevel.checkpoint()
            if not next(tokens, None):
                await trio.sleep_forever()

        with pytest.raises(StuckError, match=r"not cancelled: not over after 0\.3 s"):
            await cancel_everywhere(takes_a_token)

    async def test_stuck_at_once(self, quickly):
        with pytest.raises(StuckError, match="not cancelled"):
            await cancel_everywhere(sleep_forever_shielded)

    async def test_a_busy_outer_task_holds_nothing_up(self, kept, nursery):
        async def busy():
            while True:
                await trio.lowlevel.checkpoint()

        async def leaks():
            kept.append(socket.socket())

        nursery.start_soon(busy)
        with pytest.raises(LeakError):
            await cancel_everywhere(leaks)
        nursery.cancel_scope.cancel()


class TestErrors:
    async def test_names_the_step(self):
        async def fails_when_cancelled():
            try:
                await trio.lowlevel.checkpoint()
            except trio.Cancelled:
                raise ValueError("cleanup is broken") from None

        with pytest.raises(ValueError, match="cleanup is broken") as caught:
            await cancel_everywhere(fails_when_cancelled)
        assert "cancelled before step 1, at " in "".join(
            traceback.format_exception(type(caught.value), caught.value, None)
        )

    async def test_of_a_run_that_was_not_cancelled(self):
        async def fails():
            raise KeyError("x")

        with pytest.raises(KeyError) as caught:
            await cancel_everywhere(fails)
        assert caught.value.__notes__ == ["cancel_everywhere: in a run that was not cancelled"]

    async def test_limit(self):
        async def steps_for_ever():
            while True:
                await trio.lowlevel.checkpoint()

        with pytest.raises(RuntimeError, match="limit=20"):
            await cancel_everywhere(steps_for_ever, limit=20)

    async def test_limit_that_just_suffices(self):
        async def two_steps():
            await trio.lowlevel.checkpoint()

        assert await cancel_everywhere(two_steps, limit=2) == 2

    async def test_other_warnings_pass(self):
        async def warns():
            warnings.warn("old", DeprecationWarning, stacklevel=1)

        with pytest.warns(DeprecationWarning, match="old"):
            await cancel_everywhere(warns)


async def test_a_limit_that_comes_too_late_does_nothing():
    expired = []
    with _cancel._real_time_limit(0, lambda: expired.append(True)):
        for thread in threading.enumerate():
            if isinstance(thread, threading.Timer):
                thread.join()
    await trio.testing.wait_all_tasks_blocked()
    assert expired == []


async def test_leaves_nothing_of_its_own(listener):
    async def connect():
        await (await trio.open_tcp_stream(*listener)).aclose()

    await cancel_everywhere(connect)
    gc.collect()
    before = open_descriptors()
    threads = set(threading.enumerate())
    await cancel_everywhere(connect)
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert open_descriptors() == before
    assert set(threading.enumerate()) <= threads
