"""kqueue in epoll's words, over an imitation: the engine's own tests run on it as well."""

from __future__ import annotations

import errno
import os
import socket as stdlib_socket
import subprocess
import sys

import pytest

from sockscope._sockets import engine, kqueue
from sockscope._sockets.kqueue import ENDED, READABLE, WRITABLE, KqueuePoll
from sockscope.testing import open_loopback_pair
from tests._sockets import imitated_kqueue

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it is imitated by epoll")


@pytest.fixture
def poll(monkeypatch):
    monkeypatch.setattr(kqueue, "_native", imitated_kqueue)
    poll = KqueuePoll()
    yield poll
    poll.close()


@pytest.fixture
def pair():
    near, far = stdlib_socket.socketpair()
    with near, far:
        yield near, far


def test_both_directions_each_once(poll, pair):
    near, far = pair
    poll.register(near.fileno(), 0)
    assert poll.poll(0) == [(near.fileno(), WRITABLE)]
    assert poll.poll(0) == []
    far.send(b"x")
    assert (near.fileno(), READABLE) in poll.poll(0)
    assert poll.poll(0) == []


def test_the_end_is_told(poll, pair):
    near, far = pair
    poll.register(near.fileno(), 0)
    poll.poll(0)
    far.close()
    assert (near.fileno(), READABLE | ENDED) in poll.poll(0)


def test_who_is_taken_out_is_heard_of_no_more(poll, pair):
    near, far = pair
    poll.register(near.fileno(), 0)
    poll.unregister(near.fileno())
    poll.unregister(near.fileno())
    far.send(b"x")
    assert poll.poll(0) == []


def test_what_can_be_watched_in_one_direction_only_is_not_watched(poll, pair, monkeypatch):
    near, far = pair
    apply = imitated_kqueue.kqueue._apply

    def refusing(self, event):
        if event.filter == imitated_kqueue.KQ_FILTER_WRITE:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        apply(self, event)

    monkeypatch.setattr(imitated_kqueue.kqueue, "_apply", refusing)
    with pytest.raises(OSError, match="memory"):
        poll.register(near.fileno(), 0)
    far.send(b"x")
    assert poll.poll(0) == []


def test_a_descriptor_that_is_none(poll, pair):
    near, _ = pair
    descriptor = near.fileno()
    near.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        poll.register(descriptor, 0)
    poll.unregister(descriptor)


def test_it_is_used_only_where_it_is_asked_for():
    program = (
        "import select; select.kqueue = None; del select.epoll;"
        "from sockscope._sockets import engine; print(engine.ENABLED, engine._ALWAYS)"
    )
    for choice, told in (("", "False False"), ("kqueue", "True True"), ("trio", "False False")):
        done = subprocess.run(
            [sys.executable, "-c", "import trio;" + program],
            env={**os.environ, "SOCKSCOPE_ENGINE": choice},
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert done.stdout.strip() == told


async def test_above_it_no_short_receive_is_trusted(monkeypatch):
    async with open_loopback_pair() as (near, _):
        assert near._short_means_empty
    monkeypatch.setattr(engine, "_new_poll", KqueuePoll)
    async with open_loopback_pair() as (near, _):
        assert not near._short_means_empty
