"""The fixtures that ``pytest_plugins = ["sockscope.testing"]`` brings; for pytest-trio."""

from __future__ import annotations

import socket
import sys
from collections.abc import AsyncGenerator

import pytest

from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket
from sockscope.testing._loopback import LoopbackKind, open_loopback_listener, open_loopback_pair


@pytest.fixture(params=["ipv4", "ipv6", "local"])
def loopback_kind(request: pytest.FixtureRequest) -> LoopbackKind:
    """Each way over loopback in turn; those that the system lacks are skipped."""
    kind: LoopbackKind = request.param
    if sys.platform == "win32" and kind == "local":
        pytest.skip("no local sockets on this system")
    if kind == "ipv6" and not _has_ipv6():
        pytest.skip("no IPv6 on this system's loopback")
    return kind


def _has_ipv6() -> bool:
    """Whether something can listen on ::1."""
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.fixture
async def loopback_listener(loopback_kind: LoopbackKind) -> AsyncGenerator[PassiveSocket, None]:
    """A `PassiveSocket` on loopback: the test runs once for each kind."""
    async with open_loopback_listener(loopback_kind) as listener:
        yield listener


@pytest.fixture
async def loopback_pair(
    loopback_kind: LoopbackKind,
) -> AsyncGenerator[tuple[StreamSocket, StreamSocket], None]:
    """The two ends of a connection over loopback: the test runs once for each kind."""
    async with open_loopback_pair(loopback_kind) as pair:
        yield pair
