"""Faults of the network, in a network of this process's own: it goes when the process does."""

from __future__ import annotations

import json
import os
import sys
import time

import trio

from sockscope import DeadPeer, SocketOptions, open_socket
from sockscope.testing import open_descriptors, serving
from tests.system.support import Checks, call, echo, need, python, try_to, until

CHECKS = Checks()
SERVER, CLIENT = "10.78.0.1", "10.78.0.2"

# Another host: it makes its own network, waits for its end of the wire, connects and asks.
OTHER_HOST = """
import ctypes, os, socket, subprocess, sys
if ctypes.CDLL(None, use_errno=True).unshare(0x40000000):
    sys.exit("no network namespace")
print("ready", flush=True)
sys.stdin.readline()
for words in ("link set wire1 up", "addr add 10.78.0.2/24 dev wire1"):
    subprocess.run(["ip", *words.split()], check=True)
clients = [socket.create_connection(("10.78.0.1", int(sys.argv[1])), 10) for _ in range(5)]
for client in clients:
    client.sendall(b"x")
    assert client.recv(1) == b"x"
print("answered", flush=True)
sys.stdin.readline()
"""


async def say(process, word=""):
    """Let the other host go on; what it says next."""
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return await hear(process)


async def hear(process):
    line = await trio.to_thread.run_sync(process.stdout.readline, abandon_on_cancel=True)
    if not line:
        raise AssertionError(f"the other host ended: {process.stderr.read()[-300:]}")
    return line.strip()


async def wire_up(other, server):
    """Join the two hosts; five connections are answered over the wire."""
    assert await hear(other) == "ready"
    try_to(f"ip link add wire0 type veth peer name wire1 netns {other.pid}")
    call("ip", "link", "set", "wire0", "up")
    call("ip", "addr", "add", f"{SERVER}/24", "dev", "wire0")
    assert await say(other) == "answered"
    assert server.statistics().active == 5


@CHECKS
async def a_killed_client_is_noticed_at_once():
    """Its kernel ends its connections: no timer is needed."""
    before = open_descriptors()
    async with serving(echo, (None, 0)) as server:
        with python(OTHER_HOST, str(server.port)) as other:
            await wire_up(other, server)
            other.kill()
            await until(lambda: not server.connections, "its connections have ended", 2)
    assert open_descriptors() == before


@CHECKS
async def a_host_that_vanished_is_found_by_dead_peer():
    """No word comes from it, ever again; only a probe can tell."""
    options = SocketOptions(dead_peer=DeadPeer(detect_within=3))
    async with serving(echo, (None, 0), connection_options=options) as server:
        with python(OTHER_HOST, str(server.port)) as other:
            await wire_up(other, server)
            try_to(f"ip neigh replace {CLIENT} lladdr 02:00:00:00:00:09 dev wire0")
            began = time.monotonic()
            await until(lambda: not server.connections, "they are found dead", 10)
            took = time.monotonic() - began
    assert server.statistics().resets == 5, server.statistics()
    assert 1 < took < 5, f"after {took:.1f} s"


@CHECKS
async def a_link_that_comes_back_loses_nothing():
    options = SocketOptions(dead_peer=DeadPeer(detect_within=30))
    async with serving(echo, (None, 0), connection_options=options) as server:
        with python(OTHER_HOST, str(server.port)) as other:
            await wire_up(other, server)
            call("ip", "link", "set", "wire0", "down")
            await trio.sleep(1)
            assert len(server.connections) == 5
            call("ip", "link", "set", "wire0", "up")
            other.stdin.write("\n")
            other.stdin.flush()
            await until(lambda: not server.connections, "they have ended well", 10)
    assert server.statistics().resets == 0


@CHECKS
async def loss_and_delay():
    """A tenth of all is lost, and all is late: everybody is served all the same."""
    need("tc")
    try_to("tc qdisc add dev lo root netem loss 10% delay 5ms 2ms")
    answers = []

    async def ask(server):
        async with open_socket(server.addresses[0], timeout=15) as stream:
            await stream.send_all(b"x" * 10_000)
            answers.append(await stream.receive(10_000, wait_all=True))

    async with serving(echo) as server, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(ask, server)
    assert answers == [b"x" * 10_000] * 50


@CHECKS
async def a_reply_over_a_slow_path_arrives_whole():
    """Unread input at the close, 20 Mbit/s: a plain close loses two thirds of it."""
    need("tc")
    call("ip", "link", "set", "lo", "mtu", "1500")
    try_to("tc qdisc add dev lo root tbf rate 20mbit burst 3kb limit 400kb")
    whole = b"y" * 1_000_000

    async def handler(stream):
        await stream.receive_some(1)
        await stream.send_all(whole)

    async with serving(handler) as server:
        for size in (1000, 100_000):
            async with open_socket(server.addresses[0]) as stream:
                await stream.send_all(b"x" * size)
                got = b"".join([bytes(data) async for data in stream])
            assert got == whole, f"{len(got)} bytes arrived, {size} were sent"


@CHECKS
async def no_answer_and_refusals():
    """What a firewall does with a connect, by name and within its time."""
    need("nft")
    rules = {
        7001: "drop",
        7002: "reject with tcp reset",
        7003: "reject with icmpx type admin-prohibited",
    }
    try_to("nft add table inet t")
    try_to("nft add chain inet t o { type filter hook output priority 0 ; }")
    for port, rule in rules.items():
        try_to(f"nft add rule inet t o tcp dport {port} {rule}")
    found = {}
    for port in rules:
        began = time.monotonic()
        try:
            async with open_socket(("127.0.0.1", port), timeout=0.5):
                found[port] = "connected"
        except OSError as exc:
            found[port] = type(exc).__name__
        took = time.monotonic() - began
        assert took < 0.6, f"port {port} took {took:.2f} s"
    assert found[7001] == "ConnectTimeoutError", found
    assert found[7002] == found[7003] == "ConnectError", found


@CHECKS
async def connections_that_an_administrator_kills():
    """`ss -K`: those are counted as resets, and reach no other."""
    need("ss")
    async with serving(echo) as server:
        async with open_socket(server.addresses[0]) as kept:
            doomed = [await open_socket(server.addresses[0]).__aenter__() for _ in range(5)]
            await until(lambda: len(server.connections) == 6, "all are served")
            for stream in doomed:
                call("ss", "-K", "dst", "127.0.0.1", "dport", "=", stream.local_address.port)
            await until(lambda: server.statistics().resets == 5, "they are counted", 3)
            await kept.send_all(b"x")
            assert await kept.receive_some() == b"x"
            for stream in doomed:
                await stream.aclose()


# Clients that come without a pause, and tell how each ended.
LOAD = """
import collections, json, socket, sys, threading
port, found, ending = int(sys.argv[1]), collections.Counter(), threading.Event()

def ask():
    with socket.socket() as sock:
        sock.settimeout(10)
        try:
            sock.connect(("127.0.0.1", port))
        except OSError as exc:
            return type(exc).__name__ + " at connect"
        try:
            sock.sendall(b"x")
            sock.shutdown(socket.SHUT_WR)
            return "answered" if sock.recv(10) == b"x" and sock.recv(10) == b"" else "cut"
        except OSError as exc:
            return type(exc).__name__

def client():
    while not ending.is_set():
        found[ask()] += 1

threads = [threading.Thread(target=client) for _ in range(8)]
for thread in threads:
    thread.start()
print("running", flush=True)
sys.stdin.readline()
ending.set()
for thread in threads:
    thread.join()
print(json.dumps(found), flush=True)
"""


@CHECKS
async def a_drain_under_load_loses_nothing():
    """Whoever was connected is answered; who comes later is told so, and never cut."""
    lost = {}
    for _ in range(5):
        async with serving(echo) as server:
            with python(LOAD, str(server.port)) as load:
                assert await hear(load) == "running"
                accepted = server.statistics
                await until(lambda told=accepted: told().accepted > 300, "the load runs")
                await server.drain(10)
                found = json.loads(await say(load))
        assert found.pop("answered") >= 300
        found.pop("ConnectionRefusedError at connect", None)
        lost.update(found)
    assert not lost, lost


@CHECKS
async def a_hand_over_under_load_loses_nothing():
    """As the how-to page does it, again and again."""
    command = [sys.executable, "-m", "pytest", "-q", "-x", "tests/_serve/test_handover.py"]
    for _ in range(3):
        await trio.to_thread.run_sync(lambda: call(*command, timeout=60))


def prepare():
    """Every check begins with a network that has a loopback."""
    call("ip", "link", "set", "lo", "up")
    os.environ["PYTHONDEVMODE"] = "1"
