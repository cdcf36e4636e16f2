"""The errors of sockscope: one tree under `SocketError`.

An instance is also of the builtin class of its errno, so that
``except ConnectionRefusedError`` goes on working: `SocketError.__new__` builds
(and keeps) a class with both bases where the errno has a builtin class.
"""

from __future__ import annotations

import errno as _errno
import functools
import os
import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import trio

if TYPE_CHECKING:
    from typing_extensions import Self

# The errno in words: Allegro CL's keywords first (seed 004), IOLib's class
# names (seed 003) for what Allegro has no word for.
_IDENTIFIERS: dict[str, str] = {
    "EADDRINUSE": "address-in-use",
    "EADDRNOTAVAIL": "address-not-available",
    "EAFNOSUPPORT": "address-family-not-supported",
    "ENETDOWN": "network-down",
    "ENETRESET": "network-reset",
    "ENETUNREACH": "network-unreachable",
    "ENONET": "no-network",
    "ECONNABORTED": "connection-aborted",
    "ECONNRESET": "connection-reset",
    "ECONNREFUSED": "connection-refused",
    "ETIMEDOUT": "connection-timed-out",
    "EINPROGRESS": "connection-in-progress",
    "EISCONN": "already-connected",
    "ENOTCONN": "not-connected",
    "ENOBUFS": "no-buffer-space",
    "ESHUTDOWN": "shutdown",
    "EPIPE": "shutdown",
    "EHOSTDOWN": "host-down",
    "EHOSTUNREACH": "host-unreachable",
    "ENOPROTOOPT": "option-not-supported",
    "EOPNOTSUPP": "operation-not-supported",
    "EACCES": "permission-denied",
    "EPERM": "permission-denied",
    "EMFILE": "too-many-open-files",
    "ENFILE": "too-many-open-files",
    "ENOENT": "no-such-file",
}
_IDENTIFIER_OF_ERRNO: dict[int, str] = {
    getattr(_errno, name): words for name, words in _IDENTIFIERS.items() if hasattr(_errno, name)
}
_RESOLVER_IDENTIFIERS: dict[int, str] = {
    getattr(socket, name): words
    for name, words in {
        "EAI_AGAIN": "resolver-again",
        "EAI_FAIL": "resolver-fail",
        "EAI_NODATA": "resolver-no-name",
        "EAI_NONAME": "resolver-no-name",
    }.items()
    if hasattr(socket, name)
}

_E = TypeVar("_E", bound="SocketError")


@functools.cache
def _class_for(cls: type[_E], number: int | None) -> type[_E]:
    """*cls*, with the builtin class of *number* as a further base where there is one."""
    # The interpreter's own table is asked by making an OSError: it has no other door.
    builtin = OSError if number is None else type(OSError(number, ""))
    if issubclass(cls, (builtin, socket.gaierror)):
        return cls
    body = {"__module__": cls.__module__, "__qualname__": cls.__qualname__, "__doc__": cls.__doc__}
    return type(cls.__name__, (cls, builtin), {**body, "_public_class": cls})


class SocketError(OSError):
    """Base class of the errors that sockscope raises for a failed system call.

    Args:
      number: the errno, or None where the system gave none.
      message: what failed: the step and the address, then the system's words.

    Attributes:
      errno: the errno; None where the system gave none.
      strerror: the message.
      identifier: the errno in words, such as ``"address-in-use"``, or ``"unknown"``
        (Allegro CL's and IOLib's names for conditions; seeds 003 and 004).

    An instance is also an instance of the builtin class of its errno
    (`ConnectionRefusedError`, `FileNotFoundError`, `PermissionError` ...).
    """

    _public_class: type[SocketError] | None = None

    def __new__(cls, number: int | None, message: str, **details: object) -> Self:
        """Make an instance that is of the errno's builtin class, too."""
        made: type[Self] = _class_for(cls, number)  # type: ignore[arg-type]  # a cache wants Hashable
        self: Self = super().__new__(made, number, message)
        if number is None:
            # OSError keeps (None, message) in args but parses neither.
            self.strerror = message
        return self

    def __init__(self, number: int | None, message: str) -> None:
        """See the class."""
        # OSError.__new__ has parsed the arguments already.

    def __str__(self) -> str:
        if self.errno is None:
            return str(self.strerror)
        return f"[Errno {self.errno}] {self.strerror}"

    def __reduce__(self) -> tuple[Any, ...]:
        cls = self._public_class or type(self)
        return _restore, (cls, self.errno, self.strerror, self.__dict__)

    @property
    def identifier(self) -> str:
        """The errno in words, such as ``"connection-refused"``; ``"unknown"`` for any other."""
        return _IDENTIFIER_OF_ERRNO.get(self.errno or 0, "unknown")


def _restore(
    cls: type[SocketError], number: int | None, message: str, state: dict[str, Any]
) -> SocketError:
    """Rebuild a pickled error without its subclass's own arguments."""
    error = cls.__new__(cls, number, message)
    error.__dict__.update(state)
    return error


def words_for(exc: OSError) -> str:
    """The system's words for *exc*, without its number."""
    return exc.strerror or (os.strerror(exc.errno) if exc.errno else str(exc) or type(exc).__name__)


@overload
def socket_error(exc: OSError, step: str) -> SocketError: ...
@overload
def socket_error(exc: OSError, step: str, cls: type[_E]) -> _E: ...
def socket_error(exc: OSError, step: str, cls: type[SocketError] = SocketError) -> SocketError:
    """*exc* as one of ours: ``raise socket_error(exc, "bind to ...") from exc``.

    Args:
      exc: what the system call raised.
      step: what was being done, with the address: ``"bind to 127.0.0.1:80"``.
      cls: the class to make.
    """
    return cls(exc.errno, f"cannot {step}: {words_for(exc)}")


class ResolverError(SocketError, socket.gaierror):
    """A name, service, protocol or interface could not be looked up; the message says which.

    ``errno`` is one of the ``EAI_*`` numbers where the resolver gave one.
    """

    @property
    def identifier(self) -> str:
        """The resolver's error in words, such as ``"resolver-no-name"``."""
        return _RESOLVER_IDENTIFIERS.get(self.errno or 0, "resolver-unknown")


class NameNotFoundError(ResolverError):
    """The host name does not exist, or has no address of the family asked for."""


class TemporaryResolverError(ResolverError):
    """The name server did not answer; a later attempt may succeed (``EAI_AGAIN``)."""


class UnknownServiceError(ResolverError):
    """No service of that name or port number is known for the protocol."""


class UnknownProtocolError(ResolverError):
    """No protocol of that name or number is known."""


class UnknownInterfaceError(ResolverError):
    """No network interface of that name or index exists."""


class SocketTimeoutError(SocketError, trio.TooSlowError, TimeoutError):
    """A timeout of ours expired; errno is ``ETIMEDOUT``.

    Args:
      message: what timed out, after how long.
    """

    def __new__(cls, *args: Any, **details: object) -> Self:
        """Take ``(message)``; unpickling passes ``(errno, message)``."""
        return super().__new__(cls, _errno.ETIMEDOUT, args[-1])

    def __init__(self, message: str) -> None:
        """See the class."""


class ConnectTimeoutError(SocketTimeoutError):
    """The connection was not made in time; the message names the addresses still pending."""


class AcceptTimeoutError(SocketTimeoutError):
    """No connection came in time."""


class ReceiveTimeoutError(SocketTimeoutError):
    """Nothing was received for ``receive_timeout`` seconds."""


class SendTimeoutError(SocketTimeoutError):
    """Nothing could be sent for ``send_timeout`` seconds.

    Attributes:
      sent: bytes of this call that were handed to the system before.
    """

    def __init__(self, message: str, *, sent: int = 0) -> None:
        """See the class."""
        self.sent = sent


class HandshakeTimeoutError(SocketTimeoutError):
    """The upgrade of a new stream (a TLS handshake, say) did not end in time."""


class ConnectError(SocketError):
    """Every attempt to connect failed.

    Attributes:
      errno: the one that all attempts failed with, else that of the last.
      exceptions: one `SocketError` for each address tried, naming it, each with
        the system's OSError as its ``__cause__``.
    """

    def __init__(
        self, number: int | None, message: str, *, exceptions: Sequence[SocketError] = ()
    ) -> None:
        """See the class."""
        self.exceptions: tuple[SocketError, ...] = tuple(exceptions)


class HandshakeError(SocketError):
    """The upgrade of a stream was refused by one side.

    Attributes:
      reason: the library's word for it, such as ``"CERTIFICATE_VERIFY_FAILED"``.
    """

    def __init__(self, number: int | None, message: str, *, reason: str = "") -> None:
        """See the class."""
        self.reason = reason


class TruncatedError(SocketError):
    """A message was longer than the room for it; the rest of it is gone (``EMSGSIZE``).

    Attributes:
      data: the head that was received.
      datagram: the cut datagram, where it came from a datagram socket.
    """

    def __init__(
        self,
        number: int | None,
        message: str,
        *,
        data: bytes = b"",
        datagram: object = None,
    ) -> None:
        """See the class."""
        self.data = data
        self.datagram = datagram


class DatagramError(SocketError):
    """A datagram could not be sent, or the network said that one did not arrive.

    The socket lives: it can send and receive as before.

    Attributes:
      address: where the datagram was to go; None where the system does not say.
      offender: the address of who reported it by ICMP, with ``receive_errors`` only.
      mtu: the path's MTU in bytes, where that is the trouble and known.
      returned: the head of the datagram that came back, with ``receive_errors`` only.
      sent: datagrams of this call that were handed to the system before.
    """

    def __init__(
        self,
        number: int | None,
        message: str,
        *,
        address: object = None,
        offender: object = None,
        mtu: int | None = None,
        returned: bytes = b"",
        sent: int = 0,
    ) -> None:
        """See the class."""
        self.address = address
        self.offender = offender
        self.mtu = mtu
        self.returned = returned
        self.sent = sent


class OptionError(SocketError):
    """A socket option could not be set or read.

    Attributes:
      option: the option's name in `SocketOptions`, or its ``(level, name)`` for an extra one.
      value: what it was to be set to (never a key: those are shown as ``"***"``).
      phase: where it was tried, such as ``"before bind"``.
    """

    def __init__(
        self,
        number: int | None,
        message: str,
        *,
        option: str | tuple[int, int] = "",
        value: object = None,
        phase: str = "",
    ) -> None:
        """See the class."""
        self.option = option
        self.value = value
        self.phase = phase


class UnsupportedOptionError(OptionError):
    """This system, or this kind of socket, does not have the option."""


class IncompleteReadError(SocketError, EOFError):
    """The stream ended in the middle of what was to be received.

    Attributes:
      errno: None: no system call failed.
      partial: the bytes of it that had come; they are taken out of the buffer.
    """

    def __init__(self, number: int | None, message: str, *, partial: bytes = b"") -> None:
        """See the class."""
        self.partial = partial


class RecordTooLongError(SocketError):
    """A record or line is longer than its ``max_size`` (``EMSGSIZE``).

    What came of it stays in the buffer, where ``receive_some`` finds it.

    Attributes:
      max_size: the limit, in the unit of the call (bytes, or characters of text).
    """

    def __init__(self, number: int | None, message: str, *, max_size: int = 0) -> None:
        """See the class."""
        self.max_size = max_size


class UnknownOptionError(OptionError, ValueError, TypeError):
    """No option has that name; the message gives the nearest one that there is.

    It is a TypeError, as any unknown keyword is, and a ValueError for what reads
    configuration files.
    """


class WrongSocketError(SocketError, ValueError):
    """A descriptor is no socket of the kind that was said or is needed; it stays its owner's."""
