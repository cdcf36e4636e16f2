"""A running server hands its sockets to its successor under load: nobody is refused or reset.

The server is the one of the how-to page, word for word.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.doc_blocks import blocks_of

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "hand-over.md"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="descriptors are not passed there")

# Clients that come one after the other in several threads, each for one slow request. They
# tell of each server that they meet for the first time, and in the end what they have seen.
LOAD = """
import collections, json, socket, sys, threading, time

family, address = json.loads(sys.argv[1])
address = tuple(address) if isinstance(address, list) else address
answers, failures = collections.Counter(), collections.Counter()
lock, ending = threading.Lock(), threading.Event()

def ask():
    with socket.socket(family) as sock:
        sock.settimeout(20)
        sock.connect(address)
        time.sleep(0.002)  # connected, and maybe not accepted yet
        sock.sendall(b"request")
        answer = sock.recv(1000)
        if not answer:
            raise EOFError("no answer")
        return answer.decode()

def client():
    while not ending.is_set():
        try:
            answer = ask()
        except Exception as exc:
            with lock:
                failures[repr(exc)] += 1
        else:
            with lock:
                if not answers[answer]:
                    print(answer, flush=True)
                answers[answer] += 1

threads = [threading.Thread(target=client) for _ in range(4)]
for thread in threads:
    thread.start()
sys.stdin.readline()
ending.set()
for thread in threads:
    thread.join()
print(json.dumps([answers, failures]), flush=True)
"""


@pytest.fixture
def start(tmp_path):
    """Starts programs, and sees to it that all have ended."""
    started = []

    def start_(*command):
        process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        started.append(process)
        return process

    yield start_
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def server(tmp_path):
    """The page's server, whose answers take a while and say whose they are."""
    [text] = [
        block.text for block in blocks_of(PAGE.read_text("utf-8")) if block.caption == "server.py"
    ]
    answer = 'await stream.send_all(b"answer to " + request)'
    assert answer in text
    text = text.replace(
        answer, 'await trio.sleep(0.005); await stream.send_all(b"%d" % __import__("os").getpid())'
    )
    path = tmp_path / "server.py"
    path.write_text(text, "utf-8")
    return str(path)


def begin(start, server, address):
    """A new server that serves, and the address it is reached at."""
    process = start(server, address, "unix:./control")
    line = process.stdout.readline()
    assert line.startswith("serving "), process.stderr.read()
    return process, line.split()[1]


@pytest.mark.parametrize("kind", ["tcp", "local"])
def test_no_connection_is_lost(start, server, tmp_path, kind):
    address = "127.0.0.1:0" if kind == "tcp" else "unix:./socket"
    process, reached = begin(start, server, address)
    if kind == "tcp":
        host, _, port = reached.rpartition(":")
        target = [2, [host, int(port)]]
    else:
        target = [1, str(tmp_path / "socket")]
    load = start("-c", LOAD, json.dumps(target))
    assert load.stdout.readline() == f"{process.pid}\n"
    pids = [process.pid]
    for _ in range(3):
        successor, _ = begin(start, server, address)
        pids.append(successor.pid)
        # The successor answers before, while and after the old one ends.
        assert load.stdout.readline() == f"{successor.pid}\n"
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, "", "")
        process = successor
    out, _ = load.communicate("end\n", timeout=30)
    answers, failures = json.loads(out)
    assert failures == {}
    assert sorted(answers) == sorted(map(str, pids))
    if kind == "local":
        assert os.path.exists(tmp_path / "socket")


def test_a_successor_that_dies_half_way_changes_nothing(start, server, tmp_path):
    process, _ = begin(start, server, "unix:./socket")
    dies = (
        "import os, trio, sockscope\n"
        "async def main():\n"
        "    async with sockscope.open_socket('unix:./control') as running:\n"
        "        await running.receive_some(1)\n"
        "        await running.receive_socket()\n"
        "trio.run(main)\n"
    )
    assert start("-c", dies).wait(timeout=30) == 0
    ask = (
        "import trio, sockscope\n"
        "async def main():\n"
        "    async with sockscope.open_socket('unix:./socket') as stream:\n"
        "        await stream.send_all(b'request')\n"
        "        print(int(await stream.receive_some()))\n"
        "trio.run(main)\n"
    )
    asking = start("-c", ask)
    assert asking.communicate(timeout=30)[0] == f"{process.pid}\n"
    successor, _ = begin(start, server, "unix:./socket")
    process.communicate(timeout=30)
    assert process.returncode == 0
    assert successor.poll() is None
