"""`tls_upgrade`: from a stream to TLS over it, with the handshake done."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

import trio

from sockscope._tls.client_hello import (
    ClientHello,
    ContextChooser,
    HelloReader,
    choose_context,
)
from sockscope._tls.faults import (
    ALERT_SECONDS,
    handshake_error,
    peer_in_words,
)
from sockscope._tls.stream import TLSStream


def tls_upgrade(
    context: ssl.SSLContext | ContextChooser,
    *,
    server_hostname: str | None = None,
    server_side: bool | None = None,
    https_compatible: bool = False,
) -> Callable[[trio.abc.Stream], Awaitable[TLSStream]]:
    """The ``upgrade=`` of opening and serving that makes a `TLSStream` of each new stream.

    The handshake runs inside the opening's timeout or the server's
    ``handshake_timeout``. Awaited directly it takes any `trio.abc.Stream`, in the
    middle of a connection (STARTTLS) or a `TLSStream` itself (TLS in TLS)::

        async with open_socket(("example.org", 443), upgrade=tls_upgrade(context)) as tls:
            await tls.send_all(b"...")

        tls = await tls_upgrade(context)(stream)

    Args:
      context: an `ssl.SSLContext`, or a plain callable that is asked for one for
        each connection. It gets a `ClientHello`: on a server when the client's
        hello has come, so that certificates are chosen by the name asked for, and
        renewed without a restart. If it returns None the client is refused with the
        alert ``unrecognized_name``; if it raises, with ``internal_error``, and its
        exception is logged.
      server_hostname: on a client, the name to ask for and to check the certificate
        for. By default the host that was opened.
      server_side: which end this is. By default the stream's own: one that was
        accepted is the server. A stream that cannot tell is a client.
      https_compatible: see `TLSStream`.

    Returns:
      An async callable that takes a stream, and returns the `TLSStream` over it.
      It is a checkpoint. Whatever goes wrong in it, cancellation included, closes
      the stream. It raises:

      - `HandshakeError`: one side refused; ``reason`` is OpenSSL's word for it. The
        peer was told by an alert.
      - `trio.BrokenResourceError` and others: what the stream itself raised.
      - `ValueError`: a client without a host name, where the context checks names.

    Raises:
      TypeError: *context* is neither a context nor callable.

    Under TLS 1.3 a client cannot know whether the server takes its certificate: its
    handshake succeeds, and a refusal comes out of the first `TLSStream.receive_some`.
    """
    if not isinstance(context, ssl.SSLContext) and not callable(context):
        raise TypeError(f"context must be an ssl.SSLContext or a callable, not {context!r}")
    if not isinstance(server_hostname, (str, bytes, type(None))):
        raise TypeError(f"server_hostname must be a str or None, not {server_hostname!r}")
    for name, value in (("server_side", server_side), ("https_compatible", https_compatible)):
        if not isinstance(value, (bool, type(None))):
            raise TypeError(f"{name} must be True or False, not {value!r}")
    reader = None if isinstance(context, ssl.SSLContext) else HelloReader(context)

    async def shake_hands(stream: trio.abc.Stream) -> TLSStream:
        _refuse_bytes_read_ahead(stream)
        is_server = _was_accepted(stream) if server_side is None else server_side
        name = None if is_server else server_hostname or _name_opened(stream)
        if isinstance(context, ssl.SSLContext):
            chosen, received = context, b""
        elif is_server:
            assert reader is not None  # made above for every callable
            chosen, received = await reader.read(stream)
        else:
            hello = ClientHello(name, getattr(stream, "remote_address", None))
            chosen, received = choose_context(context, hello), b""
        if not is_server and chosen.check_hostname and not name:
            raise ValueError(
                "the context checks host names, and this stream was not opened with one: "
                "give tls_upgrade a server_hostname"
            )
        tls = TLSStream(
            stream,
            chosen,
            server_hostname=name,
            server_side=is_server,
            https_compatible=https_compatible,
        )
        await tls._handshake(received)
        return tls

    async def upgrade(stream: trio.abc.Stream) -> TLSStream:
        done = False
        try:
            tls = await shake_hands(stream)
            done = True
            return tls
        except Exception:
            # Not by force: a served stream lingers, so that no reset overtakes the alert.
            with trio.move_on_after(ALERT_SECONDS):
                await stream.aclose()
            raise
        finally:
            if not done:
                await trio.aclose_forcefully(stream)

    return upgrade


def _wrapped(stream: object) -> object:
    """The stream that *stream* wraps, as our buffered streams and Trio's SSLStream call it."""
    return getattr(stream, "transport_stream", None)


def _was_accepted(stream: object) -> bool:
    """Whether *stream*, or what it wraps, came from a passive socket."""
    while stream is not None and not hasattr(stream, "accepted"):
        stream = _wrapped(stream)
    return bool(getattr(stream, "accepted", False))


def _name_opened(stream: object) -> str | None:
    """The host that *stream*, or what it wraps, was opened with: a name, or a literal address.

    Not through a TLS stream: who is at the end of a tunnel, only its maker knows.
    """
    while stream is not None and not hasattr(stream, "remote_name"):
        stream = None if isinstance(stream, TLSStream | trio.SSLStream) else _wrapped(stream)
    name = getattr(stream, "remote_name", None)
    if name is None:
        name = getattr(getattr(stream, "remote_address", None), "host", None)
    return None if name is None else str(name)


def _refuse_bytes_read_ahead(stream: trio.abc.Stream) -> None:
    """Refuse a buffered stream that holds bytes: they came before the encryption.

    Taken for part of the handshake they would break it; left in the buffer they
    would be read later as if the peer had sent them encrypted (the injection of
    commands that STARTTLS is known for).
    """
    held = getattr(stream, "buffered", 0)
    if held:
        raise handshake_error(
            f"{held if isinstance(held, int) else len(held)} bytes had been read ahead "
            "before the handshake began",
            peer_in_words(stream, None),
            server_side=_was_accepted(stream),
            reason="DATA_BEFORE_HANDSHAKE",
        )
