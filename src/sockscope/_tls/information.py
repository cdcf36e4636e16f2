"""What a TLS stream tells of itself, as `trio.SSLStream` does, and of the stream below."""

from __future__ import annotations

import ssl
from typing import Any

import trio


class TLSInformation:
    """The part of `TLSStream` that neither sends nor receives."""

    __slots__ = ("_handshaken", "_https_compatible", "_ssl", "_transport")

    _ssl: ssl.SSLObject
    _transport: trio.abc.Stream
    _handshaken: bool
    _https_compatible: bool

    def _after_handshake(self, name: str) -> ssl.SSLObject:
        if not self._handshaken:
            raise trio.NeedHandshakeError(f"call do_handshake() before {name}")
        return self._ssl

    @property
    def transport_stream(self) -> trio.abc.Stream:
        """The stream that carries the encrypted bytes. Do not send or receive on it."""
        return self._transport

    @property
    def context(self) -> ssl.SSLContext:
        """The context in use; set in an ``sni_callback`` it exchanges the certificate."""
        return self._ssl.context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._ssl.context = context

    @property
    def server_side(self) -> bool:
        """Whether this end is the server."""
        return self._ssl.server_side

    @property
    def server_hostname(self) -> str | None:
        """The name that the server's certificate was checked for; None on a server."""
        return self._ssl.server_hostname

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session; a client may set an earlier one before the handshake, to resume it."""
        return self._ssl.session

    @session.setter
    def session(self, session: ssl.SSLSession) -> None:
        self._ssl.session = session

    @property
    def session_reused(self) -> bool | None:
        """Whether the handshake resumed an earlier session."""
        return self._after_handshake("session_reused").session_reused

    def getpeercert(self, binary_form: bool = False) -> Any:
        """The peer's certificate.

        Args:
          binary_form: as DER bytes instead of a dict.

        Returns:
          As `ssl.SSLSocket.getpeercert`: None without a certificate, ``{}`` for one
          that was not verified.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("getpeercert").getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """The protocol agreed on by ALPN, or None.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("selected_alpn_protocol").selected_alpn_protocol()

    def selected_npn_protocol(self) -> str | None:
        """None: NPN, which ALPN replaced, is in no OpenSSL that Python 3.10 runs on.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        self._after_handshake("selected_npn_protocol")
        return None

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol version and secret bits of the cipher in use.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("cipher").cipher()

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """The ciphers that both sides have; None on a client.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("shared_ciphers").shared_ciphers()

    def compression(self) -> str | None:
        """The compression in use: None wherever security matters.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("compression").compression()

    def version(self) -> str | None:
        """The protocol's version, such as ``"TLSv1.3"``.

        Raises:
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("version").version()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """The channel binding data of this connection (RFC 5929).

        Args:
          cb_type: one of `ssl.CHANNEL_BINDING_TYPES`.

        Returns:
          The data, or None where this connection has none of that type.

        Raises:
          ValueError: another type.
          trio.NeedHandshakeError: there was no handshake yet.
        """
        return self._after_handshake("get_channel_binding").get_channel_binding(cb_type)

    def pending(self) -> int:
        """How many bytes are decrypted already, so that a receive would not wait."""
        return self._ssl.pending()

    def verify_client_post_handshake(self) -> None:
        """Ask the client for its certificate after the handshake (TLS 1.3, servers).

        A plain function: the request goes out with the next `send_all`, and the
        answer comes in while receiving; `getpeercert` then has it. The client's
        context needs ``post_handshake_auth``.

        Raises:
          ssl.SSLError: not TLS 1.3, not a server, or the client did not offer it.
          trio.NeedHandshakeError: there was no handshake yet.
        """
        self._after_handshake("verify_client_post_handshake").verify_client_post_handshake()

    @property
    def _below(self) -> Any:
        return self._transport

    @property
    def local_address(self) -> Any:
        """The local address of the stream below."""
        return self._below.local_address

    @property
    def remote_address(self) -> Any:
        """The peer's address, from the stream below."""
        return self._below.remote_address

    @property
    def accepted(self) -> bool:
        """Whether the stream below came from a passive socket."""
        return bool(getattr(self._below, "accepted", False))

    @property
    def socket(self) -> trio.socket.SocketType:
        """The `trio.socket` of the stream below."""
        socket: trio.socket.SocketType = self._below.socket
        return socket

    def get_option(self, name: str) -> Any:
        """Ask the kernel for a socket option of the stream below.

        Args:
          name: as for `StreamSocket.get_option`, which says what is returned and raised.
        """
        return self._below.get_option(name)

    def set_option(self, name: str, value: Any, *, missing_ok: bool = False) -> bool:
        """Set a socket option of the stream below, now.

        Args:
          name: as for `StreamSocket.set_option`, which says what is returned and raised.
          value: as there.
          missing_ok: as there.
        """
        return bool(self._below.set_option(name, value, missing_ok=missing_ok))

    def statistics(self) -> Any:
        """The figures of the stream below, which count encrypted bytes."""
        return self._below.statistics()
