"""Waiting for what a server tells only when it is asked."""

from __future__ import annotations

import trio


async def until(condition):
    """Wait until *condition*, a function without arguments, is true; five seconds at most."""
    with trio.fail_after(5):
        while not condition():  # noqa: ASYNC110  # figures and queues have no events
            await trio.sleep(0.001)
