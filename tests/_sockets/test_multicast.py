"""Joining and leaving groups on this machine; two_networks.py has what goes over a wire."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from sockscope._addresses.values import InternetAddress
from sockscope._core.errors import SocketError, UnknownInterfaceError
from sockscope._options.values import SocketOptions
from sockscope._sockets import multicast
from tests._sockets.datagrams import INTERNET, needs_ipv6, opened

GROUPS = {"ipv4": "239.78.2.1", "ipv6": "ff15::7802"}
LOOP = stdlib_socket.if_nametoindex("lo") if hasattr(stdlib_socket, "if_nametoindex") else 1
TO_LOOP = SocketOptions(multicast_interface="lo")


@pytest.mark.parametrize(
    "form",
    [str, IPv4Address, lambda group: InternetAddress(IPv4Address(group), 0), lambda g: g.encode()],
)
async def test_a_group_is_any_form_of_its_address(form):
    async with opened(local=("0.0.0.0", 0), options=TO_LOOP) as sock:
        group = GROUPS["ipv4"]
        sock.join_group(form(group), interface="lo")
        await sock.send_to(b"hello", (group, sock.local_address.port))
        assert (await sock.receive_from()).data == b"hello"
        sock.leave_group(form(group))


@pytest.mark.parametrize("family", INTERNET)
@pytest.mark.parametrize("interface", ["lo", LOOP, "address"])
async def test_joined_and_left(family, interface):
    group = GROUPS[family]
    if interface == "address":
        interface = {"ipv4": IPv4Address("127.0.0.1"), "ipv6": "::1"}[family]
    wildcard = {"ipv4": "0.0.0.0", "ipv6": "::"}[family]
    async with opened(local=(wildcard, 0)) as sock:
        for _ in range(2):
            sock.join_group(group, interface=interface)
            with pytest.raises(SocketError, match="joined already"):
                sock.join_group(group, interface=interface)
            sock.leave_group(group, interface=interface)


async def test_what_was_left_is_not_received():
    async with opened(local=("0.0.0.0", 0), options=TO_LOOP) as sock:
        target = GROUPS["ipv4"], sock.local_address.port
        for data in (b"one", b"two"):
            sock.join_group(target[0], interface="lo")
            await sock.send_to(data, target)
            assert (await sock.receive_from()).data == data
            sock.leave_group(target[0])
            await sock.send_to(b"nobody", target)


async def test_a_dual_stack_socket_joins_ipv4_groups():
    async with opened(local=(None, 0), options=TO_LOOP) as sock:
        sock.join_group(GROUPS["ipv4"], interface="lo")
        await sock.send_to(b"hello", (GROUPS["ipv4"], sock.local_address.port))
        assert (await sock.receive_from()).data == b"hello"


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"group": "127.0.0.1"}, ValueError, "multicast address"),
        ({"group": "group.example"}, ValueError, "resolve"),
        ({"group": "239.300.1.1"}, ValueError, "group="),
        ({"group": 1.5}, TypeError, "group="),
        ({"group": "239.1.1.1", "source": "::1"}, ValueError, "another family"),
        ({"group": "239.1.1.1", "interface": "nosuch0"}, UnknownInterfaceError, "nosuch0"),
        ({"group": "239.1.1.1", "interface": "no.such"}, ValueError, "interface"),
        ({"group": "239.1.1.1", "interface": -1}, ValueError, "index"),
        ({"group": "239.1.1.1", "interface": 1.5}, TypeError, "interface"),
        ({"group": "239.1.1.1", "interface": True}, TypeError, "interface"),
        ({"group": "ff15::1", "interface": "2001:db8::99"}, UnknownInterfaceError, "2001:db8::99"),
    ],
)
async def test_a_bad_argument_is_named(arguments, error, match):
    async with opened(local=("0.0.0.0", 0)) as sock:
        with pytest.raises(error, match=match):
            sock.join_group(**arguments)


async def test_what_the_system_refuses_says_why():
    async with opened(local=("0.0.0.0", 0)) as sock:
        sock.join_group("239.78.2.1", interface="lo")
        with pytest.raises(SocketError, match="joined already") as info:
            sock.join_group("239.78.2.1", interface="lo")
        assert info.value.errno == errno.EADDRINUSE
        with pytest.raises(SocketError, match="by which interface") as info:
            sock.join_group("239.78.2.1", interface=999_999)
        assert info.value.errno == errno.ENODEV
        with pytest.raises(SocketError, match=r"leave the group 239\.78\.2\.9") as info:
            sock.leave_group("239.78.2.9", interface="lo")
        assert info.value.errno == errno.EADDRNOTAVAIL
        with pytest.raises(SocketError, match=r"from 127\.0\.0\.9"):
            sock.leave_group("239.78.2.1", interface="lo", source="127.0.0.9")


async def test_what_others_joined_on_the_descriptor_can_be_left():
    async with opened(local=("0.0.0.0", 0)) as sock:
        membership = multicast.parse_membership("239.78.2.1", "lo", None)
        multicast.join(sock._sock, membership)
        sock.leave_group("239.78.2.1", interface="lo")
        with pytest.raises(SocketError):
            sock.leave_group("239.78.2.1", interface="lo")


async def test_of_several_interfaces_one_must_be_named(monkeypatch):
    async with opened(local=("0.0.0.0", 0)) as sock:
        sock.join_group("239.78.2.1", interface="lo")
        sock._memberships.append(sock._memberships[0]._replace(raw=bytes(12)))
        with pytest.raises(SocketError, match="2 interfaces"):
            sock.leave_group("239.78.2.1")
        sock.leave_group("239.78.2.1", interface="lo")
        # What the kernel has forgotten is no trouble at close.
        assert len(sock._memberships) == 1


async def test_other_programs_groups_stay_out_unless_asked():
    async with opened(local=("0.0.0.0", 0)) as sock:
        sock.join_group("239.78.2.1", interface="lo")
        assert sock.get_option("multicast_all") is False
    stated = SocketOptions(multicast_all=True)
    async with opened(local=("0.0.0.0", 0), options=stated) as sock:
        sock.join_group("239.78.2.1", interface="lo")
        assert sock.get_option("multicast_all") is True


def test_where_the_system_has_no_such_option():
    membership = multicast.parse_membership("239.78.2.1", "lo", "127.0.0.1")
    lacking = membership._replace(options=membership.options._replace(join=None))
    with pytest.raises(SocketError, match="no such option"):
        multicast.join(None, lacking)


def test_where_options_are_unknown_nothing_is_set(monkeypatch):
    monkeypatch.setattr(multicast, "_MULTICAST_ALL", ((0, None),))
    multicast.only_own_groups(None)


@needs_ipv6
def test_where_the_table_of_addresses_cannot_be_read(monkeypatch):
    def fail(*_, **__):
        raise OSError

    monkeypatch.setattr("builtins.open", fail)
    with pytest.raises(UnknownInterfaceError, match="name or index"):
        multicast._index_of_address(IPv6Address("::1"))
