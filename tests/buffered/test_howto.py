"""The how-to page's code does what the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio
import trio.testing

from sockscope.buffered import BufferedStream, IncompleteReadError
from tests.buffered.streams import clog

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "buffered.md"


@pytest.fixture(scope="module")
def page():
    if not PAGE.exists():
        pytest.skip("the pages are not beside the tests here")
    names: dict[str, object] = {}
    for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        exec(compile(block, str(PAGE), "exec"), names)
    return names


async def talk(handler, data):
    """What *handler* answers to *data* and the end behind it."""
    client, server = trio.testing.memory_stream_pair()
    answer = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handler, server)
        await client.send_all(data)
        await client.send_eof()
        async for chunk in client:
            answer += chunk
    return answer


async def test_netstrings(page):
    assert await talk(page["echo_netstrings"], b"5:hello,0:,") == b"5:hello,0:,"


async def test_a_cut_netstring_is_an_error(page):
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"1:x,12")
    await client.send_eof()
    with pytest.raises(IncompleteReadError):
        await page["echo_netstrings"](server)


async def test_headers(page):
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"Host: x\r\nContent-Length: 4\r\n\r\nbodyrest")
    headers, body = await page["receive_headers"](server)
    assert headers == {b"host": b"x", b"content-length": b"4"}
    assert body == b"body"


async def test_flush_or_give_up(page, autojump_clock, real_pair):
    left, right = await real_pair()
    async with right, BufferedStream(left) as buffered:
        await buffered.write(b"x")
        assert await page["flush_or_give_up"](buffered, 1)
        clog(left)
        await buffered.write(b"x")
        assert not await page["flush_or_give_up"](buffered, 1)
        with pytest.raises(trio.ClosedResourceError):
            await buffered.flush()


async def test_text(page):
    assert await talk(page["shout"], "grüß\r\nGott\r\n".encode()) == "GRÜSS\r\nGOTT\r\n".encode()
