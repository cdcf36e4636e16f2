"""Certificates and pairs of connected TLS streams."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests._tls.certificates import Certificates

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="session")
def certificates() -> Certificates:
    return Certificates(trustme.CA(key_type=trustme.KeyType.ECDSA))


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    return request.param
