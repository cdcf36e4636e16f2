"""The clients of the soak: what each kind does, and what it must see of the server.

They are Trio's own sockets, so that a fault of ours is not made up for by another. Each
binds to one of many loopback hosts: one host alone runs out of ports.
"""

from __future__ import annotations

import collections
import errno
import random
import socket
import ssl
import struct
from dataclasses import dataclass, field

import trio

from soaking import LONGEST_LINE, TOO_LONG

PATIENCE = 90.0  # seconds for an answer; a shortage lasts a few
_IP_BIND_ADDRESS_NO_PORT = 24
_RESET = struct.pack("ii", 1, 0)
_NO_MORE = (ConnectionError, trio.BrokenResourceError, trio.ClosedResourceError)


@dataclass
class World:
    """What the clients share: where the server is, and what they saw of it."""

    plain: int
    secure: int
    context: ssl.SSLContext
    random: random.Random
    done: collections.Counter[str] = field(default_factory=collections.Counter)
    failures: list[str] = field(default_factory=list)
    requests: int = 0
    # From now on nobody begins anything.
    ending: trio.Event = field(default_factory=trio.Event)

    async def connect(self, port=None, host=None, **options):
        sock = trio.socket.socket()
        try:
            sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            for name, value in options.items():
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), value)
            await sock.bind((host or f"127.0.{self.random.randrange(1, 200)}.1", 0))
            await sock.connect(("127.0.0.1", port or self.plain))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    def line(self, most=2000):
        """One of a random length, without what ends a line."""
        return self.random.randbytes(self.random.randrange(most)).translate(None, b"\r\n") + b"\n"


async def receive(stream, size):
    """So many bytes; fewer at the end."""
    data = bytearray()
    while len(data) < size and (some := await stream.receive_some(65_536)):
        data += some
    return bytes(data)


async def ask(world, stream, line):
    """One request: its whole answer must come."""
    await stream.send_all(line)
    if await receive(stream, len(line)) != line:
        raise AssertionError("the answer is not the request")
    world.requests += 1


# -- the good ones: each must be answered in full, whatever the others do


async def churning(world):
    """Comes, asks a few times, says that it is done, and waits for the end."""
    async with await world.connect() as stream:
        for _ in range(world.random.randrange(1, 6)):
            await ask(world, stream, world.line())
        await stream.send_eof()
        assert await receive(stream, 1) == b""


async def patient(world):
    """Stays, and asks now and then."""
    async with await world.connect() as stream:
        for _ in range(world.random.randrange(2, 8)):
            await ask(world, stream, world.line(200))
            with trio.move_on_after(world.random.uniform(2, 12)):
                await world.ending.wait()
                break


async def half_closing(world):
    """Sends all, ends its side, and only then reads."""
    lines = b"".join(world.line() for _ in range(5))
    async with await world.connect() as stream:
        await stream.send_all(lines)
        await stream.send_eof()
        assert await receive(stream, len(lines) + 1) == lines
    world.requests += 5


async def dripping(world):
    """Sends one byte at a time."""
    async with await world.connect() as stream:
        line = world.line(30)
        for index in range(len(line)):
            await stream.send_all(line[index : index + 1])
            await trio.sleep(world.random.uniform(0, 0.2))
        assert await receive(stream, len(line)) == line
        world.requests += 1


async def slow_reading(world):
    """Asks for more than fits, and reads it little by little, while it goes on sending."""
    lines = [world.line(60_000) for _ in range(8)]
    async with await world.connect(SO_RCVBUF=4096, SO_SNDBUF=16_384) as stream:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, b"".join(lines))
            for line in lines:
                got = bytearray()
                while len(got) < len(line):
                    some = await stream.receive_some(min(4096, len(line) - len(got)))
                    assert some, "cut"
                    got += some
                    await trio.sleep(0.005)
                assert got == line
                world.requests += 1


async def oversized(world):
    """Sends a line without end; the refusal must arrive though it goes on sending."""
    async with await world.connect() as stream, trio.open_nursery() as nursery:

        async def pour():
            try:
                for _ in range(60):
                    await stream.send_all(b"x" * (LONGEST_LINE // 4))
                    await trio.sleep(0.002)
            except _NO_MORE:
                pass  # it has lingered for a MiB

        nursery.start_soon(pour)
        assert await receive(stream, len(TOO_LONG)) == TOO_LONG
        world.requests += 1
        nursery.cancel_scope.cancel()


async def secure(world):
    """Asks over TLS."""
    raw = await world.connect(world.secure)
    async with trio.SSLStream(raw, world.context, server_hostname="localhost") as stream:
        for _ in range(world.random.randrange(1, 4)):
            await ask(world, stream, world.line())


# -- the bad ones: they may see anything, but soon


async def resetting(world):
    """Asks, and resets in the middle of the answer."""
    stream = await world.connect(SO_LINGER=_RESET)
    await stream.send_all(world.line() * world.random.randrange(1, 10))
    await trio.sleep(world.random.uniform(0, 0.01))
    await stream.aclose()


async def scanning(world):
    """Looks whether the port is open, in two ways, at both ports."""
    port = world.random.choice([world.plain, world.secure])
    options = {"SO_LINGER": _RESET} if world.random.random() < 0.5 else {}
    await (await world.connect(port, **options)).aclose()


async def silent(world):
    """Says nothing until the server has had enough."""
    async with await world.connect() as stream:
        assert await stream.receive_some(1) == b""


async def vanishing(world):
    """Never reads, never ends; goes when the server has cut it."""
    async with await world.connect(SO_RCVBUF=4096, SO_SNDBUF=16_384) as stream:
        line = b"x" * 1000 + b"\n"
        while True:
            await stream.send_all(line * 10)


async def garbage(world):
    """Sends to the port with TLS what is none."""
    async with await world.connect(world.secure) as stream:
        await stream.send_all(world.random.choice([b"GET / HTTP/1.0\r\n\r\n", bytes(600)]))
        while await stream.receive_some(4096):
            pass


async def stalled(world):
    """Begins a handshake, and leaves it at that."""
    async with await world.connect(world.secure) as stream:
        await stream.send_all(b"\x16\x03\x01\x02")
        while await stream.receive_some(4096):
            pass


async def denied(world):
    """Comes from where nobody may."""
    async with await world.connect(host=f"127.0.255.{world.random.randrange(1, 255)}") as stream:
        try:
            await stream.send_all(b"x\n")
            answer = await stream.receive_some(10)
        except _NO_MORE:
            return
        world.failures.append(f"denied: was answered {answer!r}")


# How many of a thousand connections are of this kind at any time, and whether it is a good one.
KINDS = {
    patient: (790, True),
    churning: (40, True),
    half_closing: (20, True),
    dripping: (20, True),
    slow_reading: (4, True),
    oversized: (4, True),
    secure: (6, True),
    resetting: (20, False),
    scanning: (6, False),
    silent: (40, False),
    vanishing: (10, False),
    garbage: (10, False),
    stalled: (20, False),
    denied: (10, False),
}


async def keep_up(world, kind, good, rest):
    """One client after the other, until the end."""
    name = kind.__name__
    while not world.ending.is_set():
        with trio.move_on_after(world.random.uniform(0, 2 * rest)):
            await world.ending.wait()
            return
        with trio.move_on_after(PATIENCE) as scope:
            try:
                await kind(world)
                world.done[name] += 1
            except Exception as exc:
                if isinstance(exc, OSError) and exc.errno == errno.EADDRNOTAVAIL:
                    world.done["out of ports"] += 1
                elif good or not is_network(exc):
                    world.failures.append(f"{name}: {exc!r}")
                else:
                    world.done[name] += 1
        if scope.cancelled_caught:
            world.failures.append(f"{name}: not over after {PATIENCE:.0f} s")


def is_network(exc):
    if hasattr(exc, "exceptions"):
        return all(is_network(leaf) for leaf in exc.exceptions)
    return isinstance(exc, (OSError, *_NO_MORE))


async def run(world, number):
    """*number* clients of all kinds, until `World.ending` and the last one's end."""
    async with trio.open_nursery() as nursery:
        for kind, (share, good) in KINDS.items():
            for _ in range(max(1, number * share // 1000)):
                # What comes and goes at once pauses, so that it leaves the others some time.
                nursery.start_soon(keep_up, world, kind, good, 0.5)
