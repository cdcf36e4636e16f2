"""The first signal asks, the second ends."""

from __future__ import annotations

import signal

import pytest
import trio

from sockscope._cli.signals import stoppable

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.mark.parametrize("number", SIGNALS)
async def test_the_first_asks(number):
    async with stoppable() as stop:
        with stop.cancels() as before:
            signal.raise_signal(number)
            await trio.sleep_forever()
        with stop.cancels() as after:
            await trio.lowlevel.checkpoint()
        assert stop.asked.is_set()
        await trio.lowlevel.checkpoint()
    assert before.cancelled_caught
    assert after.cancelled_caught
    assert (stop.first, stop.exit_code) == (number, 0)


@pytest.mark.parametrize("first", SIGNALS)
@pytest.mark.parametrize("second", SIGNALS)
async def test_the_second_ends(first, second):
    async with stoppable() as stop:
        signal.raise_signal(first)
        await stop.asked.wait()
        signal.raise_signal(second)
        await trio.sleep_forever()
    assert (stop.first, stop.exit_code) == (first, 128 + second)


async def test_none():
    before = signal.getsignal(signal.SIGTERM)
    async with stoppable() as stop:
        with stop.cancels() as scope:
            await trio.lowlevel.checkpoint()
    assert not stop.asked.is_set()
    assert not scope.cancelled_caught
    assert signal.getsignal(signal.SIGTERM) == before
