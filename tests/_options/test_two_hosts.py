"""Signatures and vanished peers, between two network namespaces."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from sockscope._options.features import supports
from tests._options import two_hosts

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's"),
    pytest.mark.skipif(shutil.which("ip") is None, reason="needs the program ip"),
]

UNHEARD = "ConnectTimeoutError"
# Only a peer with the key is heard; one of no network with a key is served unsigned.
EXPECTED = {
    "same": "echoed",
    "same_ipv6": "echoed",
    "same_mapped": "echoed",
    "wrong": UNHEARD,
    "wrong_ipv6": UNHEARD,
    "wrong_mapped": UNHEARD,
    "client_has_none": UNHEARD,
    "server_has_none": UNHEARD,
    "network": "echoed",
    "network_wrong": UNHEARD,
    "network_mapped": "echoed",
    "address": "echoed",
    "address_ipv6": "echoed",
    "longest_prefix": "echoed",
    "nobodys_network": "echoed",
    "nobodys_network_signed": UNHEARD,
}


@pytest.fixture(scope="module")
def results():
    run = subprocess.run(
        [sys.executable, "-m", "tests._options.two_hosts"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if run.returncode == two_hosts.NOT_PERMITTED:
        pytest.skip(f"no network namespaces here: {run.stdout.strip()}")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)


def test_there_is_an_expectation_for_each_case():
    assert set(EXPECTED) == set(two_hosts.CASES)


@pytest.mark.parametrize(("case", "outcome"), EXPECTED.items())
def test_signatures(results, case, outcome):
    if not supports("tcp_md5_keys"):
        pytest.skip("a kernel without TCP_MD5SIG_EXT")
    assert results[case] == outcome


@pytest.mark.parametrize("state", ["idle", "sending"])
def test_a_vanished_peer_is_found(results, state):
    assert results[state] == "TimeoutError"
