"""A server that does not hide its handler's failures."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from sockscope._serve.serve import Local, serve_passive
from sockscope._serve.server import Server


def serving(
    handler: Callable[[Any], Awaitable[object]] | None,
    local: Local = ("127.0.0.1", 0),
    **arguments: Any,
) -> AbstractAsyncContextManager[Server[Any]]:
    """Serve while the block runs, as `serve_passive` does, with a test's defaults.

    Args:
      handler: the handler; None for a body that takes the connections itself.
      local: where to listen; a free port of 127.0.0.1 unless said otherwise.
      arguments: any of `serve_passive`'s. Where they do not say otherwise,
        ``handler_errors`` is ``"raise"``, so that a handler's failure fails the test,
        and ``drain_timeout`` is 1 second, so that one that hangs does not hold it up.

    Entering gives the `Server`. Raises what `serve_passive` raises.

    Example::

        async with serving(echo) as server:
            async with open_socket(server.addresses[0]) as stream:
                ...
    """
    arguments.setdefault("handler_errors", "raise")
    arguments.setdefault("drain_timeout", 1)
    return serve_passive(local, handler, **arguments)
