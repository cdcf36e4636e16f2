"""Limits: how many connections, how fast, from whom; and what a limit refuses."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Network, ip_address

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from sockscope import SocketOptions, accept_connection, open_socket, serve_passive
from sockscope._serve.limits import (
    Gate,
    HostLimit,
    HostNumber,
    TokenBucket,
    packed_host,
    parse_host_limit,
    parse_networks,
)
from sockscope.testing import serving
from tests._serve.waiting import until

LOCALHOST = ("127.0.0.1", 0)


async def echo(stream):
    async for data in stream:
        await stream.send_all(data)


async def stay(stream):
    await trio.sleep_forever()


async def ask(address, **arguments):
    """Whether a server at *address* answers."""
    try:
        with trio.fail_after(5):
            async with open_socket(address, **arguments) as stream:
                await stream.send_all(b"x")
                return await stream.receive_some() == b"x"
    except (OSError, trio.BrokenResourceError):
        return False


async def busy(server, number, nursery):
    """Open *number* connections and keep them open until the nursery is cancelled."""

    async def hold(task_status):
        async with open_socket(server.addresses[0]) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            task_status.started(stream)
            await trio.sleep_forever()

    return [await nursery.start(hold) for _ in range(number)]


def total(statistics):
    """What `accepted` is the sum of."""
    return (
        statistics.active
        + statistics.finished
        + statistics.handler_errors
        + statistics.timed_out
        + statistics.resets
        + statistics.option_failures
        + sum(statistics.refused.values())
        + sum(statistics.upgrade_failures.values())
    )


async def test_at_max_connections_others_wait_in_the_queue():
    async with serving(echo, max_connections=2) as server, trio.open_nursery() as nursery:
        first, _ = await busy(server, 2, nursery)
        answered = trio.Event()

        async def late():
            assert await ask(server.addresses[0])
            answered.set()

        nursery.start_soon(late)
        with trio.move_on_after(0.05):
            await answered.wait()
        assert not answered.is_set()
        assert server.statistics().accepted == 2
        assert server.statistics().listeners[0].queue == 1
        await first.aclose()
        with trio.fail_after(5):
            await answered.wait()
        nursery.cancel_scope.cancel()
    assert server.statistics().refused == {}


async def test_at_max_connections_others_are_rejected():
    async with serving(echo, max_connections=2, overload="reject") as server:
        async with trio.open_nursery() as nursery:
            await busy(server, 2, nursery)
            for _ in range(3):
                assert not await ask(server.addresses[0])
            nursery.cancel_scope.cancel()
        await until(lambda: not server.connections)
        assert await ask(server.addresses[0])
    statistics = server.statistics()
    assert statistics.refused == {"max_connections": 3}
    assert (statistics.accepted, total(statistics)) == (6, 6)


async def test_the_queue_is_served_within_the_limit_when_the_server_stops():
    most = running = 0

    async def handler(stream):
        nonlocal most, running
        running += 1
        most = max(most, running)
        await echo(stream)
        running -= 1

    answers = []

    async def client(address, connected):
        async with open_socket(address) as stream:
            connected.release()
            await stream.send_all(b"x")
            answers.append(await stream.receive_some())

    async with trio.open_nursery() as nursery:
        connected = trio.Semaphore(0)
        async with serving(handler, max_connections=1, drain_timeout=5) as server:
            server.pause()
            for _ in range(5):
                nursery.start_soon(client, server.addresses[0], connected)
            for _ in range(5):
                await connected.acquire()
    assert answers == [b"x"] * 5
    assert most == 1
    assert server.statistics().finished == 5


async def test_what_still_waits_for_its_turn_is_cut_by_the_deadline():
    outcomes = []
    async with trio.open_nursery() as nursery:

        async def client(address, connected):
            async with open_socket(address) as stream:
                connected.release()
                assert await stream.receive_some() == b""

        connected = trio.Semaphore(0)
        async with serve_passive(
            LOCALHOST,
            stay,
            max_connections=1,
            drain_timeout=0.05,
            on_close=lambda stream, outcome: outcomes.append(outcome),
        ) as server:
            server.pause()
            for _ in range(3):
                nursery.start_soon(client, server.addresses[0], connected)
            for _ in range(3):
                await connected.acquire()
    assert outcomes == ["cancelled"] * 3
    assert server.statistics().cut == 3
    assert server.statistics().accepted == total(server.statistics()) == 3


async def test_a_limit_counts_over_all_listeners():
    async with serving(
        echo, [LOCALHOST, LOCALHOST], max_connections=1, overload="reject"
    ) as server:
        one, two = server.addresses
        async with open_socket(one) as stream:
            await stream.send_all(b"x")
            await stream.receive_some()
            assert not await ask(two)
        await until(lambda: not server.connections)
        assert await ask(two)


async def test_accept_rate_rejects_beyond_a_seconds_worth():
    async with serving(echo, accept_rate=3, overload="reject") as server:
        answers = [await ask(server.addresses[0]) for _ in range(5)]
    assert answers == [True] * 3 + [False] * 2
    assert server.statistics().refused == {"accept_rate": 2}


async def test_accept_rate_lets_others_wait(autojump_clock):
    async with serving(echo, accept_rate=2.0) as server:
        began = trio.current_time()
        for _ in range(6):
            assert await ask(server.addresses[0])
        assert trio.current_time() - began >= 2.0  # two at once, and two each second
    assert server.statistics().refused == {}


def test_token_bucket(autojump_clock):
    async def main():
        bucket = TokenBucket(0.5)
        assert bucket.available() == 1  # less than one a second still lets one pass
        bucket.take()
        assert bucket.available() == 0
        await bucket.wait()
        assert trio.current_time() == pytest.approx(2.0, abs=1e-3)
        assert bucket.available() >= 1
        await trio.sleep(1000)
        assert bucket.available() == 1

    trio.run(main, clock=autojump_clock)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"deny": "127.0.0.0/8"}, "deny"),
        ({"deny": ["::1", "10.0.0.0/8", "127.0.0.1"], "allow": "127.0.0.1"}, "deny"),
        ({"deny": ["::ffff:127.0.0.0/104"]}, "deny"),
        ({"allow": ["192.0.2.0/24", "::/0"]}, "allow"),
        ({"allow": []}, "allow"),
        ({"allow": IPv4Address("127.0.0.1")}, None),
        ({"allow": "127.0.0.0/8", "deny": "127.0.0.2"}, None),
        ({"allow": "::ffff:0:0/96"}, None),
        ({"deny": "::/0"}, None),
    ],
)
@pytest.mark.parametrize("local", ["127.0.0.1", None], ids=["ipv4", "dual-stack"])
async def test_networks(limits, reason, local):
    async with serving(echo, (local, 0), **limits) as server:
        assert await ask(("127.0.0.1", server.port)) is (reason is None)
    assert server.statistics().refused == ({} if reason is None else {reason: 1})


async def test_ipv6_networks():
    try:
        async with serving(echo, ("::1", 0), deny="::1") as server:
            assert not await ask(server.addresses[0])
    except OSError as exc:
        pytest.skip(f"no IPv6 here: {exc}")
    assert server.statistics().refused == {"deny": 1}


async def test_local_sockets_have_no_hosts(tmp_path):
    limits = {"allow": "192.0.2.1", "deny": "0.0.0.0/0", "max_connections_per_host": 1}
    async with serving(echo, tmp_path / "s", **limits) as server:
        async with open_socket(server.addresses[0]):
            assert await ask(server.addresses[0])


async def test_who_finds_no_room_does_not_count_for_its_host():
    limits = {"max_connections": 1, "max_connections_per_host": 1, "overload": "reject"}
    async with serving(echo, **limits) as server:
        address = server.addresses[0]
        async with open_socket(address) as first:
            await first.send_all(b"x")
            await first.receive_some()
            # A blocking connect: it is over before the reset can come.
            with socket.create_connection(("127.0.0.1", address.port), 5, ("127.0.0.2", 0)):
                await until(lambda: server.statistics().refused)
        await until(lambda: not server.connections)
        async with open_socket(address, local=("127.0.0.2", 0)) as second:
            await second.send_all(b"x")
            assert await second.receive_some() == b"x"
    assert server.statistics().refused == {"max_connections": 1}


async def test_connections_per_host():
    async with serving(echo, max_connections_per_host=2) as server:
        async with trio.open_nursery() as nursery:
            await busy(server, 2, nursery)
            assert not await ask(server.addresses[0])
            assert await ask(server.addresses[0], local=("127.0.0.2", 0))
            nursery.cancel_scope.cancel()
        await until(lambda: not server.connections)
        assert await ask(server.addresses[0])
    assert server.statistics().refused == {"max_connections_per_host": 1}


@pytest.mark.parametrize(
    ("limit", "same", "other"),
    [
        (HostNumber(1), ["2001:db8::1", "2001:db8::ffff:1"], "2001:db8:0:1::1"),
        (HostNumber(1, 48), ["2001:db8::1", "2001:db8:0:1::1"], "2001:db8:1::1"),
        (HostNumber(1, 128), ["2001:db8::1", "2001:db8::1"], "2001:db8::2"),
        (HostNumber(1), ["192.0.2.1", "192.0.2.1"], "192.0.2.2"),
    ],
)
def test_what_a_host_is(limit, same, other):
    hosts = HostLimit(limit)
    first, second = (ip_address(text).packed for text in same)
    assert hosts.enter("first", first)
    assert not hosts.enter("second", second)
    assert hosts.enter("third", ip_address(other).packed)
    hosts.leave("second")  # it was never counted
    assert not hosts.enter("second", second)
    hosts.leave("first")
    assert hosts.enter("second", second)


async def test_a_refused_connection_is_reset_and_nobody_is_told():
    told = []
    async with serving(echo, deny="127.0.0.1", on_open=told.append) as server:
        with socket.create_connection(("127.0.0.1", server.port)) as client:
            with pytest.raises(ConnectionResetError):
                await trio.to_thread.run_sync(client.recv, 1)
        assert server.connections == frozenset()
    assert told == []


async def test_by_hand_as_well():
    async with serve_passive(
        LOCALHOST, max_connections=1, deny="127.0.0.2", drain_timeout=0
    ) as server:
        async with open_socket(server.addresses[0], local=("127.0.0.2", 0)):
            async with open_socket(server.addresses[0]):
                async with accept_connection(server) as stream:
                    assert str(stream.remote_address).startswith("127.0.0.1:")
                    async with open_socket(server.addresses[0]):
                        with pytest.raises(trio.WouldBlock):
                            async with accept_connection(server, wait=False):
                                pass  # pragma: no cover  # there is no room
    assert server.statistics().refused == {"deny": 1}


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"max_connections": 0}, ValueError, "max_connections must be at least 1"),
        ({"max_connections": 1.5}, TypeError, "max_connections must be an int"),
        ({"max_connections": True}, TypeError, "max_connections"),
        ({"max_connections_per_host": 0}, ValueError, "max_connections_per_host"),
        ({"max_connections_per_host": "2"}, TypeError, "max_connections_per_host"),
        ({"max_connections_per_host": (1,)}, ValueError, "prefix_length"),
        ({"max_connections_per_host": (1, 129)}, ValueError, "at most 128"),
        ({"max_connections_per_host": (1, 0)}, ValueError, "prefix length"),
        ({"accept_rate": 0}, ValueError, "accept_rate"),
        ({"accept_rate": float("nan")}, ValueError, "accept_rate"),
        ({"accept_rate": "5"}, TypeError, "accept_rate"),
        ({"accept_rate": True}, TypeError, "accept_rate"),
        ({"allow": "nowhere"}, ValueError, "allow: 'nowhere'"),
        ({"deny": ["10.0.0.1/8"]}, ValueError, "deny: 10.0.0.1/8 has host bits set"),
        ({"deny": [10]}, TypeError, "deny"),
        ({"deny": 10}, TypeError, "deny"),
        ({"allow": b"\x7f\0\0\1"}, TypeError, "allow"),
        ({"lifetime": 0}, ValueError, "lifetime"),
        ({"idle_timeout": -1}, ValueError, "idle_timeout"),
        ({"overload": "shed"}, ValueError, "overload"),
    ],
)
async def test_arguments_are_checked_before_anything_is_opened(arguments, error, words):
    with pytest.raises(error, match=words):
        async with serve_passive(LOCALHOST, echo, **arguments):
            pass  # pragma: no cover  # it raises before


async def test_infinite_limits_are_none():
    async with serving(echo, accept_rate=float("inf")) as server:
        assert server._connections.gate is None


def test_a_host_limit_with_its_prefix():
    assert parse_host_limit((3, 56)) == HostNumber(3, 56)
    assert parse_host_limit(3) == HostNumber(3, 64)


@given(st.ip_addresses(), st.integers(0, 128))
def test_a_network_has_the_hosts_that_ipaddress_says(host, length):
    length = min(length, host.max_prefixlen)
    networks = parse_networks([f"{host}/{host.max_prefixlen}"], "allow")
    unmapped = getattr(host, "ipv4_mapped", None) or host
    assert unmapped.packed in networks
    size = host.max_prefixlen
    around = type(host)(int(host) >> (size - length) << (size - length))
    assert host.packed in parse_networks(f"{around}/{length}", "allow") or unmapped is not host


def test_mapped_networks_are_ipv4():
    networks = parse_networks(IPv6Network("::ffff:192.0.2.0/120"), "deny")
    assert IPv4Address("192.0.2.77").packed in networks
    assert IPv4Address("192.0.3.1").packed not in networks


async def test_the_peers_address_may_have_been_asked_for_before():
    async with serving(echo, options=SocketOptions(reuse_address=True)) as server:
        async with open_socket(server.addresses[0]) as client:
            await client.send_all(b"x")
            await client.receive_some()
            [stream] = server.connections
            assert packed_host(stream) == b"\x7f\0\0\1"
            assert str(stream.remote_address).startswith("127.0.0.1")
            assert packed_host(stream) == b"\x7f\0\0\1"


async def test_a_gate_without_a_rate_waits_for_a_place():
    freed = trio.lowlevel.ParkingLot()
    gate = Gate.of(1, None, "wait", lambda: 1, freed)
    assert gate.room() == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(gate.wait)
        await trio.testing.wait_all_tasks_blocked()
        freed.unpark_all()
