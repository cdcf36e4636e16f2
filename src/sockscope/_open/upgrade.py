"""Upgrades: what turns a new stream into what the user works with."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable
from typing import Any

from sockscope._core.cleanup import CLOSING_ERRORS, close_at_once
from sockscope._open.descriptors import OurSocket
from sockscope._sockets.stream import StreamSocket

Upgrade = Callable[[Any], Awaitable[Any]]


def chain(first: Upgrade, *others: Upgrade) -> Upgrade:
    """Put upgrades one after another: each takes what the one before gave.

    Args:
      first: takes the `StreamSocket`.
      others: each takes what the one before it returned.

    Returns:
      An upgrade for `open_socket` and `serve_passive`. If one of them fails, the
      stream is closed by whoever runs it.

    Raises:
      TypeError: one of them cannot be called.

    Example:
      ``upgrade=chain(read_proxy_header, tls_upgrade(context))``
    """
    for upgrade in (first, *others):
        if not callable(upgrade):
            raise TypeError(f"chain takes async callables, not {upgrade!r}")

    async def chained(stream: Any) -> Any:
        for upgrade in (first, *others):
            stream = await upgrade(stream)
        return stream

    return chained


async def run_upgrade(stream: StreamSocket, upgrade: Upgrade) -> Any:
    """Upgrade *stream*; if that fails or is cancelled the stream is closed at once."""
    try:
        return await upgrade(stream)
    except BaseException:
        stream._close()
        raise


async def close_after(opened: OurSocket, result: object, *, failed: bool) -> None:
    """Close what an upgrade gave and the socket below it, when a block has ended.

    Args:
      opened: the socket.
      result: what the upgrade made of it; *opened* itself where there was none.
      failed: the block raised or was cancelled: close at once, without waiting for the
        peer, and raise nothing. Otherwise this is a checkpoint.
    """
    if not failed:
        await _close_both(opened, result)
        return
    with contextlib.suppress(*CLOSING_ERRORS):
        await close_at_once(functools.partial(_close_both, opened, result))


async def _close_both(opened: OurSocket, result: object) -> None:
    aclose = None if result is opened else getattr(result, "aclose", None)
    try:
        if aclose is not None:
            await aclose()
    finally:
        await opened.aclose()
