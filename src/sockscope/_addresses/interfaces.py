"""The machine's network interfaces, by psutil."""

from __future__ import annotations

import errno
import importlib
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import ModuleType
from typing import Any

from sockscope._core.errors import UnknownInterfaceError
from sockscope._core.frozen import refuse_changes


@refuse_changes
@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of a network interface.

    Attributes:
      address: the address, without a scope.
      scope_id: the interface's index where the address is of its link only, else 0.
      netmask: the mask of its network, or None where the system tells none.
      prefix_length: the same as a number of bits.
      broadcast: where datagrams for the whole network go; None where the system tells none,
        as on a loopback interface and with IPv6.
      peer: the other end of a point-to-point interface, else None.
    """

    address: IPv4Address | IPv6Address
    scope_id: int = 0
    netmask: IPv4Address | IPv6Address | None = None
    prefix_length: int | None = None
    broadcast: IPv4Address | IPv6Address | None = None
    peer: IPv4Address | IPv6Address | None = None


@refuse_changes
@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """A network interface.

    Attributes:
      name: such as ``"eth0"``.
      index: its number, as scopes have it; None where the system knows it by another name.
      addresses: its internet addresses, perhaps none.
      hardware_address: such as ``"02:00:5e:10:00:00"``, or None.
      flags: such as ``"up"``, ``"running"``, ``"loopback"``, ``"broadcast"``,
        ``"multicast"``, ``"pointopoint"``.
      mtu: the longest packet, in bytes.
      is_up: whether it is in use.
    """

    name: str
    index: int | None
    addresses: tuple[InterfaceAddress, ...]
    hardware_address: str | None
    flags: frozenset[str]
    mtu: int
    is_up: bool


def network_interfaces() -> list[NetworkInterface]:
    """List the machine's network interfaces, by index; those without an address, too.

    A plain function. Emacs has it as ``network-interface-list``, IOLib as
    ``list-network-interfaces``.

    Raises:
      ModuleNotFoundError: psutil is not installed; it comes with the extra ``interfaces``.
    """
    psutil = _psutil()
    stats = psutil.net_if_stats()
    entries: dict[str, list[Any]] = {}
    for name, found in psutil.net_if_addrs().items():
        # Linux gives an address that has a label (ip address add ... label eth0:1) under it.
        owner = name if name in stats else name.partition(":")[0]
        entries.setdefault(owner, []).extend(found)
    indices = {name: index for index, name in socket.if_nameindex()}
    ordered = sorted(stats, key=lambda name: (indices.get(name, 0), name))
    return [
        _interface(name, indices.get(name), stats[name], entries.get(name, []), psutil.AF_LINK)
        for name in ordered
    ]


def network_interface(name_or_index: str | int) -> NetworkInterface:
    """One network interface, by its name or its index.

    Args:
      name_or_index: such as ``"eth0"`` or ``2``.

    A plain function. Emacs has it as ``network-interface-info``, IOLib as
    ``lookup-interface``.

    Raises:
      UnknownInterfaceError: there is none.
      TypeError: *name_or_index* is neither a str nor an int.
      ModuleNotFoundError: psutil is not installed; it comes with the extra ``interfaces``.
    """
    if isinstance(name_or_index, bool) or not isinstance(name_or_index, (str, int)):
        raise TypeError(f"name_or_index must be a str or an int, not {name_or_index!r}")
    for interface in network_interfaces():
        if name_or_index in (interface.name, interface.index):
            return interface
    raise UnknownInterfaceError(errno.ENXIO, f"cannot find the network interface {name_or_index!r}")


def _psutil() -> ModuleType:
    """psutil, which takes longer to import than most programs need it: not before its use."""
    try:
        return importlib.import_module("psutil")
    except ModuleNotFoundError as exc:
        message = "network interfaces are read by psutil: pip install 'sockscope[interfaces]'"
        raise ModuleNotFoundError(message, name="psutil") from exc


def _interface(
    name: str, index: int | None, stats: Any, entries: list[Any], link_family: int
) -> NetworkInterface:
    internet = [entry for entry in entries if entry.family in (socket.AF_INET, socket.AF_INET6)]
    hardware = (entry.address for entry in entries if entry.family == link_family)
    return NetworkInterface(
        name=name,
        index=index,
        addresses=tuple(_address(entry, index or 0) for entry in internet),
        hardware_address=next(hardware, None),
        flags=frozenset(filter(None, stats.flags.split(","))),
        mtu=stats.mtu,
        is_up=stats.isup,
    )


def _address(entry: Any, index: int) -> InterfaceAddress:
    address = _host(entry.address)
    netmask = _host(entry.netmask) if entry.netmask else None
    return InterfaceAddress(
        address=address,
        scope_id=index if address.version == 6 and address.is_link_local else 0,
        netmask=netmask,
        prefix_length=None if netmask is None else int(netmask).bit_count(),
        broadcast=_host(entry.broadcast) if entry.broadcast else None,
        peer=_host(entry.ptp) if entry.ptp else None,
    )


def _host(text: str) -> IPv4Address | IPv6Address:
    return ip_address(text.partition("%")[0])
