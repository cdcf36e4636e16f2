"""Ours: `sockscope.serve_passive`, with nothing optional turned on but TLS with ``--tls``."""

from __future__ import annotations

import trio
from common import HOST, announce, arguments
from trio_handlers import HANDLERS

import sockscope


async def main() -> None:
    given = arguments()
    upgrade = None if given.context is None else sockscope.tls_upgrade(given.context)
    serving = sockscope.serve_passive((HOST, 0), HANDLERS[given.role], upgrade=upgrade)
    async with serving as server:
        announce(server.port)
        await trio.sleep_forever()


trio.run(main)
