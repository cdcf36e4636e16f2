"""Closing on error: the body's error is the one that is told."""

from __future__ import annotations

import asyncio
import errno
import os

import pytest
import trio

from sockscope._core.cleanup import close_on_error
from sockscope._core.hooks import refuse_awaitable


class Resource:
    def __init__(self, error=None):
        self.error = error
        self.closed = 0

    def close(self):
        self.closed += 1
        if self.error is not None:
            raise self.error


def test_nothing_is_closed_without_an_error():
    resource = Resource()
    with close_on_error(resource):
        pass
    assert not resource.closed


@pytest.mark.parametrize("fails", [False, True])
def test_an_error_closes_and_comes_out(fails):
    resource = Resource(OSError(errno.EIO, os.strerror(errno.EIO)) if fails else None)
    with pytest.raises(KeyError), close_on_error(resource):
        raise KeyError
    assert resource.closed == 1


async def test_cancellation_closes():
    resource = Resource()
    with trio.CancelScope() as scope:
        scope.cancel()
        with close_on_error(resource):
            await trio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert resource.closed == 1


async def _async_hook():
    raise AssertionError("it must not run")


def test_an_async_hook_is_refused_where_a_plain_one_is_called():
    refuse_awaitable(None, "on_open")
    refuse_awaitable(5, "on_open")
    with pytest.raises(TypeError, match="on_open must be a plain function"):
        refuse_awaitable(_async_hook(), "on_open")
    waiting = asyncio.Future(loop=asyncio.new_event_loop())
    with pytest.raises(TypeError):
        refuse_awaitable(waiting, "on_open")
    waiting.get_loop().close()
