"""Frozen dataclasses with slots that refuse every change alike."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any, NoReturn, TypeVar

C = TypeVar("C", bound=type[Any])


def refuse_changes(cls: C) -> C:
    """Let assigning to any name, and deleting it, raise `dataclasses.FrozenInstanceError`.

    For a frozen dataclass with slots, over its ``@dataclass``: CPython makes that class a
    second time, and the method of the first knows the second's fields, but fails with a
    TypeError about super for every other name.

    The constructor does not come by here, so it is as fast as before.
    """
    for name, refuse in (("__setattr__", _refuse_assignment), ("__delattr__", _refuse_deletion)):
        setattr(cls, name, refuse)
    return cls


def _refuse_assignment(self: object, name: str, value: object) -> NoReturn:
    raise FrozenInstanceError(f"cannot assign to {name!r} of a frozen {type(self).__name__}")


def _refuse_deletion(self: object, name: str) -> NoReturn:
    raise FrozenInstanceError(f"cannot delete {name!r} of a frozen {type(self).__name__}")
