"""``options``: the option table, as this machine has it."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Sequence
from typing import Any, Final

from sockscope._cli.command import Command, UsageError
from sockscope._cli.output import say, table
from sockscope._core.errors import UnknownOptionError
from sockscope._options import kinds
from sockscope._options.features import supports
from sockscope._options.kernel import system_default
from sockscope._options.model import Option, Phase
from sockscope._options.table import TABLE, find

_COLUMNS: Final = ("name", "type", "unit", "phase", "supported", "default", "inherited")
# A type that has a unit or a range: "int bytes, 0 to 65535", "float seconds, inf for none".
_NUMBER: Final = re.compile(r"(int|float|str|bytes)(?: ([a-z ]+))?, ")
# The default is of the first kind that has the option.
_KINDS: Final = (
    kinds.TCP4,
    kinds.TCP6,
    kinds.UDP4,
    kinds.UDP6,
    kinds.LOCAL_STREAM,
    kinds.LOCAL_DATAGRAM,
    kinds.RAW4,
    kinds.RAW6,
)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print a list of objects")
    parser.add_argument("name", metavar="NAME", nargs="*", help="the options; default: all")


def _run(arguments: argparse.Namespace) -> int:
    try:
        rows = option_rows(arguments.name)
    except UnknownOptionError as exc:
        raise UsageError(exc.strerror) from exc
    if arguments.json:
        say(json.dumps(rows, indent=2))
    else:
        table(_COLUMNS, [[row[column] for column in _COLUMNS] for row in rows])
    return 0


def option_rows(names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The table as this machine has it, in values that JSON can hold.

    Args:
      names: of the options; none for all.

    Raises:
      UnknownOptionError: there is no such option.
      SocketError: there was no descriptor or memory to try it with.
    """
    return [_row(find(name)) for name in names or TABLE]


def _row(option: Option) -> dict[str, Any]:
    type_name, unit = type_and_unit(option)
    supported = supports(option.name)
    return {
        "name": option.name,
        "type": type_name,
        "unit": unit,
        "phase": option.phase.value,
        "supported": supported,
        "default": _default(option) if supported else None,
        "inherited": not option.user and bool(option.inherited & option.suited),
    }


def type_and_unit(option: Option) -> tuple[str, str | None]:
    """The type of an option's values, and their unit where they have one."""
    name = option.codec.type_name
    if match := _NUMBER.match(name):
        return match[1], match[2]
    return name.partition(":")[0], None


def _default(option: Option) -> Any:
    """What a fresh socket has; None for what is only read or never given back."""
    if option.phase is Phase.READ_ONLY:
        return None
    # Our own timers: none is set.
    value = math.inf if option.user else _default_of_a_kind(option)
    return None if value is None else option.codec.plain(value)


def _default_of_a_kind(option: Option) -> Any:
    for kind in _KINDS:
        if kind in option.suited and option.is_readable(kind):
            try:
                return system_default(option, kind)
            except OSError:
                continue  # no such socket for this machine or user; or it tells on connections only
    return None


COMMAND = Command(
    name="options",
    summary="the socket options, and what this machine makes of them",
    description=(
        "Print every option, or those of the NAMEs: its type and unit, when it takes effect,\n"
        "whether this machine has it (and this user may set it), the system's default, and\n"
        "whether a connection starts with the value of the listening socket it came from."
    ),
    example="python -m sockscope options --json nodelay keepalive",
    add_arguments=_add_arguments,
    run=_run,
)
