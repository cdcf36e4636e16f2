"""What TLS failures are called: the peer in words, and OpenSSL's reason."""

from __future__ import annotations

import errno
import ssl
from typing import Any, Final

import trio

from sockscope._core.errors import HandshakeError

# An alert is a courtesy: seven bytes or so on a connection that has carried next to
# nothing, and then the peer's FIN. Only a peer that does not care takes longer.
ALERT_SECONDS: Final = 1.0
# More than a peer sends before it has seen an alert, certificates and all.
MOST_DISCARDED: Final = 256 * 1024
# OpenSSL's own word since 3.0 for a stream that ended without close_notify; its
# older versions and the standard library have none.
UNEXPECTED_EOF: Final = "UNEXPECTED_EOF_WHILE_READING"


def peer_in_words(transport: trio.abc.Stream, server_hostname: str | None) -> str:
    """Who is at the other end of *transport*, for messages; never raises.

    Our own streams know their peer's address. Trio's have a socket to ask, which
    fails once the peer has reset the connection.
    """
    below: Any = transport
    address = getattr(below, "remote_address", None)
    if address is None:
        try:
            address = _printed(below.socket.getpeername())
        except (AttributeError, OSError):
            address = None
    if not address:
        return server_hostname or "the peer"
    # A literal address that was opened need not be told twice.
    named = server_hostname and server_hostname not in str(address)
    return f"{server_hostname} ({address})" if named else str(address)


def _printed(name: Any) -> str:
    """A name as getpeername gives it, printed as our own addresses are."""
    if not isinstance(name, tuple):
        return f"unix:{name}" if name else ""
    host = f"[{name[0]}]" if ":" in name[0] else name[0]
    return f"{host}:{name[1]}"


def unexpected_eof() -> ssl.SSLEOFError:
    """The error of a stream that ended without close_notify.

    Made here, not asked of OpenSSL: a context with ``OP_IGNORE_UNEXPECTED_EOF``
    would hide the truncation.
    """
    return ssl.SSLEOFError(
        ssl.SSLErrorNumber.SSL_ERROR_EOF, "the stream ended without close_notify"
    )


def reason_of(exc: ssl.SSLError) -> str:
    """OpenSSL's word for what went wrong, such as ``"CERTIFICATE_VERIFY_FAILED"``."""
    if isinstance(exc, ssl.SSLEOFError):
        return UNEXPECTED_EOF
    return getattr(exc, "reason", None) or "UNKNOWN"


def in_words(exc: ssl.SSLError) -> str:
    """OpenSSL's reason, with what it says of a certificate."""
    detail = getattr(exc, "verify_message", None)
    if isinstance(exc, ssl.SSLEOFError):
        return "the peer closed the connection"
    return f"{reason_of(exc)} ({detail})" if detail else reason_of(exc)


def handshake_error(words: str, peer: str, *, server_side: bool, reason: str) -> HandshakeError:
    """A handshake's failure: whose it was, with whom, and why."""
    role = "as the server, with client" if server_side else "as the client, with server"
    return HandshakeError(
        errno.EPROTO, f"TLS handshake failed ({role} {peer}): {words}", reason=reason
    )


async def send_alert(transport: trio.abc.Stream, outgoing: ssl.MemoryBIO) -> bool:
    """Tell the peer why, if it listens: the alert that OpenSSL has left in *outgoing*.

    Returns:
      Whether there was one, and it was sent.
    """
    try:
        with trio.move_on_after(ALERT_SECONDS):
            if outgoing.pending:
                await transport.send_all(outgoing.read())
                return True
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass  # the peer has gone: it will not hear, and our own error stands
    return False


async def let_alert_arrive(transport: trio.abc.Stream) -> None:
    """Receive and discard until the peer closes, for it has been told to.

    Closing with bytes unread would reset the connection, and the reset would
    overtake the alert: the peer would report a reset, not the reason.
    """
    try:
        with trio.move_on_after(ALERT_SECONDS):
            if isinstance(transport, trio.abc.HalfCloseableStream):
                await transport.send_eof()
            discarded = 0
            while discarded < MOST_DISCARDED:
                data = await transport.receive_some()
                if not data:
                    return
                discarded += len(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
        pass  # closed, one way or the other
