"""Real sockets over loopback: a listener, and both ends of a connection."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from sockscope._open.open import open_socket
from sockscope._serve.accept_connection import accept_connection
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

LoopbackKind: TypeAlias = Literal["ipv4", "ipv6", "local"]
"""A way over loopback: TCP over 127.0.0.1 or ::1, or a local socket at a path of its own."""


@asynccontextmanager
async def open_loopback_listener(
    kind: LoopbackKind = "ipv4",
) -> AsyncGenerator[PassiveSocket, None]:
    """Listen on loopback, at a port or path that the system picks; closed on exit.

    Args:
      kind: ``"ipv4"``, ``"ipv6"``, or ``"local"`` for a path in a temporary folder.

    Yields:
      The `PassiveSocket`; its ``address`` is the one to connect to.

    Raises:
      SocketError: the system has no such loopback.

    A checkpoint.
    """
    if kind == "local":
        with tempfile.TemporaryDirectory(prefix="sockscope-") as folder:
            local = Path(folder) / "socket"
            async with open_socket(connect="passive", local=local) as listener:
                yield listener
    else:
        host = {"ipv4": "127.0.0.1", "ipv6": "::1"}[kind]
        async with open_socket(connect="passive", local=(host, 0)) as listener:
            yield listener


@asynccontextmanager
async def open_loopback_pair(
    kind: LoopbackKind = "ipv4",
) -> AsyncGenerator[tuple[StreamSocket, StreamSocket], None]:
    """Open a connection over loopback, both ends of it; both closed on exit.

    Unlike `socket_pair` it was really connected and accepted, so that it has addresses,
    options and failures as other connections have.

    Args:
      kind: ``"ipv4"``, ``"ipv6"``, or ``"local"`` for a path in a temporary folder.

    Yields:
      The stream that connected and the stream that was accepted.

    Raises:
      SocketError: the system has no such loopback.

    A checkpoint.

    Example::

        async with open_loopback_pair("ipv6") as (client, server):
            await client.send_all(b"x")
            assert await server.receive_some() == b"x"
    """
    async with open_loopback_listener(kind) as listener:
        # Both as scopes: closing must not put a Cancelled in place of what the body raised.
        async with open_socket(listener.address) as client, accept_connection(listener) as server:
            yield client, server
