"""Listeners that are there already: what goes wrong with one leaves none behind."""

from __future__ import annotations

import errno
import socket
import sys

import pytest

from sockscope import SocketError, serve_passive
from sockscope.testing import open_descriptors
from tests.faults.injection import fault

if sys.platform != "linux":
    pytest.skip("the fault shim is for Linux: its calls are Linux's", allow_module_level=True)


async def serve_one_that_cannot_listen():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number = listener.detach()
    before = open_descriptors()
    try:
        with fault("listen", errno.EADDRINUSE, fd=number):
            async with serve_passive(f"fd:{number}", backlog=5):
                return "served"
    except SocketError as exc:
        return [exc.errno, str(exc), len(before) - len(open_descriptors())]


def test_a_new_backlog_that_is_refused(run_under_faults):
    number, message, closed = run_under_faults(serve_one_that_cannot_listen).result
    assert number == errno.EADDRINUSE
    assert "listen on" in message
    # It was the server's by then.
    assert closed == 1
