"""``demo``: the whole story, what is left out of it, and its end before the end."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import pytest
import trio
import trio.testing

from sockscope import supports
from sockscope._cli import demo
from sockscope._cli.main import main
from sockscope.testing import serving
from tests._cli.processes import COMMAND, TIMEOUT, run


def test_the_story(tmp_path):
    ended = run("demo", env={**os.environ, "TMPDIR": str(tmp_path)})
    assert (ended.returncode, ended.stderr) == (0, "")
    story = ended.stdout
    assert "listening on 127.0.0.1:" in story
    assert "received 'hello, IPv4'" in story
    if supports("ipv6"):
        assert "listening on [::1]:" in story
        assert "received 'hello, IPv6'" in story
    if supports("local"):
        assert f"listening on unix:{tmp_path}" in story
        assert "received 'hello, a local socket'" in story
    assert "ReceiveTimeoutError" in story
    rows = [line.split(maxsplit=3) for line in story.splitlines()]
    # Asked for and in effect, on listeners and on children.
    assert ["nodelay", "yes", "yes", "-"] in rows
    assert ["user_timeout", "30.0", "30.0", "-"] in rows
    assert [row[:2] for row in rows].count(["receive_buffer", "65536"]) == story.count(
        "listening on"
    )
    assert ["finished", "4"] in rows or not supports("ipv6")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("lacking", "line"),
    [
        ("ipv6", "IPv6: skipped, this machine has none"),
        ("local", "A local socket: skipped, this machine has none"),
    ],
)
def test_what_the_machine_lacks(lacking, line, monkeypatch, capsys):
    monkeypatch.setattr(demo, "supports", lambda name: name != lacking and supports(name))
    monkeypatch.setattr(demo, "_PATIENCE", 0.01)
    assert main(["demo"]) == 0
    story = capsys.readouterr().out.splitlines()
    assert line in story
    assert "Every socket is closed." in story


WITHOUT_IPV6 = 'ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && exec "$@"'


def can_unshare():
    if not (shutil.which("unshare") and shutil.which("ip")):
        return False
    command = ["unshare", "-rn", "sh", "-c", WITHOUT_IPV6, "-", "true"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(not can_unshare(), reason="needs a network namespace of its own")
def test_on_a_machine_without_ipv6():
    command = ["unshare", "-rn", "sh", "-c", WITHOUT_IPV6, "-", *COMMAND, "demo"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "IPv6: skipped" in ended.stdout
    assert "hello, IPv4" in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_ends_it(number, tmp_path, monkeypatch):
    monkeypatch.setattr(demo.tempfile, "tempdir", str(tmp_path))
    codes = []

    async def tell():
        codes.append(await demo._demo())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        await trio.testing.wait_all_tasks_blocked()
        signal.raise_signal(number)
    assert codes == [128 + number]
    assert list(tmp_path.iterdir()) == []


async def test_an_answer_where_silence_was_asked_for():
    async def talk(stream):
        async for words in stream:
            await stream.send_all(words)

    async with serving(talk) as server:
        with pytest.raises(RuntimeError, match="silence"):
            await demo._time_out(server)
