"""The option table: its parts put together, and found by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any, get_type_hints

from sockscope._core.errors import UnknownOptionError
from sockscope._options.model import Option
from sockscope._options.table_readonly import READ_ONLY
from sockscope._options.table_socket import SocketLevelOptions

OptionFields = SocketLevelOptions


def _rows() -> Iterator[Option]:
    """A row a field, in the order in which they are set, then the read-only ones."""
    hints = get_type_hints(OptionFields, include_extras=True)
    for field in fields(OptionFields):
        yield replace(hints[field.name].__metadata__[0], name=field.name)
    yield from READ_ONLY


TABLE: Mapping[str, Option] = {row.name: row for row in _rows()}
"""Every option by its name."""

SETTABLE: tuple[Option, ...] = tuple(TABLE[field.name] for field in fields(OptionFields))
"""Those that are fields of `SocketOptions`, in the order in which they are set."""


def nearest(name: str, known: Mapping[str, Any] = TABLE) -> str:
    """The end of a message for an unknown *name*: the nearest one that there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def find(name: str) -> Option:
    """The row of *name*.

    Raises:
      UnknownOptionError: there is none; the message gives the nearest one that there is.
    """
    row = TABLE.get(name) if isinstance(name, str) else None
    if row is None:
        hint = nearest(name) if isinstance(name, str) else ""
        raise UnknownOptionError(None, f"there is no option {name!r}{hint}", option=name)
    return row
