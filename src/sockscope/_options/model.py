"""What a row of the option table is made of."""

from __future__ import annotations

import enum
import errno
import os
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, overload

from sockscope._options import kinds
from sockscope._options.codec import Codec, Raw


class Phase(enum.Enum):
    """When an option takes effect; set later it is an error, not a silent no-op."""

    CREATION = "creation"
    """It chooses the protocol that the socket is made with."""
    BIND = "before bind"
    HANDSHAKE = "before listen or connect"
    """On a listening socket it still reaches later connections."""
    ANY = "any time"
    READ_ONLY = "read only"


class RawSocket(Protocol):
    """What options need of a socket: the standard library's, or a trio.socket.SocketType."""

    @property
    def family(self) -> int:
        """The address family."""
        ...

    @property
    def type(self) -> int:
        """The socket type."""
        ...

    @property
    def proto(self) -> int:
        """The protocol, 0 for the type's own."""
        ...

    @overload
    def getsockopt(self, level: int, optname: int, /) -> int: ...
    @overload
    def getsockopt(self, level: int, optname: int, buflen: int, /) -> bytes: ...

    def setsockopt(self, level: int, optname: int, value: int | bytes, /) -> None:
        """As setsockopt(2)."""

    def getsockname(self) -> Any:
        """As getsockname(2)."""

    def getpeername(self) -> Any:
        """As getpeername(2)."""


# A constant's name says its level, the same on every system.
_LEVELS: dict[str, int] = {
    "SO": socket.SOL_SOCKET,
    "IP": 0,
    "IPV6": 41,
    "TCP": 6,
    "UDP": 17,
    "ICMP": 255,  # SOL_RAW
}
# These Linuxes number SOL_SOCKET's options in their own way.
_OTHER_NUMBERS = ("mips", "parisc", "sparc", "alpha")


def number_of(constant: str, number: int | None) -> int | None:
    """The number of *constant* on this system, None where it has no such option.

    The socket module lacks some sixty constants that the kernel has, and may have some
    that the kernel lacks. What it lacks is taken by *number*, Linux's own, and only there.
    """
    known: int | None = getattr(socket, constant, None)
    if known is not None or sys.platform != "linux":
        return known
    own_numbers = constant.startswith("SO_") and os.uname().machine.startswith(_OTHER_NUMBERS)
    return None if own_numbers else number


@dataclass(frozen=True)
class Target:
    """One option of the kernel's.

    Attributes:
      constant: its name in C, such as ``"TCP_NODELAY"``.
      linux: its number on Linux; None where Linux has none.
      kinds: the kinds of socket that it suits.
      mapped: it acts on IPv4 traffic, so a dual-stack socket takes it beside its twin.
      codec: its type, where that is not the row's own.
      readable: the kernel gives it back.
      level: for getsockopt and setsockopt; found by the constant's name unless given.
      number: for them; None where this system has no such option.
      mapped_kinds: the dual-stack kinds that take it so.
    """

    constant: str
    linux: int | None
    kinds: frozenset[str]
    mapped: bool = False
    codec: Codec[Any] | None = None
    readable: bool = True
    level: int = -1
    number: int | None = field(init=False, default=None)
    mapped_kinds: frozenset[str] = field(init=False, default=frozenset())

    def __post_init__(self) -> None:
        """Find the level and this system's number."""
        if self.level >= 0:
            object.__setattr__(self, "number", self.linux)
        else:
            object.__setattr__(self, "level", _LEVELS[self.constant.split("_", 1)[0]])
            object.__setattr__(self, "number", number_of(self.constant, self.linux))
        if self.mapped:
            # Raw sockets of IPv6 have no IPv4 traffic: they refuse its options.
            six = frozenset(kind.replace("4", "6") for kind in self.kinds - kinds.RAW)
            object.__setattr__(self, "mapped_kinds", six)

    def read(self, sock: RawSocket, codec: Codec[Any]) -> Raw:
        """What the kernel holds.

        Raises:
          OSError: as getsockopt(2); ENOPROTOOPT where this system has no such option.
        """
        if self.number is None:
            raise OSError(errno.ENOPROTOOPT, os.strerror(errno.ENOPROTOOPT))
        if codec.size:
            return sock.getsockopt(self.level, self.number, codec.size)
        return sock.getsockopt(self.level, self.number)


class Step(NamedTuple):
    """One call of setsockopt."""

    target: Target
    codec: Codec[Any]
    raw: Raw


# The steps that set a value on a kind of socket; OSError if a name in it is unknown.
Expand = Callable[["Option", Any, str], "list[Step]"]
# The value, put together from several options of the kernel's.
Gather = Callable[["Option", RawSocket, str], Any]
# Whether a value read is what a value set makes on a socket, and what there is to say of it.
Judge = Callable[[Any, Any, RawSocket], "tuple[bool, str | None]"]
# A value in short, on a kind of socket.
Brief = Callable[[Any, str], Any]


class KeptHash:
    """Room for the hash of a set of options: of a hundred fields, and asked for often."""

    __slots__ = ("_hash",)
    _hash: int


@dataclass(frozen=True)
class Option:
    """A row of the table.

    Attributes:
      doc: what it does, in a sentence or two, with what a user should know.
      codec: its type, unit and range.
      targets: the kernel's options behind it.
      phase: when it takes effect.
      ignored: kinds of socket where the kernel takes it and does nothing.
      after: it takes effect only once the socket listens or is connected, and is set then.
      user: it is kept by our streams and never written to the kernel.
      privilege: the capability that it needs, and when.
      inherited: kinds of listening socket whose children start with the value (measured).
      child: why it makes no sense on a child; "" if it does. The phase says it for most.
      volatile: what is read is the moment's value: never taken for the one that was set.
      copied: `SocketOptions.read` takes it, as setting what was read makes the same.
      secret: it is never shown.
      moved: what else changes it, and when; for the reports.
      limits: sysctls that clamp it.
      rounds: the kernel may make more of it than what was set, and that is as good.
      readback: how what is read differs from what was set, and why.
      platforms: where it is there.
      untested: why no test can set it.
      expand: makes the steps of a value that is set by several options of the kernel's.
      gather: reads such a value.
      judge: tells whether it is in effect, where equality does not.
      brief: what `get_option` gives for such a value.
      force: the privileged option that sets it beyond its limit.
      excludes: options that mean the same thing otherwise: stating both is an error.
      name: the field of `SocketOptions`, filled in from there.
    """

    doc: str
    codec: Codec[Any]
    targets: tuple[Target, ...] = ()
    phase: Phase = Phase.ANY
    ignored: frozenset[str] = kinds.NONE
    after: bool = False
    user: bool = False
    privilege: str = ""
    inherited: frozenset[str] = kinds.TCP
    child: str = ""
    volatile: bool = False
    moved: str = ""
    copied: bool = True
    secret: bool = False
    limits: tuple[str, ...] = ()
    rounds: bool = False
    readback: str = ""
    platforms: str = "Linux"
    untested: str = ""
    expand: Expand | None = None
    gather: Gather | None = None
    judge: Judge | None = None
    brief: Brief | None = None
    force: Target | None = None
    excludes: frozenset[str] = frozenset()
    name: str = ""

    @property
    def suited(self) -> frozenset[str]:
        """Every kind of socket that takes it."""
        return frozenset().union(*(t.kinds for t in self.targets))

    @property
    def not_for_children(self) -> str:
        """Why it makes no sense on an accepted child; "" if it does."""
        if self.child or self.phase is Phase.ANY:
            return self.child
        return f"it takes effect {self.phase.value} only, and a child is connected"

    def shown(self, value: object) -> object:
        """*value* for errors and reports."""
        return "***" if self.secret else value

    def targets_for(self, kind: str) -> list[Target]:
        """The kernel's options that suit *kind*; for IPv6 its own come before the mapped ones."""
        own = [t for t in self.targets if kind in t.kinds]
        return own + [t for t in self.targets if kind in t.mapped_kinds]

    def is_readable(self, kind: str) -> bool:
        """Whether a socket of *kind* gives its value back."""
        targets = self.targets_for(kind)
        return bool(targets) and targets[0].readable

    def steps(self, value: Any, kind: str) -> list[Step]:
        """The calls that set *value* on a socket of *kind*.

        Raises:
          OSError: *value* names an interface that is not there.
        """
        if self.expand is not None:
            return self.expand(self, value, kind)
        return [self.step(target, value) for target in self.targets_for(kind)]

    def step(self, target: Target, value: Any) -> Step:
        """The call that sets *value* by *target*."""
        codec = target.codec or self.codec
        return Step(target, codec, codec.pack(value))
