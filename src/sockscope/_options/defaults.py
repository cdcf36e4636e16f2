"""What sockscope sets where the user states nothing: what every modern library agrees on."""

from __future__ import annotations

import dataclasses
import functools
import sys

from sockscope._options import kinds
from sockscope._options.plan import Role
from sockscope._options.values import SocketOptions

# As Trio's own streams have it: what is queued in the kernel stays fresh.
UNSENT_LOW_WATER = 16384


@functools.lru_cache(maxsize=32)
def _defaults(kind: str, role: Role) -> SocketOptions:
    if kind not in kinds.TCP:
        return SocketOptions()
    # On a listening socket for its children, which inherit them on Linux.
    values = SocketOptions(
        nodelay=True,
        unsent_low_water=UNSENT_LOW_WATER,
        preferred=frozenset({"nodelay", "unsent_low_water"}),
    )
    if role != "passive":
        return values
    if sys.platform == "win32":
        return values.replace(exclusive_address_use=True)
    return values.replace(reuse_address=True)


def default_options(*, family: int, type: int, role: Role) -> SocketOptions:
    """What a socket gets without being asked for it.

    TCP streams: no delay for small segments, and at most 16 KiB unsent in the kernel; it is
    no error where the system has neither. Passive ones also the reuse of their address
    (on Windows its exclusive use).

    Args:
      family: AF_INET, AF_INET6, AF_UNIX or another.
      type: SOCK_STREAM, SOCK_DGRAM or another.
      role: what becomes of the socket: it connects, it is bound, or it was accepted.
    """
    return _defaults(kinds.kind_of(family, type), role)


@functools.lru_cache(maxsize=128)
def _merged(options: SocketOptions, kind: str, role: Role) -> SocketOptions:
    merged = _defaults(kind, role) | options
    stated = {option.name for option, _ in options.stated()}
    # What the user states is required, although our default for it is not.
    preferred = frozenset(options.preferred) | (frozenset(merged.preferred) - stated)
    return dataclasses.replace(merged, preferred=preferred)


def with_defaults(
    options: SocketOptions,
    *,
    family: int,
    type: int,
    role: Role,
) -> SocketOptions:
    """*options* over `default_options`: whatever is stated wins, and is required."""
    return _merged(options, kinds.kind_of(family, type), role)


NO_OPTIONS = SocketOptions()
"""What ``options=None`` stands for."""
