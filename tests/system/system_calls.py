"""System calls that fail under a whole program, by strace: the proof that the shim is right.

The program says on which port it listens before strace is attached: what fails from the
interpreter's start on proves nothing. A check in which nothing was injected has failed.
"""

from __future__ import annotations

import json
import socket
import time

from tests.system.support import Checks, Skip, folder, need, program, python

CHECKS = Checks()

SERVER = """
import dataclasses, json, logging, sys
import trio, sockscope

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def main():
    options = sockscope.SocketOptions(send_buffer=50_000)
    arguments = dict(connection_options=options, drain_timeout=2)
    async with sockscope.serve_passive([("127.0.0.1", 0)], echo, **arguments) as server:
        print(server.port, flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
    print(json.dumps(dataclasses.asdict(server.statistics()), default=str), flush=True)

logging.basicConfig(level=logging.WARNING)
trio.run(main)
"""


def ask(port, patience):
    """What becomes of one client: "answered", or how it ended instead."""
    with socket.socket() as client:
        client.settimeout(patience)
        client.connect(("127.0.0.1", port))
        try:
            client.sendall(b"x")
            answer = client.recv(1)
            client.shutdown(socket.SHUT_WR)
            return "answered" if answer == b"x" and client.recv(1) == b"" else "ended"
        except TimeoutError:
            return "silent"
        except OSError as exc:
            return type(exc).__name__


def inject(call, error, when, *, patience=5.0, clients=6):
    """A server under strace: what its clients saw, its figures, and how often it was hit."""
    need("strace")
    with folder() as where, python(SERVER) as server:
        port = int(server.stdout.readline())
        out = where / "out.txt"
        expression = f"inject={call}:error={error}:when={when}"
        options = ["-f", "-p", server.pid, "-o", out, "-e", f"trace={call}", "-e", expression]
        with program("strace", *options) as strace:
            line = strace.stderr.readline()
            if "attached" not in line:
                raise Skip(f"strace: {line.strip()}")
            seen = [ask(port, patience) for _ in range(clients)]
            # Before strace ends, which would end a call under way in an error of its own.
            server.stdin.close()
            try:
                server.wait(10)
            except Exception:
                raise AssertionError(f"{expression}: it does not end; saw {seen}") from None
            strace.wait(5)
        figures = json.loads(server.stdout.read() or "null")
        said = server.stderr.read()
        assert server.returncode == 0, (
            f"{expression}: ended with {server.returncode}: {said[-300:]}"
        )
        hits = out.read_text().count("(INJECTED)")
    assert hits, f"{expression}: nothing was injected"
    return seen, figures, said


def all_answered(call, errors, when="2", but=0):
    """For each error: all clients but so many are answered, the last one among them."""
    for error in errors:
        seen, figures, _ = inject(call, error, when)
        assert seen[-1] == "answered", f"{call} {error}: {seen}"
        assert seen.count("answered") >= len(seen) - but, f"{call} {error}: {seen}"
        accounted = sum(
            figures[name]
            for name in ("finished", "handler_errors", "resets", "option_failures", "timed_out")
        )
        assert figures["accepted"] == accounted, f"{call} {error}: {figures}"


@CHECKS
def accept_fails_once():
    all_answered("accept4", ["ECONNABORTED", "EPERM", "EMFILE", "ENFILE", "ENOBUFS", "ENOMEM"])


@CHECKS
def accept_fails_for_ever():
    """Nobody is served, nothing spins, and it still ends."""
    for error in ("EMFILE", "EPERM"):
        began = time.process_time()
        seen, _, said = inject("accept4", error, "2+", patience=0.3, clients=3)
        assert seen[-1] in ("silent", "ConnectionResetError"), seen
        assert said.count("pauses") == 1, said
        assert time.process_time() - began < 2


@CHECKS
def the_wait_fails():
    all_answered("epoll_ctl", ["ENOMEM", "ENOSPC"], but=1)
    all_answered("epoll_ctl", ["ENOMEM"], when="3", but=1)


@CHECKS
def receiving_and_sending_fail():
    for call in ("recvfrom", "sendto"):
        all_answered(call, ["ECONNRESET", "ETIMEDOUT", "ENOMEM"], when="3", but=1)


@CHECKS
def an_option_fails():
    all_answered("setsockopt", ["ENOMEM", "EINVAL"], but=1)


@CHECKS
def closing_fails():
    all_answered("close", ["EIO", "EINTR"], but=1)
