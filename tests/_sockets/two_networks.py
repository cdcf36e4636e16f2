"""Two network namespaces joined by a wire, in one process: a socket stays in the one it is made in.

Run as a program it goes through all cases and prints what became of each as JSON: null, or a
traceback. It exits with 77 where namespaces cannot be made, with the reason. The namespaces,
and the wire with them, are gone when it ends.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

import pytest
import trio

from sockscope._addresses.values import InternetAddress
from sockscope._core.errors import DatagramError
from sockscope._options.features import supports
from sockscope._options.value_types import PathMTUDiscovery
from sockscope._options.values import SocketOptions
from tests._sockets.datagrams import drain, make

NOT_PERMITTED = 77
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
# The server has two addresses on the wire, so has the client.
SERVER, SERVER_TOO, CLIENT, CLIENT_TOO = "10.78.0.1", "10.78.0.3", "10.78.0.2", "10.78.0.4"
SERVER6, SERVER6_TOO, CLIENT6, CLIENT6_TOO = "fd78::1", "fd78::3", "fd78::2", "fd78::4"
GROUP, GROUP6, SOURCED, SOURCED6 = "239.78.1.1", "ff15::7801", "232.78.1.1", "ff35::7801"
ROUTED = "10.99.0.1"  # by way of the server, which knows no way
REPORT = SocketOptions(packet_info=True)

_libc = ctypes.CDLL(None, use_errno=True)


def unshare(flags):
    if _libc.unshare(flags) != 0:
        print(os.strerror(ctypes.get_errno()))
        sys.exit(NOT_PERMITTED)


def run(*words):
    subprocess.run(words, check=True, capture_output=True)


class Networks:
    """The two namespaces; the process starts in the client's."""

    def __init__(self):
        root = os.geteuid() == 0
        unshare(CLONE_NEWNET if root else CLONE_NEWUSER | CLONE_NEWNET)
        keeper = os.fork()
        if keeper == 0:
            signal.pause()
        try:
            self.server = os.open(f"/proc/{keeper}/ns/net", os.O_RDONLY)
            unshare(CLONE_NEWNET)
            self.client = os.open("/proc/self/ns/net", os.O_RDONLY)
            wire = ("ip", "link", "add", "client", "type", "veth", "peer", "name", "server")
            run(*wire, "netns", str(keeper))
        except (OSError, subprocess.CalledProcessError) as exc:
            print(exc)
            sys.exit(NOT_PERMITTED)
        finally:
            os.kill(keeper, signal.SIGKILL)
            os.waitpid(keeper, 0)
        self.configure("client", CLIENT, CLIENT_TOO, CLIENT6, CLIENT6_TOO)
        run("ip", "route", "add", f"{ROUTED}/32", "via", SERVER)
        with self.at_server():
            self.configure("server", SERVER, SERVER_TOO, SERVER6, SERVER6_TOO)

    @staticmethod
    def configure(name, *addresses):
        # Addresses need no probation: nobody else is on the wire.
        run("sh", "-c", f"echo 0 > /proc/sys/net/ipv6/conf/{name}/accept_dad")
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "set", name, "up")
        for address in addresses:
            if ":" in address:
                run("ip", "addr", "add", f"{address}/64", "dev", name, "nodad")
            else:
                run("ip", "addr", "add", f"{address}/24", "brd", "+", "dev", name)

    @contextmanager
    def at_server(self):
        """Sockets made, and programs run, within are the server's."""
        _libc.setns(self.server, CLONE_NEWNET)
        try:
            yield
        finally:
            _libc.setns(self.client, CLONE_NEWNET)

    async def server_socket(self, local=("0.0.0.0", 0), options=REPORT):
        with self.at_server():
            return await make(local=local, options=options)


CASES = {}


def case(function):
    CASES[function.__name__.replace("_", "-")] = function
    return function


async def answer_one(server, data=b"answer"):
    datagram = await server.receive_from()
    await server.reply(datagram, data)
    return datagram


@case
async def a_reply_comes_from_the_address_that_was_asked(networks):
    async with await networks.server_socket((None, 0)) as server:
        port = server.local_address.port
        for host in (SERVER, SERVER_TOO, SERVER6, SERVER6_TOO):
            async with await make(remote=(host, port)) as client:
                await client.send_to(b"hello")
                datagram = await answer_one(server)
                assert datagram.destination == InternetAddress(ip_address(host), port)
                assert (await client.receive_from()).address == client.remote_address


@case
async def a_reply_on_a_link_local_address(networks):
    with networks.at_server():
        own = link_local("server")
    async with await networks.server_socket(("::", 0)) as server:
        target = f"{own}%client", server.local_address.port
        # The address may be on probation for a second or two after the link came up.
        async with await make(local=("::", 0)) as client:
            with trio.fail_after(10):
                while True:
                    await client.send_to(b"hello", target)
                    with trio.move_on_after(0.1):
                        datagram = await server.receive_from()
                        break
            assert datagram.destination.scope_id == datagram.interface != 0
            await server.reply(datagram, b"answer")
            answer = await client.receive_from()
            assert str(answer.address.host) == own


def link_local(name):
    with open("/proc/net/if_inet6") as table:
        for line in table:
            raw, _, _, scope, _, interface = line.split()
            if interface == name and scope == "20":
                return str(ip_address(bytes.fromhex(raw)))
    raise AssertionError(f"{name} has no link-local address")


@case
async def groups_are_joined_by_any_name_of_an_interface(networks):
    with networks.at_server():
        index = socket.if_nametoindex("server")
    sending = SocketOptions(multicast_interface="client", multicast_hops=1)
    for group, addresses in ((GROUP, SERVER), (GROUP6, SERVER6)):
        wildcard = "0.0.0.0" if group == GROUP else "::"
        for name in ("server", index, addresses):
            async with (
                await networks.server_socket((wildcard, 0)) as server,
                await make(local=(wildcard, 0), options=sending) as client,
            ):
                target = group, server.local_address.port
                with networks.at_server():
                    server.join_group(group, interface=name)
                    await client.send_to(b"hello", target)
                    datagram = await answer_one(server)
                    assert str(datagram.destination.host) == group
                    assert datagram.interface == index
                    # From a group nothing can be sent: an address of the interface it is.
                    answer = await client.receive_from()
                    assert not answer.address.host.is_multicast
                    assert answer.data == b"answer"
                    server.leave_group(group, interface=name)
                await client.send_to(b"nobody", target)
                await client.send_to(b"you", (addresses, target[1]))
                assert (await server.receive_from()).data == b"you"


@case
async def one_source_only(networks):
    for group, host, wanted, other, wildcard in (
        (SOURCED, SERVER, CLIENT, CLIENT_TOO, "0.0.0.0"),
        (SOURCED, "server", CLIENT, CLIENT_TOO, "0.0.0.0"),
        (SOURCED6, "server", CLIENT6, CLIENT6_TOO, "::"),
    ):
        sending = SocketOptions(multicast_interface="client")
        async with (
            await networks.server_socket((wildcard, 0)) as server,
            await make(local=(wanted, 0), options=sending) as first,
            await make(local=(other, 0), options=sending) as second,
        ):
            with networks.at_server():
                server.join_group(group, interface=host, source=wanted)
            target = group, server.local_address.port
            for sock in (second, first, second, first):
                await sock.send_to(b"hello", target)
            for _ in range(2):
                assert (await server.receive_from()).address == first.local_address
            assert await drain(server) == []
            with networks.at_server():
                server.leave_group(group, source=wanted)  # it was joined by one interface
            await first.send_to(b"nobody", target)
            await first.send_to(b"you", (SERVER if wildcard == "0.0.0.0" else SERVER6, target[1]))
            assert (await server.receive_from()).data == b"you"


@case
async def other_programs_groups_are_not_ours(networks):
    sharing = SocketOptions(reuse_address=True)
    sending = SocketOptions(multicast_interface="client")
    async with await networks.server_socket(("0.0.0.0", 0), sharing) as first:
        port = first.local_address.port
        async with (
            await networks.server_socket(("0.0.0.0", port), sharing) as second,
            await make(local=("0.0.0.0", 0), options=sending) as client,
        ):
            with networks.at_server():
                first.join_group(GROUP, interface="server")
                second.join_group("239.78.1.2", interface="server")
            await client.send_to(b"one", (GROUP, port))
            await client.send_to(b"two", ("239.78.1.2", port))
            assert (await first.receive_from()).data == b"one"
            assert (await second.receive_from()).data == b"two"
            assert await drain(first) == await drain(second) == []


@case
async def groups_are_left_at_close(networks):
    with networks.at_server():
        server = await make(local=("0.0.0.0", 0))
        kept = os.dup(server.fileno())  # the kernel would leave them with the last descriptor
        try:
            server.join_group(GROUP, interface="server")
            assert is_joined()
            await server.aclose()
            assert not is_joined()
        finally:
            os.close(kept)


def is_joined():
    """Whether the kernel lists `GROUP`."""
    return "01014EEF" in Path("/proc/thread-self/net/igmp").read_text("ascii")


@case
async def broadcasts_come_with_their_address(networks):
    async with (
        await networks.server_socket() as server,
        await make(local=(CLIENT, 0), options=SocketOptions(broadcast=True)) as client,
    ):
        for everybody in ("10.78.0.255", "255.255.255.255"):
            if everybody == "255.255.255.255":
                client.set_option("unicast_interface", socket.if_nametoindex("client"))
            await client.send_to(b"hello", (everybody, server.local_address.port))
            datagram = await answer_one(server)
            assert str(datagram.destination.host) == everybody
            assert str((await client.receive_from()).address.host) == SERVER


@case
async def a_closed_port_is_reported_by_its_host(networks):
    for host in (SERVER, SERVER6):
        wildcard = "0.0.0.0" if host == SERVER else "::"
        options = SocketOptions(receive_errors=True)
        async with await make(local=(wildcard, 0), options=options) as client:
            with trio.fail_after(5):
                await client.send_to(b"hello", (host, 9))
                with pytest.raises(ConnectionRefusedError) as info:
                    await client.receive_from()
            assert info.value.address == InternetAddress(ip_address(host), 9)
            assert str(info.value.offender.host) == host
            assert info.value.returned == b"hello"


@case
async def a_router_that_knows_no_way_is_named(networks):
    with networks.at_server():
        run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        run("ip", "route", "add", "unreachable", f"{ROUTED}/32")
    async with await make(local=(CLIENT, 0), options=SocketOptions(receive_errors=True)) as client:
        with trio.fail_after(5):
            await client.send_to(b"hello", (ROUTED, 9))
            with pytest.raises(DatagramError) as info:
                await client.receive_from()
        assert info.value.errno == errno.EHOSTUNREACH
        assert info.value.address == InternetAddress(ip_address(ROUTED), 9)
        assert info.value.offender == InternetAddress(ip_address(SERVER), 0)


@case
async def trains_over_the_paths_mtu_go_out_one_by_one(networks):
    for host in (SERVER, SERVER6):
        limit = 1472 if host == SERVER else 1452
        options = SocketOptions(receive_buffer=4 << 20)
        async with (
            await networks.server_socket((host, 0), options) as server,
            await make(remote=server.local_address) as client,
        ):
            for size in (limit + 1, limit, 3000):
                sent = [bytes([n]) * size for n in range(12)]
                assert await client.send_many((data, None) for data in sent) == 12
                received = []
                with trio.fail_after(5):
                    while len(received) < 12:
                        received += await server.receive_many()
                assert [datagram.data for datagram in received] == sent
            if supports("gso"):
                assert client._largest_segment == limit
                assert client._most_segments > 1


@case
async def trains_arrive_whole_over_a_wire(networks):
    options = SocketOptions(receive_buffer=4 << 20)
    async with (
        await networks.server_socket(options=options) as server,
        await make(remote=(SERVER, server.local_address.port)) as client,
    ):
        sent = [bytes([n % 251]) * 1200 for n in range(400)] + [b"tail"]
        assert await client.send_many((data, None) for data in sent) == 401
        received = []
        with trio.fail_after(5):
            while len(received) < 401:
                received += await server.receive_many(100)
        assert [datagram.data for datagram in received] == sent


@case
async def what_is_too_long_for_the_path_is_told_its_mtu(networks):
    options = SocketOptions(mtu_discovery=PathMTUDiscovery.DO)
    for hears in (False, True):
        asking = options | SocketOptions(receive_errors=hears)
        async with (
            await make(remote=(SERVER, 9), options=asking) as connected,
            await make(local=(CLIENT, 0), options=asking) as unconnected,
        ):
            for sock, target in ((connected, None), (unconnected, (SERVER, 9))):
                await refused_as_too_long(sock, target, 1473, 1500)
            run("ip", "link", "set", "client", "mtu", "1300")
            try:
                for sock, target in ((connected, None), (unconnected, (SERVER, 9))):
                    await refused_as_too_long(sock, target, 1400, 1300)
            finally:
                run("ip", "link", "set", "client", "mtu", "1500")


async def refused_as_too_long(sock, target, size, mtu):
    with pytest.raises(DatagramError, match=f"MTU is {mtu} bytes") as info:
        await sock.send_to(bytes(size), target)
    assert (info.value.errno, info.value.mtu) == (errno.EMSGSIZE, mtu)


@case
async def a_full_queue_of_the_interface_is_waited_for(networks):
    shaper = ("tc", "qdisc", "add", "dev", "client", "root", "tbf")
    run(*shaper, "rate", "40mbit", "burst", "3kb", "limit", "20kb")
    try:
        hearing = SocketOptions(receive_errors=True)
        slow = SocketOptions(send_buffer=4608)
        for options, loses in ((SocketOptions(), True), (hearing, False), (slow, False)):
            async with (
                await networks.server_socket(
                    options=SocketOptions(receive_buffer=4 << 20)
                ) as server,
                await make(remote=(SERVER, server.local_address.port), options=options) as client,
            ):
                with trio.fail_after(10):
                    for _ in range(200):
                        assert await client.send_to(bytes(1000)) == 1000
                    if loses:
                        # Silently: nobody asked to hear of it.
                        await trio.sleep(0.05)
                        assert len(await drain(server)) < 200
                    else:
                        for _ in range(200):
                            await server.receive_from()
    finally:
        run("tc", "qdisc", "del", "dev", "client", "root")


@case
async def a_link_that_is_down(networks):
    async with await make(remote=(SERVER, 9)) as client:
        with networks.at_server():
            run("ip", "link", "set", "server", "down")
        try:
            assert await client.send_to(b"hello") == 5  # nobody knows
        finally:
            with networks.at_server():
                run("ip", "link", "set", "server", "up")
        run("ip", "link", "set", "client", "down")
        try:
            with pytest.raises(DatagramError) as info:
                await client.send_to(b"hello")
            assert info.value.errno == errno.ENETUNREACH
        finally:
            run("ip", "link", "set", "client", "up")


async def go_through(networks, results):
    for name, function in CASES.items():
        try:
            with trio.fail_after(15):
                await function(networks)
        except BaseException:
            results[name] = traceback.format_exc()
        else:
            results[name] = None


if __name__ == "__main__":
    outcome = {}
    trio.run(go_through, Networks(), outcome)
    print(json.dumps(outcome))
