"""The codecs of values that are more than a number: structs, timings, keys."""

from __future__ import annotations

import ipaddress
import math
import struct
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from sockscope._options.codec import (
    INT_MAX,
    Bytes,
    Codec,
    Int,
    Raw,
    Text,
    as_bytes,
    integer,
    wrong_type,
)
from sockscope._options.value_types import DeadPeer, KeepAlive, Linger, TransmitTime

# Two ints, but two shorts on Windows.
_LINGER = struct.Struct("=HH" if sys.platform == "win32" else "=ii")


class LingerCodec(Codec["Linger | bool"]):
    """`Linger`, or False for none: closing returns at once, the kernel goes on sending."""

    type_name = "Linger, or False"
    size = _LINGER.size

    def check(self, name: str, value: Any) -> Linger | bool:
        if value is not False and not isinstance(value, Linger):
            raise wrong_type(name, "a Linger or False", value)
        return value

    def pack(self, value: Linger | bool) -> Raw:
        if isinstance(value, Linger):
            return _LINGER.pack(1, math.ceil(value.seconds))
        return _LINGER.pack(0, 0)

    def unpack(self, raw: Raw) -> Linger | bool:
        on, seconds = _LINGER.unpack(as_bytes(raw))
        # Others may have stored a negative time, which Linux takes.
        return Linger(min(max(seconds, 0), 65535)) if on else False

    def plain(self, value: Linger | bool) -> Any:
        return value.seconds if isinstance(value, Linger) else value

    def from_plain(self, name: str, plain: Any) -> Any:
        is_number = isinstance(plain, (int, float)) and not isinstance(plain, bool)
        return Linger(plain) if is_number else plain


class KeepAliveCodec(Codec["KeepAlive | bool"]):
    """On or off, or on with its timing; its parts are packed one by one."""

    type_name = "bool or KeepAlive"

    def check(self, name: str, value: Any) -> KeepAlive | bool:
        if not isinstance(value, (bool, KeepAlive)):
            raise wrong_type(name, "a bool or a KeepAlive", value)
        return value

    def same(self, requested: KeepAlive | bool, effective: Any) -> bool:
        if isinstance(requested, bool) or not isinstance(effective, KeepAlive):
            return requested == bool(effective)
        return all(v is None or v == vars(effective)[k] for k, v in vars(requested).items())

    def plain(self, value: KeepAlive | bool) -> Any:
        if isinstance(value, bool):
            return value
        return {k: v for k, v in vars(value).items() if v is not None}

    def from_plain(self, name: str, plain: Any) -> Any:
        return KeepAlive(**plain) if isinstance(plain, Mapping) else plain


class DeadPeerCodec(Codec[DeadPeer]):
    """`DeadPeer`; JSON and TOML hold its seconds."""

    type_name = "DeadPeer"

    def check(self, name: str, value: Any) -> DeadPeer:
        if not isinstance(value, DeadPeer):
            raise wrong_type(name, "a DeadPeer", value)
        return value

    def plain(self, value: DeadPeer) -> float:
        return value.detect_within

    def from_plain(self, name: str, plain: Any) -> Any:
        is_number = isinstance(plain, (int, float)) and not isinstance(plain, bool)
        return DeadPeer(plain) if is_number else plain


class TransmitTimeCodec(Codec[TransmitTime]):
    """The ``struct sock_txtime``."""

    type_name = "TransmitTime"
    size = 8

    def check(self, name: str, value: Any) -> TransmitTime:
        if not isinstance(value, TransmitTime):
            raise wrong_type(name, "a TransmitTime", value)
        return value

    def pack(self, value: TransmitTime) -> Raw:
        return struct.pack("=iI", value.clock_id, value.flags)

    def unpack(self, raw: Raw) -> TransmitTime:
        return TransmitTime(*struct.unpack("=iI", as_bytes(raw)))

    def plain(self, value: TransmitTime) -> dict[str, int]:
        return dict(vars(value))

    def from_plain(self, name: str, plain: Any) -> Any:
        return TransmitTime(**plain) if isinstance(plain, Mapping) else plain


class Interface(Codec["int | str"]):
    """A network interface: its index, or its name (looked up when it is set)."""

    type_name = "int index or str name of an interface"

    def check(self, name: str, value: Any) -> int | str:
        if isinstance(value, str):
            return Text("an interface's name").check(name, value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "an interface's index or name", value)
        return Int(0, INT_MAX).check(name, value)

    def unpack(self, raw: Raw) -> int | str:
        return integer(raw)


class FrozenMapping(Mapping[Any, Any]):
    """A mapping that nobody changes, so that options stay hashable."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[Any, Any] | Iterable[tuple[Any, Any]] = ()) -> None:
        self._items = dict(items)

    def __getitem__(self, key: Any) -> Any:
        return self._items[key]

    def __iter__(self) -> Any:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MD5_KEY = Bytes(range(1, 81), "1 to 80 bytes")


class MD5Keys(Codec[FrozenMapping]):
    """A key for each address or network: IPv4Network and IPv6Network, once checked."""

    type_name = "mapping of address or network to key"

    def check(self, name: str, value: Any) -> FrozenMapping:
        if not isinstance(value, Mapping):
            raise wrong_type(name, "a mapping of addresses or networks to keys", value)
        return FrozenMapping(
            (_network(name, place), MD5_KEY.check(f"{name}[{str(place)!r}]", key))
            for place, key in value.items()
        )

    def plain(self, value: FrozenMapping) -> dict[str, str]:
        return {str(network): MD5_KEY.plain(key) for network, key in value.items()}

    def from_plain(self, name: str, plain: Any) -> Any:
        if not isinstance(plain, Mapping):
            return plain
        return {place: MD5_KEY.from_plain(name, key) for place, key in plain.items()}


def _network(name: str, place: Any) -> Network:
    """*place*, an address or network or the text of one, as a network."""
    host = getattr(place, "host", place)  # an address with a port names its host
    # ip_network takes ints and packed bytes, too, which are guesses more than addresses.
    if isinstance(host, (bool, int, bytes)):
        raise wrong_type(name, "keyed by addresses or networks", place)
    try:
        return ipaddress.ip_network(host)
    except ValueError as exc:
        raise ValueError(f"{name} is keyed by addresses or networks: {exc}") from None
