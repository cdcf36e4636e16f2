"""A resolver that answers from a script instead of asking the network."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import trio


class ScriptedResolver(trio.abc.HostnameResolver):
    """Answer look-ups of names from a script, with delays and errors as wanted.

    As a context manager it is the resolver of everything in this Trio run, Trio's own
    functions included (`trio.socket.set_custom_hostname_resolver`), and on the way out
    the one before is back. Addresses in their own notation are never asked for: Trio
    and sockscope read them without a resolver.

    Args:
      script: for each name its addresses, IPv4 and IPv6 mixed as texts, in the order in
        which to give them, or an exception to raise. Names are in lower case and as they
        go over the wire (``xn--...``). Any other name is not found (EAI_NONAME).
      delays: for some of the names, how many seconds an answer takes, by Trio's clock.

    Attributes:
      queries: the names that were asked for, in order.

    Example::

        script = {"two.test": ["::1", "127.0.0.1"], "none.test": socket.gaierror(-2, "no")}
        with ScriptedResolver(script, delays={"two.test": 0.5}):
            async with open_socket(("two.test", port)) as stream:
                ...
    """

    def __init__(
        self,
        script: Mapping[str, Sequence[str] | Exception],
        *,
        delays: Mapping[str, float] | None = None,
    ) -> None:
        self._script = dict(script)
        self._delays = dict(delays or {})
        self.queries: list[str] = []
        self._before: trio.abc.HostnameResolver | None = None

    def __enter__(self) -> ScriptedResolver:
        self._before = trio.socket.set_custom_hostname_resolver(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        trio.socket.set_custom_hostname_resolver(self._before)

    async def getaddrinfo(
        self,
        host: bytes | None,
        port: bytes | str | int | None,
        family: int = 0,
        type: int = 0,  # the standard library's name for it
        proto: int = 0,
        flags: int = 0,
    ) -> list[Any]:
        """Answer as `socket.getaddrinfo` does, from the script. A checkpoint.

        Args:
          host: the name, in ASCII.
          port: a number, or the name of a service, which the system is asked for.
          family: leaves out the script's addresses of any other, unless it is ``AF_UNSPEC``.
          type: as for `socket.getaddrinfo`.
          proto: likewise.
          flags: likewise.

        Returns:
          Entries as `socket.getaddrinfo` gives them, in the script's order.

        Raises:
          socket.gaierror: the name is not in the script (EAI_NONAME) or has no address
            of the family asked for (EAI_ADDRFAMILY where the system has it).
          Exception: what the script says.
        """
        name = (host or b"").decode("ascii").lower()
        self.queries.append(name)
        await trio.sleep(self._delays.get(name, 0))
        answer = self._script.get(name) or _not_found(name)
        if isinstance(answer, Exception):
            raise answer
        entries: list[Any] = []
        for text in answer:
            if family in (socket.AF_UNSPEC, _family_of(text)):
                entries += socket.getaddrinfo(
                    text, port, family, type, proto, flags | socket.AI_NUMERICHOST
                )
        if not entries:
            number = getattr(socket, "EAI_ADDRFAMILY", socket.EAI_NONAME)
            raise socket.gaierror(number, f"{name!r} has no address of the family in the script")
        return entries

    async def getnameinfo(self, sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
        """Answer as `socket.getnameinfo` does: the script's name for the address. A checkpoint.

        Args:
          sockaddr: an internet address, as the socket module has it.
          flags: the ``NI_*`` flags.

        Returns:
          The first name that has the address in the script, else the address; and the service.

        Raises:
          socket.gaierror: the flags demand a name and the script has none (EAI_NONAME).
        """
        await trio.lowlevel.checkpoint()
        numeric = (flags | socket.NI_NUMERICHOST) & ~socket.NI_NAMEREQD
        host, service = socket.getnameinfo(sockaddr, numeric)
        if flags & socket.NI_NUMERICHOST:
            return host, service
        for name, answer in self._script.items():
            if not isinstance(answer, Exception) and host in answer:
                return name, service
        if flags & socket.NI_NAMEREQD:
            raise _not_found(host)
        return host, service


def _family_of(text: str) -> socket.AddressFamily:
    """The family of an address in its own notation."""
    return socket.AF_INET6 if ":" in text else socket.AF_INET


def _not_found(name: str) -> socket.gaierror:
    """The error for what the script does not have."""
    return socket.gaierror(socket.EAI_NONAME, f"{name!r} is not in the script")
