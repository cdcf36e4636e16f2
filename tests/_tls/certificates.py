"""An authority for the tests, and contexts that trust it."""

from __future__ import annotations

import datetime
import ssl

import trustme

NAME = "server.example"


class Certificates:
    def __init__(self, authority: trustme.CA) -> None:
        self.authority = authority
        self.server = self.issue(NAME, "127.0.0.1")
        self.client = self.issue("client@example.org")

    def issue(self, *names: str) -> trustme.LeafCert:
        return self.authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA)

    def expired(self) -> trustme.LeafCert:
        long_ago = datetime.datetime(2001, 1, 1, tzinfo=datetime.timezone.utc)
        return self.authority.issue_cert(
            NAME, not_before=long_ago, not_after=long_ago, key_type=trustme.KeyType.ECDSA
        )

    def server_context(
        self,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        *,
        certificate: trustme.LeafCert | None = None,
        wants_client: bool = False,
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        (certificate or self.server).configure_cert(context)
        context.minimum_version = context.maximum_version = version
        if wants_client:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def client_context(
        self,
        version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        *,
        certificate: trustme.LeafCert | None = None,
    ) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.authority.configure_trust(context)
        context.minimum_version = context.maximum_version = version
        if certificate is not None:
            certificate.configure_cert(context)
        return context
