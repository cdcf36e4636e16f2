from __future__ import annotations

import pytest
import trio

from tests._addresses.scripted import ScriptedResolver


@pytest.fixture
async def resolver():
    """A scripted resolver that is in force for this test; its run ends with it."""
    scripted = ScriptedResolver()
    trio.socket.set_custom_hostname_resolver(scripted)
    return scripted


@pytest.fixture
def no_threads(monkeypatch):
    """Make every use of a thread fail."""

    async def refuse(*args, **kwargs):
        raise AssertionError(f"a thread was used: {args}")

    monkeypatch.setattr(trio.to_thread, "run_sync", refuse)
