"""Datagrams between two network namespaces: multicast, answers, ICMP, MTU, full queues."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "two_networks.py"
NAMES = [
    line.removeprefix("async def ").partition("(")[0].replace("_", "-")
    for before, line in zip(
        PROGRAM.read_text("utf-8").splitlines(),
        PROGRAM.read_text("utf-8").splitlines()[1:],
        strict=False,
    )
    if before == "@case"
]


@pytest.fixture(scope="module")
def outcome():
    """What became of each case."""
    if sys.platform != "linux":
        pytest.skip("only Linux has network namespaces")
    done = subprocess.run(
        [sys.executable, "-m", "tests._sockets.two_networks"],
        cwd=PROGRAM.parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    if done.returncode == 77:
        pytest.skip(f"network namespaces cannot be made here: {done.stdout.strip()}")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", NAMES)
def test_between_two_networks(outcome, name):
    assert outcome[name] is None, outcome[name]
