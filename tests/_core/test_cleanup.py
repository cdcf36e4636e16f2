"""Closing on error: the body's error is the one that is told."""

from __future__ import annotations

import errno
import os

import pytest
import trio

from sockscope._core.cleanup import close_on_error


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
