"""``interfaces``: the machine's network interfaces."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any, Final

from sockscope._addresses.interfaces import InterfaceAddress, NetworkInterface, network_interfaces
from sockscope._cli.command import Command
from sockscope._cli.output import say, table

_COLUMNS: Final = ("name", "index", "up", "mtu", "hardware address", "flags", "addresses")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a list of objects")


def _run(arguments: argparse.Namespace) -> int:
    found = network_interfaces()
    if arguments.json:
        say(json.dumps([_plain(interface) for interface in found], indent=2))
    else:
        table(_COLUMNS, [_row(interface) for interface in found])
    return 0


def _row(interface: NetworkInterface) -> tuple[object, ...]:
    return (
        interface.name,
        interface.index,
        interface.is_up,
        interface.mtu,
        interface.hardware_address,
        " ".join(sorted(interface.flags)),
        " ".join(map(_short, interface.addresses)),
    )


def _short(address: InterfaceAddress) -> str:
    length = address.prefix_length
    return str(address.address) if length is None else f"{address.address}/{length}"


def _plain(interface: NetworkInterface) -> dict[str, Any]:
    """*interface* in values that JSON can hold."""
    values = dataclasses.asdict(interface)
    values["flags"] = sorted(interface.flags)
    values["addresses"] = [
        {
            name: value if value is None or isinstance(value, int) else str(value)
            for name, value in address.items()
        }
        for address in values["addresses"]
    ]
    return values


COMMAND = Command(
    name="interfaces",
    summary="the network interfaces of this machine",
    description=(
        "Print every network interface with its addresses.\n"
        "It needs psutil: pip install 'sockscope[interfaces]'."
    ),
    example="python -m sockscope interfaces --json",
    add_arguments=_add_arguments,
    run=_run,
)
