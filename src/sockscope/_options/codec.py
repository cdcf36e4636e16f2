# the methods are described once, at Codec
"""Between a value as the user writes it and the integer or bytes that the kernel takes.

A codec checks, packs, unpacks and compares the values of one type, and turns them into
what JSON and TOML can hold.
"""

from __future__ import annotations

import enum
import math
import struct
import sys
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar

T = TypeVar("T")
Raw = int | bytes
INT_MAX = 2**31 - 1
_HEX = "hex:"


def wrong_type(name: str, wanted: str, value: object) -> TypeError:
    """The error for a value of another type; it shows the type only, as the value may be a key."""
    return TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


class Codec(Generic[T]):
    """What a row says of its type.

    Attributes:
      type_name: how the reference calls the type, with its unit and range.
      size: bytes to ask getsockopt for; 0 for a plain C int.
      sample: a value that harms no scratch socket, to try out a privilege with.
    """

    type_name = ""
    size = 0
    sample: Any = None

    def check(self, name: str, value: Any) -> T:
        """*value* in its normal form.

        Raises:
          TypeError: it is of another type; the message begins with *name*.
          ValueError: it is out of range.
        """
        raise NotImplementedError

    def pack(self, value: T) -> Raw:
        """*value* for setsockopt; durations are rounded up."""
        raise NotImplementedError

    def unpack(self, raw: Raw) -> T:
        """What getsockopt gave."""
        raise NotImplementedError

    def matches(self, wanted: Raw, got: Raw) -> bool:
        """Whether *got*, read from the kernel, is what setting *wanted* makes."""
        return bool(self.unpack(wanted) == self.unpack(got))

    def same(self, requested: T, effective: Any) -> bool:
        """Whether *effective* says no more and no less than *requested*."""
        return bool(requested == effective)

    def plain(self, value: T) -> Any:
        """*value* for JSON and TOML."""
        return value

    def from_plain(self, name: str, plain: Any) -> Any:
        """The inverse of `plain`; what it does not know comes back as it is, for `check`."""
        return plain


class Bool(Codec[bool]):
    """On or off; an int is refused, as it is mostly a mistake."""

    type_name = "bool"
    sample = True

    def check(self, name: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise wrong_type(name, "a bool", value)
        return value

    def pack(self, value: bool) -> Raw:
        return int(value)

    def unpack(self, raw: Raw) -> bool:
        # BSD gives the flag's own bit, not 1.
        return integer(raw) != 0


def as_bytes(raw: Raw) -> bytes:
    """What getsockopt gave for a codec with a size."""
    return raw if isinstance(raw, bytes) else b""


def integer(raw: Raw) -> int:
    """A native integer of any width, as getsockopt gives it."""
    return raw if isinstance(raw, int) else int.from_bytes(raw, sys.byteorder, signed=True)


class Int(Codec[int]):
    """A C int, or with ``maximum`` above 2**31 - 1 an unsigned one.

    Python reports such a large int misleadingly (TypeError: a bytes-like object is
    required), so it is checked here and packed.
    """

    def __init__(self, minimum: int, maximum: int, unit: str = "", *, size: int = 0) -> None:
        self.minimum, self.maximum = minimum, maximum
        self.size = size
        self.sample = max(minimum, 1)
        self.type_name = f"int {unit}".strip() + f", {minimum} to {maximum}"

    def check(self, name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong_type(name, "an int", value)
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"{name} must be {self.minimum} to {self.maximum}, not {value}")
        return value

    def pack(self, value: int) -> Raw:
        if self.size:
            return value.to_bytes(self.size, sys.byteorder, signed=value < 0)
        return int(value) if value <= INT_MAX else struct.pack("=I", value)

    def unpack(self, raw: Raw) -> int:
        number = integer(raw)
        return number if self.minimum < 0 else number & (2 ** (8 * (self.size or 4)) - 1)


class NetworkOrderInt(Int):
    """A number that the kernel wants in network order (the index of IP_UNICAST_IF)."""

    def pack(self, value: int) -> Raw:
        return struct.pack("!I", value)

    def unpack(self, raw: Raw) -> int:
        data = raw if isinstance(raw, bytes) else struct.pack("=i", raw)
        return int(struct.unpack("!I", data)[0])


class BufferSize(Int):
    """Bytes of a buffer. Linux books its own overhead on it and gives back the double."""

    factor = 2 if sys.platform == "linux" else 1

    def matches(self, wanted: Raw, got: Raw) -> bool:
        # Tuned, it may be odd: then half of it, as it is read to be set elsewhere, is rounded.
        return integer(got) // self.factor == integer(wanted)


class FlagBits(Int):
    """Bits, to which the kernel may add others."""

    def matches(self, wanted: Raw, got: Raw) -> bool:
        return integer(got) & integer(wanted) == integer(wanted)


class PortRange(Codec["tuple[int, int]"]):
    """The lowest and the highest local port; (0, 0) is off, a 0 leaves that end to the system."""

    type_name = "(lowest, highest) port"

    def check(self, name: str, value: Any) -> tuple[int, int]:
        if not isinstance(value, (tuple, list)) or len(value) != 2:
            raise wrong_type(name, "a pair of ports", value)
        low, high = (_PORT.check(name, port) for port in value)
        if high and low > high:
            raise ValueError(f"{name} must have its lower port first, not {low}, {high}")
        return low, high

    def pack(self, value: tuple[int, int]) -> Raw:
        return struct.pack("=I", value[1] << 16 | value[0])

    def unpack(self, raw: Raw) -> tuple[int, int]:
        number = integer(raw)
        return number & 0xFFFF, number >> 16 & 0xFFFF

    def plain(self, value: tuple[int, int]) -> list[int]:
        return list(value)


_PORT = Int(0, 65535)


class Seconds(Codec[float]):
    """A duration, which the kernel counts in whole units of 1/*scale* s.

    It is rounded up: rounded down to 0 it would mean something else.
    """

    def __init__(self, scale: int, minimum: float, maximum: float) -> None:
        self.scale, self.minimum, self.maximum = scale, minimum, maximum
        self.type_name = f"float seconds, {minimum:g} to {maximum:g}"

    def check(self, name: str, value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(name, "a number of seconds", value)
        if not self.minimum <= value <= self.maximum:
            raise ValueError(
                f"{name} must be {self.minimum:g} to {self.maximum:g} seconds, not {value!r}"
            )
        return float(value)

    def pack(self, value: float) -> Raw:
        # Nanoseconds below are the float's own noise: 0.003 * 1e6 is 3000.0000000000005.
        return math.ceil(round(value * self.scale, 3))

    def unpack(self, raw: Raw) -> float:
        return integer(raw) / self.scale


class Timeout(Seconds):
    """A timer of Trio's clock; infinity is none."""

    def __init__(self) -> None:
        super().__init__(1, 0, math.inf)
        self.type_name = "float seconds, inf for none"

    def plain(self, value: float) -> Any:
        # JSON has no infinity.
        return "inf" if value == math.inf else value

    def from_plain(self, name: str, plain: Any) -> Any:
        return math.inf if plain == "inf" else plain


class Text(Codec[str]):
    """A name of at most *maximum* bytes, such as an interface's."""

    size = 16

    def __init__(self, what: str, maximum: int = 15, *, minimum: int = 1) -> None:
        self.what, self.minimum, self.maximum = what, minimum, maximum
        self.type_name = f"str, {what}"

    def check(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            raise wrong_type(name, f"a str ({self.what})", value)
        length = len(value.encode("utf-8", "surrogateescape"))
        if not self.minimum <= length <= self.maximum or "\0" in value:
            raise ValueError(
                f"{name} must be {self.what} of {self.minimum} to {self.maximum} bytes, "
                f"not {value!r}"
            )
        return value

    def pack(self, value: str) -> Raw:
        return value.encode("utf-8", "surrogateescape") + b"\0"

    def unpack(self, raw: Raw) -> str:
        return as_bytes(raw).split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def bytes_to_text(value: bytes) -> str:
    """*value* as text that JSON and TOML can hold: itself if it is UTF-8, else ``hex:...``."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return _HEX + value.hex()
    return _HEX + value.hex() if text.startswith(_HEX) else text


def text_to_bytes(name: str, text: str) -> bytes:
    """The inverse of `bytes_to_text`.

    Raises:
      ValueError: the digits behind ``hex:`` are none; they are not shown, they may be a key.
    """
    if not text.startswith(_HEX):
        return text.encode()
    try:
        return bytes.fromhex(text[len(_HEX) :])
    except ValueError:
        raise ValueError(f"{name} must have hexadecimal digits after {_HEX!r}") from None


class Bytes(Codec[bytes]):
    """Bytes of one of the lengths in *lengths*; keys, mostly."""

    def __init__(self, lengths: Iterable[int], words: str) -> None:
        self.lengths, self.words = frozenset(lengths), words
        self.size = max(self.lengths)
        self.type_name = f"bytes, {words}"

    def check(self, name: str, value: Any) -> bytes:
        if not isinstance(value, (bytes, bytearray, memoryview)):
            raise wrong_type(name, "bytes", value)
        data = bytes(value)
        if len(data) not in self.lengths:
            raise ValueError(f"{name} must be {self.words}, not {len(data)} bytes")
        return data

    def pack(self, value: bytes) -> Raw:
        return value

    def unpack(self, raw: Raw) -> bytes:
        return as_bytes(raw)

    def plain(self, value: bytes) -> str:
        return bytes_to_text(value)

    def from_plain(self, name: str, plain: Any) -> Any:
        return text_to_bytes(name, plain) if isinstance(plain, str) else plain


E_ = TypeVar("E_", bound=enum.IntEnum)


class Enum(Codec[E_]):
    """A member of an enumeration; JSON and TOML hold its name in lower case."""

    def __init__(self, cls: type[E_]) -> None:
        self.cls = cls
        self.type_name = f"{cls.__name__}: " + ", ".join(m.name.lower() for m in cls)

    def check(self, name: str, value: Any) -> E_:
        if not isinstance(value, self.cls):
            raise wrong_type(name, f"a {self.cls.__name__}", value)
        return value

    def pack(self, value: E_) -> Raw:
        return int(value)

    def unpack(self, raw: Raw) -> E_:
        return self.cls(integer(raw))

    def plain(self, value: E_) -> str:
        return value.name.lower()

    def from_plain(self, name: str, plain: Any) -> Any:
        if not isinstance(plain, str):
            return plain
        try:
            return self.cls[plain.upper()]
        except KeyError:
            known = ", ".join(m.name.lower() for m in self.cls)
            raise ValueError(f"{name} must be one of {known}, not {plain!r}") from None


F = TypeVar("F", bound=enum.IntFlag)


class Flags(Codec[F]):
    """A set of flags; JSON and TOML hold a list of their names in lower case."""

    def __init__(self, cls: type[F]) -> None:
        self.cls = cls
        self.members = tuple(cls)
        self.type_name = f"{cls.__name__}: " + " | ".join(m.name or "" for m in self.members)

    def check(self, name: str, value: Any) -> F:
        if not isinstance(value, self.cls):
            raise wrong_type(name, f"a {self.cls.__name__}", value)
        if value & ~sum(self.members):
            raise ValueError(f"{name} must be made of the flags of {self.cls.__name__}")
        return value

    def pack(self, value: F) -> Raw:
        return int(value)

    def unpack(self, raw: Raw) -> F:
        return self.cls(integer(raw))

    def plain(self, value: F) -> list[str]:
        return [str(m.name).lower() for m in self.members if m in value]

    def from_plain(self, name: str, plain: Any) -> Any:
        if not isinstance(plain, (list, tuple)):
            return plain
        by_name = {str(m.name).lower(): m for m in self.members}
        flags = self.cls(0)
        for item in plain:
            if item not in by_name:
                raise ValueError(f"{name} must be made of {', '.join(by_name)}, not {item!r}")
            flags |= by_name[item]
        return flags


class ReadOnly(Codec[Any]):
    """A value that is only read: *decode* makes it of what getsockopt gives."""

    def __init__(self, type_name: str, decode: Callable[[Raw], Any], *, size: int = 0) -> None:
        self.type_name, self.decode, self.size = type_name, decode, size

    def unpack(self, raw: Raw) -> Any:
        return self.decode(raw)


BOOL = Bool()
