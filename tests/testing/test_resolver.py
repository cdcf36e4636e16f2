"""ScriptedResolver answers as the real one would, from its script, within Trio's hooks."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from sockscope.testing import ScriptedResolver

SCRIPT = {
    "two.test": ["::1", "127.0.0.1"],
    "four.test": ["127.0.0.2"],
    "failing.test": socket.gaierror(socket.EAI_AGAIN, "try again"),
    "broken.test": OSError(5, "resolver is broken"),
}


async def addresses(name, **arguments):
    entries = await trio.socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM, **arguments)
    return [entry[4][0] for entry in entries]


@pytest.fixture
def resolver():
    return ScriptedResolver(SCRIPT, delays={"two.test": 3.0})


async def test_order_and_families_are_the_scripts(resolver, autojump_clock):
    with resolver:
        assert await addresses("two.test") == ["::1", "127.0.0.1"]
        assert await addresses("two.test", family=socket.AF_INET) == ["127.0.0.1"]
        assert await addresses("TWO.test", family=socket.AF_INET6) == ["::1"]
    assert resolver.queries == ["two.test"] * 3


@pytest.mark.parametrize("port", [80, "80", "http"])
async def test_entries_are_whole(resolver, port):
    with resolver:
        entries = await trio.socket.getaddrinfo(
            "four.test", port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    address = ("127.0.0.2", 80)
    assert entries == [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", address)]


async def test_delay_is_by_trios_clock(resolver, autojump_clock):
    with resolver:
        start = trio.current_time()
        await addresses("two.test")
        assert trio.current_time() == start + 3
        await addresses("four.test")
        assert trio.current_time() == start + 3


@pytest.mark.parametrize(
    ("name", "arguments", "number"),
    [
        ("unknown.test", {}, socket.EAI_NONAME),
        ("failing.test", {}, socket.EAI_AGAIN),
        ("broken.test", {}, 5),
        (
            "four.test",
            {"family": socket.AF_INET6},
            getattr(socket, "EAI_ADDRFAMILY", socket.EAI_NONAME),
        ),
    ],
)
async def test_errors(resolver, name, arguments, number):
    with resolver, pytest.raises(OSError) as caught:
        await addresses(name, **arguments)
    assert caught.value.errno == number


async def test_restores_the_resolver_before(resolver):
    outer = ScriptedResolver({"outer.test": ["127.0.0.3"]})
    with outer:
        with resolver:
            assert await addresses("four.test") == ["127.0.0.2"]
        assert await addresses("outer.test") == ["127.0.0.3"]
    assert trio.socket.set_custom_hostname_resolver(None) is None


async def test_trios_own_functions_use_it(resolver):
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.2")
    async with listener:
        with resolver:
            port = listener.socket.getsockname()[1]
            async with await trio.open_tcp_stream("four.test", port) as stream:
                assert stream.socket.getpeername() == ("127.0.0.2", port)


class TestGetnameinfo:
    async def test_names_come_from_the_script(self, resolver):
        with resolver:
            assert await trio.socket.getnameinfo(("127.0.0.2", 80), socket.NI_NUMERICSERV) == (
                "four.test",
                "80",
            )

    async def test_a_number_where_it_is_asked_for_or_nothing_known(self, resolver):
        flags = socket.NI_NUMERICSERV
        with resolver:
            assert await trio.socket.getnameinfo(
                ("127.0.0.2", 80), flags | socket.NI_NUMERICHOST
            ) == ("127.0.0.2", "80")
            assert (await trio.socket.getnameinfo(("127.0.0.9", 80), flags))[0] == "127.0.0.9"

    async def test_a_name_is_demanded(self, resolver):
        with resolver, pytest.raises(socket.gaierror) as caught:
            await trio.socket.getnameinfo(("127.0.0.9", 80), socket.NI_NAMEREQD)
        assert caught.value.errno == socket.EAI_NONAME


async def test_look_ups_are_checkpoints(resolver):
    with trio.testing.assert_checkpoints():
        await resolver.getaddrinfo(b"four.test", 80)
    with trio.testing.assert_checkpoints():
        await resolver.getnameinfo(("127.0.0.1", 80), 0)
