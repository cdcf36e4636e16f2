"""IPv4-mapped IPv6 addresses: an IPv6 socket that is for both families."""

from __future__ import annotations

import pytest

from sockscope import open_socket, supports

pytestmark = pytest.mark.skipif(not supports("ipv6"), reason="this machine has no IPv6")

MAPPED = "::ffff:127.0.0.1"


@pytest.mark.parametrize("local", [None, ("::", 0), (MAPPED, 0)], ids=str)
async def test_a_datagram_socket_connects_to_one(local):
    async with open_socket(type="datagram", local=("127.0.0.1", 0)) as receiver:
        remote = MAPPED, receiver.local_address.port
        async with open_socket(remote, type="datagram", local=local) as sender:
            await sender.send_to(b"x")
            assert (await receiver.receive_from()).data == b"x"


async def test_a_datagram_socket_is_bound_to_one():
    async with open_socket(type="datagram", local=(MAPPED, 0)) as receiver:
        async with open_socket(type="datagram", local=("127.0.0.1", 0)) as sender:
            await sender.send_to(b"x", ("127.0.0.1", receiver.local_address.port))
            datagram = await receiver.receive_from()
            assert datagram == (b"x", sender.local_address, *datagram[2:])


async def test_a_listener_is_bound_to_one_and_a_stream_connects():
    async with open_socket(connect="passive", local=(MAPPED, 0)) as listener:
        assert listener.get_option("ipv6_only") is False
        for remote in (listener.address, ("127.0.0.1", listener.port)):
            async with open_socket(remote) as near, await listener.accept() as far:
                await near.send_all(b"x")
                assert await far.receive_some() == b"x"


async def test_others_stay_with_their_family():
    async with open_socket(connect="passive", local=("::1", 0)) as listener:
        assert listener.get_option("ipv6_only") is True
