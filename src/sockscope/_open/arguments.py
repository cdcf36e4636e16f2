"""The arguments of `make_socket`, checked before anything is opened."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Final, TypeVar

from sockscope._addresses.designators import Request, parse_designator
from sockscope._addresses.values import Address
from sockscope._core.deadlines import check_timeout
from sockscope._open.active import ActiveRequest
from sockscope._open.adopted import is_ready
from sockscope._open.datagram import DatagramRequest
from sockscope._open.passive import PassiveRequest, check_backlog
from sockscope._open.sockets import Configure
from sockscope._options.defaults import NO_OPTIONS
from sockscope._options.values import SocketOptions
from sockscope._sockets.base import AF_UNIX

_T = TypeVar("_T")

TYPES: Final = ("stream", "datagram", "seqpacket")
ROLES: Final = ("active", "passive")
#: RFC 8305's.
DELAY: Final = 0.25
FAMILIES: Final = (None, "internet", "local")


def check_choice(name: str, value: _T, choices: tuple[_T, ...]) -> _T:
    """*value*, if it is one of *choices*.

    Raises:
      ValueError: it is not.
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, not {value!r}")
    return value


def check_callable(name: str, value: object) -> None:
    """Refuse what cannot be called, before anything is opened.

    Raises:
      TypeError: *value* is neither callable nor None.
    """
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable or None, not {value!r}")


def conflict(first: str, second: str, why: str) -> TypeError:
    """The error for two arguments that make no sense together."""
    return TypeError(f"{first} and {second} make no sense together: {why}")


def check_options(options: SocketOptions | None, argument: str = "options") -> SocketOptions:
    """*options*, where None stands for none at all.

    Raises:
      TypeError: it is something else.
    """
    if options is None:
        return NO_OPTIONS
    if not isinstance(options, SocketOptions):
        raise TypeError(f"{argument} must be a SocketOptions or None, not {options!r}")
    return options


def check_delay(delay: float) -> float:
    """*delay*, seconds between two attempts to connect.

    Raises:
      ValueError: it is negative or NaN.
    """
    if math.isnan(delay) or delay < 0:
        raise ValueError(f"happy_eyeballs_delay must be 0 or more seconds, not {delay!r}")
    return delay


def parse_pair(
    remote: Any, local: Any, family: str | None, ipv6: bool | None
) -> tuple[Request | None, Request | None]:
    """Both ends' designators, parsed and of one family.

    Raises:
      TypeError: they contradict each other, *family* or *ipv6*.
    """
    pair = (
        None if remote is None else parse_designator(remote, argument="remote"),
        None if local is None else parse_designator(local, argument="local", passive=True),
    )
    if local is None and family is None and ipv6 is None:
        return pair
    known = {}
    for name, request in zip(("remote", "local"), pair, strict=True):
        if request is not None:
            known[name] = "local" if is_local(request) else "internet"
    if family is not None:
        known["family"] = family
    if ipv6 is not None:
        known["ipv6"] = "internet"
    if len(set(known.values())) > 1:
        first, *others = known
        other = next(name for name in others if known[name] != known[first])
        why = f"one is of the {known[first]} family, the other of the {known[other]} one"
        raise conflict(first, other, why)
    return pair


def is_local(request: Request) -> bool:
    """Whether *request* is of the local (Unix) family."""
    return isinstance(request, Address) and request.family == AF_UNIX


@dataclass(slots=True)
class OpenArguments:
    """What `make_socket` and `open_socket` take, with their defaults; making one checks them.

    Raises:
      TypeError: arguments that make no sense together, or of a wrong type.
      ValueError: a value out of range.
    """

    remote: Any = None
    _: KW_ONLY
    type: Any = "stream"
    connect: str = "active"
    family: str | None = None
    local: Any = None
    ipv6: bool | None = None
    backlog: int | None = None
    options: SocketOptions | None = None
    configure: Configure | None = None
    mode: int | None = None
    owner: int | str | None = None
    group: int | str | None = None
    replace_stale: bool = True
    timeout: float = math.inf
    happy_eyeballs_delay: float = DELAY
    upgrade: Callable[[Any], Awaitable[Any]] | None = None
    #: The designators, parsed.
    ends: tuple[Request | None, Request | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Check each argument, then each with the others."""
        # Nearly all are left at their defaults: those cost a comparison.
        if self.timeout != math.inf:
            check_timeout(self.timeout)
        check_choice("type", self.type, TYPES)
        check_choice("connect", self.connect, ROLES)
        check_choice("family", self.family, FAMILIES)
        check_delay(self.happy_eyeballs_delay)
        check_callable("configure", self.configure)
        check_callable("upgrade", self.upgrade)
        check_backlog(self.backlog)
        check_options(self.options)
        if self.connect == "passive":
            self._check_passive()
        elif self.backlog is not None:
            raise conflict("backlog", "connect='active'", "only a passive socket has a queue")
        self.ends = parse_pair(self.remote, self.local, self.family, self.ipv6)
        self._check_type()
        self._check_path_arguments()

    def _check_passive(self) -> None:
        if self.remote is not None:
            why = "a passive socket is not connected to anything"
            raise conflict("remote", "connect='passive'", why)
        if self.happy_eyeballs_delay != DELAY:
            why = "a passive socket connects to nothing"
            raise conflict("happy_eyeballs_delay", "connect='passive'", why)
        if self.type == "datagram":
            why = "datagram sockets take no connections"
            raise conflict("type='datagram'", "connect='passive'", why)
        if self.upgrade is not None:
            raise conflict("upgrade", "connect='passive'", "upgrades belong to serving")
        if self.local is None:
            raise TypeError("connect='passive' needs local=, the address to listen on")

    def _check_type(self) -> None:
        if self.type == "datagram" and self.upgrade is not None:
            raise conflict("type='datagram'", "upgrade", "only streams are upgraded")
        if self.type != "seqpacket" or self.family == "local":
            return
        if not any(is_ready(end) or (end is not None and is_local(end)) for end in self.ends):
            raise conflict("type='seqpacket'", "family='internet'", "only local sockets have it")

    def _check_path_arguments(self) -> None:
        """Refuse what is for the path of a local socket where none is bound."""
        if self.mode is self.owner is self.group is None and self.replace_stale:
            return
        given: dict[str, object] = {
            "mode": self.mode,
            "owner": self.owner,
            "group": self.group,
            "replace_stale": None if self.replace_stale else False,
        }
        local = self.ends[1]
        if local is not None and is_local(local):
            return
        name = next(name for name, value in given.items() if value is not None)
        raise conflict(name, "local", "it is for the path that a local socket is bound to")

    def active(self) -> ActiveRequest:
        """These arguments, for an active stream."""
        remote, local = self.ends
        return ActiveRequest(
            remote=remote,
            local=local,
            family=self.family,
            type=self.type,
            ipv6=self.ipv6,
            options=check_options(self.options),
            configure=self.configure,
            mode=self.mode,
            owner=self.owner,
            group=self.group,
            replace_stale=self.replace_stale,
            happy_eyeballs_delay=self.happy_eyeballs_delay,
        )

    def datagram(self) -> DatagramRequest:
        """These arguments, for a datagram socket."""
        remote, local = self.ends
        return DatagramRequest(
            remote=remote,
            local=local,
            family=self.family,
            ipv6=self.ipv6,
            options=check_options(self.options),
            configure=self.configure,
            mode=self.mode,
            owner=self.owner,
            group=self.group,
            replace_stale=self.replace_stale,
        )

    def passive(self) -> PassiveRequest:
        """These arguments, for a passive socket."""
        local = self.ends[1]
        assert local is not None
        return PassiveRequest(
            local=local,
            type=self.type,
            ipv6=self.ipv6,
            backlog=check_backlog(self.backlog),
            options=check_options(self.options),
            configure=self.configure,
            mode=self.mode,
            owner=self.owner,
            group=self.group,
            replace_stale=self.replace_stale,
        )
