"""Trio's own: `trio.serve_tcp`, and `trio.serve_ssl_over_tcp` with ``--tls``."""

from __future__ import annotations

import functools

import trio
from common import BACKLOG, HOST, announce, arguments
from trio_handlers import HANDLERS


async def main() -> None:
    given = arguments()
    serve = functools.partial(trio.serve_tcp, host=HOST, backlog=BACKLOG)
    if given.context is not None:
        serve = functools.partial(
            trio.serve_ssl_over_tcp, ssl_context=given.context, host=HOST, backlog=BACKLOG
        )
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve, HANDLERS[given.role], 0)
        listener = getattr(listeners[0], "transport_listener", listeners[0])
        announce(listener.socket.getsockname()[1])


trio.run(main)
