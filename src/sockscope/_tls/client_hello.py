"""Choosing a context for each connection: on a server by what the client hello says."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import trio

from sockscope._core.errors import HandshakeError
from sockscope._core.frozen import refuse_changes
from sockscope._tls.faults import (
    handshake_error,
    in_words,
    let_alert_arrive,
    peer_in_words,
    reason_of,
    send_alert,
    unexpected_eof,
)

# The server's logger: a connection's failure is told where the server's others are.
logger: Final = logging.getLogger("sockscope.server")


@refuse_changes
@dataclass(frozen=True, slots=True)
class ClientHello:
    """What is known of a connection when its TLS context is chosen.

    Attributes:
      server_name: the host name that the client asks for (SNI), or None if it names
        none. Names that are not ASCII come in their ``xn--`` form.
      remote_address: the peer's address as the stream below has it, or None.
    """

    server_name: str | None
    remote_address: Any = None


ContextChooser = Callable[[ClientHello], ssl.SSLContext | None]


class NoSuchServer(LookupError):
    """The context callable knows no context for the name: it returned None."""


def choose_context(choose: ContextChooser, hello: ClientHello) -> ssl.SSLContext:
    """Ask the user's callable.

    Raises:
      NoSuchServer: it returned None.
      TypeError: it returned something else that is no context.
    """
    context: object = choose(hello)
    if context is None:
        raise NoSuchServer(f"there is no TLS context for {hello.server_name or 'no name'}")
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"the TLS context callable returned no ssl.SSLContext but {context!r}")
    return context


@dataclass(slots=True, eq=False)
class _Choice:
    """What was made of one client hello."""

    remote_address: Any
    context: ssl.SSLContext | None = None
    failure: BaseException | None = None


class HelloReader:
    """Reads client hellos for one `tls_upgrade` whose context is a callable.

    OpenSSL parses the hello, on an object that is thrown away. The connection's own
    object is then made from the chosen context, and gets the same bytes. A context
    exchanged in the connection's own ``sni_callback`` would bring its certificate
    only: versions, options, client verification and session tickets would stay those
    of the first one, and a session of one name could be resumed under another.

    Args:
      choose: the user's callable.
    """

    def __init__(self, choose: ContextChooser) -> None:
        self._choose = choose
        self._choices: dict[ssl.SSLObject, _Choice] = {}
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # Any hello is to get as far as its name: what is too old or too weak is for
        # the chosen context to refuse.
        self._context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        self._context.sni_callback = self._on_server_name

    async def read(self, transport: trio.abc.Stream) -> tuple[ssl.SSLContext, bytes]:
        """Receive a client hello, and have a context chosen by it.

        Returns:
          The context, and the bytes received.

        Raises:
          HandshakeError: no context was chosen, or what came is no client hello. The
            peer was told by an alert.
          trio.BrokenResourceError, trio.ClosedResourceError: as the stream below.
        """
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        probe = self._context.wrap_bio(incoming, outgoing, server_side=True)
        choice = _Choice(getattr(transport, "remote_address", None))
        self._choices[probe] = choice
        received = bytearray()
        try:
            while True:
                data = await transport.receive_some()
                if not data:
                    raise unexpected_eof()
                received += data
                incoming.write(data)
                try:
                    probe.do_handshake()
                except ssl.SSLWantReadError:
                    pass
        except ssl.SSLError as exc:
            if choice.context is not None:
                return choice.context, bytes(received)
            if choice.failure is not None and not isinstance(choice.failure, Exception):
                raise choice.failure from None
            if await send_alert(transport, outgoing):
                await let_alert_arrive(transport)
            raise self._refusal(exc, choice, peer_in_words(transport, None)) from (
                choice.failure or exc
            )
        finally:
            del self._choices[probe]

    @staticmethod
    def _refusal(exc: ssl.SSLError, choice: _Choice, peer: str) -> HandshakeError:
        words, reason = in_words(exc), reason_of(exc)
        if choice.failure is not None:
            words = str(choice.failure) or type(choice.failure).__name__
            known = isinstance(choice.failure, NoSuchServer)
            reason = "UNRECOGNIZED_NAME" if known else "CONTEXT_CALLABLE_FAILED"
        return handshake_error(words, peer, server_side=True, reason=reason)

    def _on_server_name(
        self, probe: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext
    ) -> int:
        """OpenSSL has read the name. Whatever is returned ends the probe, as an alert."""
        choice = self._choices[probe]  # type: ignore[index]  # never a socket: we made it
        try:
            choice.context = choose_context(self._choose, ClientHello(name, choice.remote_address))
        except NoSuchServer as exc:
            choice.failure = exc
            return int(ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME)
        except BaseException as exc:
            # OpenSSL would swallow it: Ctrl-C and sys.exit as well.
            choice.failure = exc
            if not isinstance(exc, Exception):
                return int(ssl.ALERT_DESCRIPTION_INTERNAL_ERROR)
            logger.exception(
                "no TLS context for %s from %s: the callable failed",
                name or "a client that names no server",
                choice.remote_address or "an unknown address",
            )
        return int(ssl.ALERT_DESCRIPTION_INTERNAL_ERROR)
