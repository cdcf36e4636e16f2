"""The life of one accepted connection: options, upgrade, handler, close, count."""

from __future__ import annotations

import inspect
import logging
import sys
from collections.abc import Awaitable
from typing import Any, Final

import outcome
import trio

from sockscope._core.cleanup import CLOSING_ERRORS, close_at_once
from sockscope._core.deadlines import deadline_after
from sockscope._core.errors import HandshakeError, HandshakeTimeoutError, SocketError
from sockscope._options.defaults import NO_OPTIONS
from sockscope._options.values import SocketOptions
from sockscope._serve.accepting import LOGGER
from sockscope._serve.settings import Outcome, Result, Settings
from sockscope._serve.statistics import Counters
from sockscope._serve.timers import TimedOut
from sockscope._sockets.passive import PassiveSocket
from sockscope._sockets.stream import StreamSocket

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

# A farewell (TLS's close_notify, a flush) to a peer that does not read must end.
_FAREWELL_SECONDS: Final = 5.0


class PreparationFailed(Exception):
    """The connection's options or its upgrade failed: counted, told, and over."""


def set_options(
    settings: Settings, counters: Counters, passive: PassiveSocket, stream: StreamSocket
) -> Awaitable[object] | None:
    """Set the connection's options, as far as that needs no waiting.

    Returns:
      What the hook gave, if it has to be awaited: for `prepare`.

    Raises:
      PreparationFailed: it has been counted and logged.
    """
    options: object = settings.connection_options
    try:
        if callable(options):
            options = options(stream)
            if inspect.isawaitable(options):
                return options
        _configure(passive, stream, options)
    except Exception as exc:
        _options_failed(counters, stream, exc)
        raise PreparationFailed from exc
    return None


async def prepare(
    settings: Settings,
    counters: Counters,
    passive: PassiveSocket,
    stream: StreamSocket,
    pending: Awaitable[object] | None,
) -> Any:
    """Await the connection's options, if they are *pending*, and upgrade it.

    Returns:
      What the handler works with.

    Raises:
      PreparationFailed: it has been counted and logged.
    """
    are_set = False
    try:
        with deadline_after(settings.handshake_timeout):
            if pending is not None:
                _configure(passive, stream, await pending)
            are_set = True
            return stream if settings.upgrade is None else await settings.upgrade(stream)
        raise HandshakeTimeoutError(
            f"not ready within {settings.handshake_timeout} s: stream {stream._describe()}"
        )
    except Exception as exc:
        if are_set:
            _count(counters.upgrade_failures, _kind_of(exc, stream))
            _tell("the upgrade of", stream, exc, logging.DEBUG)
        else:
            _options_failed(counters, stream, exc)
        raise PreparationFailed from exc


def _configure(passive: PassiveSocket, stream: StreamSocket, options: object) -> None:
    if options is None:
        options = NO_OPTIONS
    if not isinstance(options, SocketOptions):
        raise TypeError(f"connection_options gave {options!r}, not a SocketOptions or None")
    passive.configure_child(stream, options)


#: Which counter a connection's end belongs to: a cancelled handler has finished, too.
COUNTER_OF: Final[dict[Outcome, str]] = {
    "finished": "finished",
    "cancelled": "finished",
    "failed": "handler_errors",
    "reset": "resets",
    "timed_out": "timed_out",
}


def _options_failed(counters: Counters, stream: StreamSocket, exc: Exception) -> None:
    """Count and tell it: the first time for all to see, for most likely each one will fail."""
    counters.option_failures += 1
    level = logging.WARNING if counters.option_failures == 1 else logging.DEBUG
    _tell("the options of", stream, exc, level)


def _count(counts: dict[str, int], kind: str) -> None:
    counts[kind] = counts.get(kind, 0) + 1


def _kind_of(exc: Exception, stream: StreamSocket) -> str:
    if isinstance(exc, HandshakeTimeoutError):
        return "timeout"
    if isinstance(exc, HandshakeError) and exc.reason:
        return exc.reason
    return "reset" if is_reset(exc, stream) else type(exc).__name__


def _tell(what: str, stream: StreamSocket, exc: Exception, level: int) -> None:
    """Log a failed preparation: a traceback where the user's own code is at fault.

    A hostile peer can make handshakes fail at any rate, so those are for debugging.
    """
    if isinstance(exc, (SocketError, trio.BrokenResourceError)):
        LOGGER.log(level, "%s the connection %s failed: %s", what, stream._describe(), exc)
    else:
        LOGGER.error("%s the connection %s failed", what, stream._describe(), exc_info=exc)


def is_reset(exc: BaseException, stream: StreamSocket) -> bool:
    """Whether *exc* only says that the peer broke this very connection."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_reset(leaf, stream) for leaf in exc.exceptions)
    if not isinstance(exc, trio.BrokenResourceError):
        return False
    # An upgraded stream raises an error of its own, with ours, or what it found, as its cause.
    cause: BaseException | None = exc
    while cause is not None:
        if cause is stream._error or cause is stream._layer_fault:
            return True
        cause = cause.__cause__
    return False


def needs_farewell(stream: StreamSocket, connection: Any, ended_well: bool) -> bool:
    """Whether closing takes more than close(2): a plain stream costs no further checkpoint."""
    if connection is not stream:
        return hasattr(connection, "aclose")
    return ended_well and stream.is_open and bool(stream._linger_seconds())


async def say_farewell(stream: StreamSocket, connection: Any, ended_well: bool) -> Exception | None:
    """Close what the handler had, in time; the stream below is the caller's to close.

    Returns:
      What its closing has raised, unless that only says that the peer has gone.
    """
    if connection is stream:
        await stream.aclose()  # its option linger bounds the time
        return None
    try:
        if ended_well:
            with trio.move_on_after(_FAREWELL_SECONDS):
                await connection.aclose()
        else:
            await close_at_once(connection.aclose)
    except Exception as exc:
        LOGGER.debug("closing %r: %s", connection, exc)
        return None if _tells_of_the_peer(exc) else exc
    return None


def _tells_of_the_peer(exc: BaseException) -> bool:
    """Whether *exc* is no error of the connection's own code."""
    if isinstance(exc, BaseExceptionGroup):
        return all(map(_tells_of_the_peer, exc.exceptions))
    return isinstance(exc, CLOSING_ERRORS)


def outcome_of(result: Result | None, stream: StreamSocket) -> Outcome:
    """How a connection ended, by what its handler gave; None if it never ran."""
    # By their very types: they are abstract base classes' children, whom isinstance asks slowly.
    if type(result) is outcome.Value:
        return "finished"
    if type(result) is not outcome.Error:
        return "failed"
    if not isinstance(result.error, Exception):
        return "cancelled"
    if isinstance(result.error, TimedOut):
        return "timed_out"
    return "reset" if is_reset(result.error, stream) else "failed"
