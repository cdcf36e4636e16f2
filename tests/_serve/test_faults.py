"""Whatever system call fails, a server goes on: by the surveys of errors, row by row.

Each program runs under the shim, in a process of its own. Its clients are plain sockets in
threads that read and write by calls which the shim does not know.
"""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import sys

import pytest
import trio

from sockscope import SocketOptions, open_socket, serve_passive
from sockscope._sockets.accept_errors import _SURVEY, Verdict
from sockscope.testing import cancel_everywhere, open_descriptors
from tests._serve.waiting import until
from tests.faults.injection import fault, spare_open_descriptors

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

if sys.platform != "linux":
    pytest.skip("the fault shim is for Linux: its calls are Linux's", allow_module_level=True)


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


def new_client(port, patience):
    """A connected client that gives up reading after *patience* seconds."""
    client = socket.socket()
    seconds, rest = divmod(patience, 1)
    timeout = struct.pack("ll", int(seconds), int(rest * 1e6))
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, timeout)
    client.connect(("127.0.0.1", port))
    return client


def talk(client):
    """What becomes of one request: "answered", "ended", "silent" or the error's name."""
    with client:
        try:
            os.write(client.fileno(), b"x")
            return "answered" if os.read(client.fileno(), 1) == b"x" else "ended"
        except BlockingIOError:
            return "silent"
        except OSError as exc:
            return errno.errorcode[exc.errno]


async def request(port, patience=0.5):
    client = new_client(port, patience)
    return await trio.to_thread.run_sync(talk, client)


def verdicts(*wanted):
    return sorted(number for number, (verdict, _) in _SURVEY.items() if verdict in wanted)


# -- accept, and the wait for it


async def accept_fails(numbers, nths, always):
    """For each errno: what a client saw meanwhile, how often accept failed, and one after."""
    before = open_descriptors()
    patience = 0.02 if always else 5
    found = []
    async with serve_passive(("127.0.0.1", 0), echo) as server:
        for number, nth in itertools.product(numbers, nths):
            client = new_client(server.port, patience)
            with fault("accept4", number, nth=nth, always=always) as failed:
                first = await trio.to_thread.run_sync(talk, client)
                second = await request(server.port, patience)
                hits = failed()
            found.append([first, second, hits, await request(server.port, 5)])
        shortages = server.statistics().shortages
    assert open_descriptors() == before
    return [found, shortages]


RECOVERING = [*verdicts(Verdict.NEXT, Verdict.SHORTAGE), errno.EDOM]


def test_accept_fails_once(run_under_faults):
    outcome = run_under_faults(accept_fails, RECOVERING, [1, 2, 3], False)
    found, _ = outcome.result
    assert found == [["answered", "answered", 1, "answered"]] * 3 * len(RECOVERING)
    assert outcome.cpu_seconds < 5


def test_accept_fails_for_ever(run_under_faults):
    """Nobody can be served meanwhile, nothing spins, and then all goes on."""
    outcome = run_under_faults(accept_fails, RECOVERING, [1], True)
    found, shortages = outcome.result
    assert [[*row[:2], row[3]] for row in found] == [["silent", "silent", "answered"]] * len(
        RECOVERING
    )
    # Sixteen tries at most for each pause, of 5 ms and more.
    assert all(1 <= row[2] < 16 * 30 for row in found)
    assert shortages == len(RECOVERING)
    assert outcome.cpu_seconds < 5


async def a_listener_fails(number, both):
    """Two listeners, one of which fails for good."""
    try:
        async with serve_passive([("127.0.0.1", 0), ("127.0.0.1", 0)], echo) as server:
            one, two = server.sockets
            ports = [one.port, two.port]
            descriptor = -1 if both else one.fileno()
            with fault("accept4", number, always=True, fd=descriptor) as failed:
                new_client(ports[0], 5).close()
                if both:
                    new_client(ports[1], 5).close()
                    with trio.fail_after(5):
                        await trio.sleep_forever()
                await until(failed)
            await until(lambda: len(server.sockets) == 1)
            return [len(server.sockets), await request(ports[1], 5)]
    except BaseException as exc:
        [error] = exc.exceptions
        return errno.errorcode[error.errno]


async def listeners_fail(numbers):
    return [
        [await a_listener_fails(number, False), await a_listener_fails(number, True)]
        for number in numbers
    ]


def test_a_listener_fails_for_good(run_under_faults):
    numbers = verdicts(Verdict.STOP)
    found = run_under_faults(listeners_fail, numbers).result
    assert found == [[[1, "answered"], errno.errorcode[number]] for number in numbers]


async def the_wait_fails(numbers):
    found = []
    async with serve_passive(("127.0.0.1", 0), echo) as server:
        listener = server.sockets[0].fileno()
        for number in numbers:
            for nth in (1, 2, 3):
                with fault("epoll_ctl", number, nth=nth, fd=listener):
                    found += [await request(server.port, 5) for _ in range(3)]
            with fault("epoll_ctl", number, always=True, fd=listener) as failed:
                # The first is told by a wait that began before; the others by the clock.
                found += [await request(server.port, 5) for _ in range(3)]
                found.append("hit" if 1 <= failed() < 100 else failed())
            found.append(await request(server.port, 5))
    return found


def test_the_wait_for_connections_fails(run_under_faults):
    outcome = run_under_faults(the_wait_fails, [errno.ENOMEM, errno.ENOSPC])
    assert outcome.result == [*["answered"] * 12, "hit", "answered"] * 2
    assert outcome.cpu_seconds < 5


# -- one connection's calls


async def a_connections_call_fails(call, numbers, nth, always):
    """For each errno: what that client saw, how it was counted, and the next client."""
    armed = []

    def arm(stream):
        if armed:
            context = fault(*armed.pop(), fd=stream.fileno(), nth=nth, always=always)
            hits.append(context.__enter__())
            contexts.append(context)

    before = open_descriptors()
    found, contexts, hits = {}, [], []
    async with serve_passive(
        ("127.0.0.1", 0),
        echo,
        on_open=arm,
        connection_options=SocketOptions(send_buffer=30_000),
        handler_errors=lambda exc, stream: errors.append(type(exc).__name__),
    ) as server:
        for number in numbers:
            errors = []
            armed.append((call, number))
            first = await request(server.port, 5)
            await until(lambda: not server.connections)
            count = hits.pop()()
            contexts.pop().__exit__(None, None, None)
            second = await request(server.port, 5)
            found[errno.errorcode[number]] = [first, errors, count > 0, second]
    statistics = server.statistics()
    assert open_descriptors() == before
    assert statistics.accepted == 2 * len(numbers)
    names = ("resets", "option_failures", "close_errors")
    return [found, {name: getattr(statistics, name) for name in names}]


FATAL = ["ECONNRESET", "ETIMEDOUT", "EHOSTUNREACH", "ENETDOWN", "ECONNABORTED", "ENOMEM", "ENOBUFS"]


def numbers_of(names):
    return [getattr(errno, name) for name in names]


CASES = [
    ("recv", 1, FATAL, "resets"),
    ("recv", 2, FATAL, "resets"),
    ("send", 1, [*FATAL, "EPIPE"], "resets"),
    ("epoll_ctl", 2, ["ENOMEM", "ENOSPC"], None),
    ("setsockopt", 1, ["ENOMEM", "EINVAL", "ENOPROTOOPT"], "option_failures"),
    ("close", 1, ["EIO", "EINTR"], "close_errors"),
    ("shutdown", 1, ["ENOTCONN"], None),
]


async def connections_fail(always):
    return [
        await a_connections_call_fails(call, numbers_of(names), nth, always)
        for call, nth, names, _ in CASES
    ]


@pytest.mark.parametrize("always", [False, True], ids=["once", "for ever"])
def test_one_connection_fails_alone(run_under_faults, always):
    outcome = run_under_faults(connections_fail, always)
    for (call, _, names, figure), (found, figures) in zip(CASES, outcome.result, strict=True):
        assert set(found) == set(names)
        for name, (_, errors, hit, second) in found.items():
            assert second == "answered", (call, name)
            assert errors in ([], ["BrokenResourceError"]), (call, name)
            assert hit or figure is None
        if call == "setsockopt" and not always:
            # Where the short way has failed, the long one is tried: only the first child's.
            assert figures.pop(figure) == 1
        elif figure is not None:
            assert figures.pop(figure) == len(names), call
        elif call == "epoll_ctl":
            # Whether a wait needs the call depends on who was faster; one that fails is counted.
            assert figures.pop("resets") <= len(names)
        assert not any(figures.values())
    assert outcome.cpu_seconds < 5


async def send_fails_then_receive(number):
    """What a stream tells after a failed send: what had come, and then the error, each time."""
    told = []

    async def handler(stream):
        with fault("send", number, fd=stream.fileno()):
            try:
                await stream.send_all(b"y")
            except trio.BrokenResourceError as exc:
                told.append(exc.__cause__.errno)
        told.append((await stream.receive_some(1)).decode())
        for _ in range(2):
            try:
                while data := await stream.receive_some(10):
                    told.append(data.decode())
                told.append("end")
            except trio.BrokenResourceError as exc:
                told.append(exc.__cause__.errno)

    async with serve_passive(("127.0.0.1", 0), handler) as server:
        client = new_client(server.port, 5)
        os.write(client.fileno(), b"ab")
        client.shutdown(socket.SHUT_WR)
        await trio.to_thread.run_sync(os.read, client.fileno(), 1)
        client.close()
    return told


async def sends_fail(numbers):
    return [await send_fails_then_receive(number) for number in numbers]


def test_a_failed_send_is_remembered(run_under_faults):
    numbers = numbers_of(["ECONNRESET", "ENOBUFS", "EHOSTUNREACH"])
    told = run_under_faults(sends_fail, numbers).result
    assert told == [[number, "a", "b", number, number] for number in numbers]


# -- opening and ending


async def opening_fails(call, number, nth, always):
    before = open_descriptors()
    options = SocketOptions(reuse_address=True)
    with fault(call, number, nth=nth, always=always) as failed:
        try:
            async with serve_passive([("127.0.0.1", 0)] * 2, echo, options=options):
                result = "served"
        except OSError as exc:
            result = errno.errorcode[exc.errno]
        hit = failed()
    assert open_descriptors() == before
    return [result, hit]


async def openings_fail(cases):
    return [
        await opening_fails(call, getattr(errno, name), nth, call == "setsockopt")
        for call, name, nth in cases
    ]


def test_opening_fails(run_under_faults):
    cases = [
        *[("socket", name, nth) for name in ("EMFILE", "ENFILE") for nth in (1, 2)],
        *[("bind", name, nth) for name in ("EADDRINUSE", "EACCES") for nth in (1, 2)],
        *[("listen", "EADDRINUSE", nth) for nth in (1, 2)],
        # For good: one that fails once is set again, more carefully.
        *[("setsockopt", "ENOMEM", nth) for nth in (1, 3, 4, 6)],
    ]
    found = run_under_faults(openings_fail, cases).result
    assert [result for result, _ in found] == [name for _, name, _ in cases]
    assert all(
        hit == 1 for (call, *_), (_, hit) in zip(cases, found, strict=True) if call != "setsockopt"
    )


async def closing_a_listener_fails():
    async with serve_passive(("127.0.0.1", 0), echo) as server:
        with fault("close", errno.EIO, fd=server.sockets[0].fileno()):
            server.stop_accepting()
    return server.statistics().close_errors


def test_closing_a_listener_fails(run_under_faults):
    assert run_under_faults(closing_a_listener_fails).result == 1


# -- a fault and a cancellation at once

CALLS = {
    "socket": errno.EMFILE,
    "bind": errno.EADDRINUSE,
    "listen": errno.ENOMEM,
    "connect": errno.ECONNREFUSED,
    "accept4": errno.ENFILE,
    "setsockopt": errno.ENOMEM,
    "recv": errno.ECONNRESET,
    "send": errno.EPIPE,
    "shutdown": errno.ENOTCONN,
    "close": errno.EIO,
    "epoll_ctl": errno.ENOMEM,
}


async def cancelled_everywhere_under_a_fault(calls, nth, folder):
    spare_open_descriptors()
    steps, hits = 0, {}
    for call, number in calls.items():

        async def operation(call=call, number=number):
            with fault(call, number, nth=nth) as failed:
                try:
                    await converse(folder)
                except BaseException as exc:
                    if cancelled := only_cancelled(exc):
                        raise cancelled from None
                hits[call] = hits.get(call, 0) + failed()

        steps += await cancel_everywhere(operation)
    # When the faults have stopped, all is well.
    assert await converse(folder) == b"x"
    return [steps, [call for call, count in hits.items() if not count]]


def only_cancelled(exc):
    """What of *exc* is Cancelled: any other error will do, if nothing is left."""
    if isinstance(exc, BaseExceptionGroup):
        return exc.split(trio.Cancelled)[0]
    return exc if isinstance(exc, trio.Cancelled) else None


async def converse(folder):
    """A server, a client, a request; with *folder* over a path there, and drained at the end."""
    local = f"unix:{folder}/socket" if folder else ("127.0.0.1", 0)
    async with (
        serve_passive(local, echo, drain_timeout=0.05) as server,
        open_socket(server.addresses[0], timeout=1) as stream,
    ):
        await stream.send_all(b"x")
        answer = await stream.receive_some()
        await stream.send_eof()
        if not folder:
            # Draining would wait for handshakes in the network's time, in every run.
            server.cancel_scope.cancel()
    return answer


@pytest.mark.parametrize("kind", ["local", "internet"])
@pytest.mark.parametrize("nth", [1, 2])
def test_cancelled_everywhere_under_a_fault(run_under_faults, tmp_path, kind, nth):
    folder = str(tmp_path) if kind == "local" else ""
    outcome = run_under_faults(cancelled_everywhere_under_a_fault, CALLS, nth, folder)
    steps, missed = outcome.result
    assert steps > 10 * len(CALLS)
    assert set(missed) <= {"socket", "bind", "listen", "connect", "setsockopt", "shutdown"}
