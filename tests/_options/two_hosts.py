"""Two network namespaces joined by a wire; run as a program, it prints what happened as JSON.

The client's side forks the server's. It exits with 77 where namespaces cannot be made.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys

import trio

from sockscope import DeadPeer, SocketOptions, make_socket, serve_passive, supports

NOT_PERMITTED = 77
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SERVER4, CLIENT4 = "10.77.0.1", "10.77.0.2"
SERVER6, CLIENT6 = "fd77::1", "fd77::2"
SERVER_MAC = "02:00:00:00:77:01"
# Signed as it should be, it takes less than a millisecond; a SYN is tried again after 1 s.
UNHEARD = 0.7
VANISHED = 2.0

KEY, OTHER = b"squeamish", b"ossifrage"


ONE, TWO, NONE = SocketOptions(tcp_md5_key=KEY), SocketOptions(tcp_md5_key=OTHER), SocketOptions()
# What listens (options), who connects (options), by which family.
CASES = {
    "same": (ONE, ONE, 4),
    "same_ipv6": (ONE, ONE, 6),
    "same_mapped": (ONE, ONE, "mapped"),
    "wrong": (ONE, TWO, 4),
    "wrong_ipv6": (ONE, TWO, 6),
    "wrong_mapped": (ONE, TWO, "mapped"),
    "client_has_none": (ONE, NONE, 4),
    "server_has_none": (NONE, ONE, 4),
    "network": (SocketOptions(tcp_md5_keys={"10.77.0.0/24": KEY}), ONE, 4),
    "network_wrong": (SocketOptions(tcp_md5_keys={"10.77.0.0/24": KEY}), TWO, 4),
    "network_mapped": (SocketOptions(tcp_md5_keys={"10.77.0.0/24": KEY}), ONE, "mapped"),
    "address": (SocketOptions(tcp_md5_keys={CLIENT4: KEY, CLIENT6: OTHER}), ONE, 4),
    "address_ipv6": (SocketOptions(tcp_md5_keys={CLIENT4: KEY, CLIENT6: OTHER}), TWO, 6),
    "longest_prefix": (SocketOptions(tcp_md5_keys={"0.0.0.0/0": OTHER, CLIENT4: KEY}), ONE, 4),
    "nobodys_network": (SocketOptions(tcp_md5_keys={"192.0.2.0/24": KEY}), NONE, 4),
    "nobodys_network_signed": (SocketOptions(tcp_md5_keys={"192.0.2.0/24": KEY}), ONE, 4),
}


def unshare(flags):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        print(os.strerror(ctypes.get_errno()))
        sys.exit(NOT_PERMITTED)


def ip(*words):
    subprocess.run(["ip", *words], check=True)


async def listen(options, family):
    """A listening socket of the server's."""
    if family == "mapped":
        options |= SocketOptions(ipv6_only=False)
    host = "0.0.0.0" if family == 4 else "::"
    return await make_socket(connect="passive", local=(host, 0), options=options)


def serve(orders, answers):
    """The other host: listens, echoes, and vanishes when told to."""
    unshare(CLONE_NEWNET)
    answers.write("ready\n")
    orders.readline()
    ip("link", "set", "lo", "up")
    ip("link", "set", "server", "up", "address", SERVER_MAC)
    ip("addr", "add", f"{SERVER4}/24", "dev", "server")
    ip("addr", "add", f"{SERVER6}/64", "dev", "server", "nodad")
    trio.run(echo_all, orders, answers)


async def echo_all(orders, answers):
    listening = {name: await listen(server, family) for name, (server, _, family) in CASES.items()}
    async with serve_passive(list(listening.values()), echo, drain_timeout=0) as server:
        ports = {name: passive.port for name, passive in listening.items()}
        async with await listen(NONE, 4) as silent:
            ports["silent"] = silent.port
            answers.write(json.dumps(ports) + "\n")
            await trio.to_thread.run_sync(orders.readline)
            ip("addr", "del", f"{SERVER4}/24", "dev", "server")
            answers.write("gone\n")
            await trio.to_thread.run_sync(orders.readline)
        server.cancel_scope.cancel()


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def try_case(name, port, results):
    _, options, family = CASES[name]
    host = SERVER6 if family == 6 else SERVER4
    try:
        stream = await make_socket((host, port), options=options, timeout=UNHEARD)
    except OSError as exc:
        results[name] = type(exc).__name__
        return
    async with stream:
        await stream.send_all(b"hello")
        data = await stream.receive(5, wait_all=True)
        results[name] = "echoed" if data == b"hello" else "garbled"


async def lose_peer(stream, name, sending, results):
    """What a receiver is told of a peer that is gone; nothing, without dead_peer, for hours."""
    if sending:
        await stream.send_all(b"hello")
    results[name] = "alive"
    with trio.move_on_after(VANISHED * 5):
        try:
            await stream.receive_some()
        except trio.BrokenResourceError as exc:
            results[name] = type(exc.__cause__).__name__


async def connect_to(port):
    options = SocketOptions(dead_peer=DeadPeer(detect_within=VANISHED))
    return await make_socket((SERVER4, port), options=options)


async def be_client(ports, orders, answers):
    results = {}
    async with trio.open_nursery() as nursery:
        for name in CASES:
            nursery.start_soon(try_case, name, ports[name], results)
    idle, sending = await connect_to(ports["silent"]), await connect_to(ports["silent"])
    orders.write("vanish\n")
    await trio.to_thread.run_sync(answers.readline)
    async with idle, sending, trio.open_nursery() as nursery:
        nursery.start_soon(lose_peer, idle, "idle", False, results)
        nursery.start_soon(lose_peer, sending, "sending", True, results)
    return results


def main():
    if not supports("tcp_md5_keys"):
        CASES.clear()
    unshare(CLONE_NEWNET if os.geteuid() == 0 else CLONE_NEWUSER | CLONE_NEWNET)
    orders_out, orders_in = os.pipe()
    answers_out, answers_in = os.pipe()
    pid = os.fork()
    if pid == 0:
        with open(orders_out) as orders, open(answers_in, "w", buffering=1) as answers:
            os.close(orders_in)
            serve(orders, answers)
        return
    os.close(answers_in)
    with open(orders_in, "w", buffering=1) as orders, open(answers_out) as answers:
        if answers.readline() != "ready\n":
            sys.exit(NOT_PERMITTED)
        wire = ["client", "type", "veth", "peer", "name", "server", "netns", str(pid)]
        ip("link", "add", *wire)
        ip("link", "set", "lo", "up")
        ip("link", "set", "client", "up")
        ip("addr", "add", f"{CLIENT4}/24", "dev", "client")
        ip("addr", "add", f"{CLIENT6}/64", "dev", "client", "nodad")
        # A host that vanished answers no ARP, but its neighbours remember it.
        neighbour = [SERVER4, "lladdr", SERVER_MAC, "dev", "client", "nud", "permanent"]
        ip("neigh", "replace", *neighbour)
        orders.write("go\n")
        results = trio.run(be_client, json.loads(answers.readline()), orders, answers)
        orders.write("end\n")
    os.waitpid(pid, 0)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
