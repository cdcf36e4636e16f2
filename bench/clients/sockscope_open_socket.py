"""Our client: `sockscope.open_socket`."""

from __future__ import annotations

from common import BYTE, HOST, PORT, check
from trio_tasks import run

import sockscope


async def visit() -> None:
    async with sockscope.open_socket((HOST, PORT)) as stream:
        await stream.send_all(BYTE)
        check(await stream.receive_some(1))


run(visit)
