"""What the tests of several commands need."""

from __future__ import annotations

import signal

import pytest
import trio


class HangingLookup(trio.abc.HostnameResolver):
    """Look-ups that do not end, until a signal is there."""

    def __init__(self):
        self.asked = trio.Event()

    async def getaddrinfo(self, *arguments):
        self.asked.set()
        await trio.sleep_forever()

    async def getnameinfo(self, sockaddr, flags):
        raise NotImplementedError

    async def then_raise(self, number):
        """Send this process a signal as soon as there is a look-up."""
        await self.asked.wait()
        signal.raise_signal(number)


@pytest.fixture
async def hanging_lookup():
    """The resolver of this test."""
    resolver = HangingLookup()
    trio.socket.set_custom_hostname_resolver(resolver)
    yield resolver
    trio.socket.set_custom_hostname_resolver(None)
