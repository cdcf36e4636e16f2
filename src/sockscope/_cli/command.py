"""What a command is made of, and the arguments that several have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass

from sockscope._addresses.designators import parse_designator
from sockscope._core.deadlines import check_timeout

ADDRESSES = (
    "An ADDRESS is HOST:PORT (a name or a literal, [::1]:80 for IPv6; port 0 for any that is\n"
    "free), unix:PATH, unix:@NAME for an abstract one, fd:N for a descriptor of this process,\n"
    "or activated:NAME for a socket of the service manager's."
)


class UsageError(Exception):
    """The command line makes no sense; found after parsing. Exit code 2."""


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
      name: how it is called.
      summary: what it does, in a line.
      description: the same at length, for its own help.
      example: a command line that works.
      add_arguments: adds its arguments to its parser.
      run: does it; returns the exit code.
    """

    name: str
    summary: str
    description: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def local_address(text: str) -> str:
    """*text*, an address to listen on."""
    return _address(text, passive=True)


def remote_address(text: str) -> str:
    """*text*, an address to connect to."""
    return _address(text, passive=False)


def _address(text: str, *, passive: bool) -> str:
    """Refuse what no socket can be opened for, before any is."""
    try:
        parse_designator(text, argument="address", passive=passive)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
    return text


def seconds(text: str) -> float:
    """*text* as a timeout."""
    try:
        return check_timeout(float(text))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc
