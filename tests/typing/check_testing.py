"""The types of `sockscope.testing`."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from sockscope.testing import (
    LeakError,
    ScriptedResolver,
    cancel_everywhere,
    open_descriptors,
    open_loopback_pair,
    serving,
)

if TYPE_CHECKING:
    from typing_extensions import assert_type


async def returns_text() -> str:
    return ""


async def takes_an_argument(number: int) -> None: ...


def is_not_async() -> None: ...


async def sweeps() -> None:
    assert_type(await cancel_everywhere(returns_text, limit=10), int)
    await cancel_everywhere(takes_an_argument)  # type: ignore[arg-type]
    await cancel_everywhere(is_not_async)  # type: ignore[arg-type]
    await cancel_everywhere(returns_text, 10)  # type: ignore[call-arg]
    cancel_everywhere(returns_text)  # type: ignore[unused-coroutine]


def descriptors(error: LeakError) -> None:
    assert_type(open_descriptors(), dict[int, str])
    assert_type(error.leaks, tuple[str, ...])


def resolvers() -> None:
    with ScriptedResolver({"a.test": ["::1"], "b.test": socket.gaierror()}) as resolver:
        assert_type(resolver.queries, list[str])
    ScriptedResolver({"a.test": 1})  # type: ignore[dict-item]
    ScriptedResolver({}, {"a.test": 1.0})  # type: ignore[call-arg]


async def servers() -> None:
    async with serving(None) as server:
        server.addresses  # noqa: B018  # it has the type of a Server
    serving()  # type: ignore[call-arg]
    serving(is_not_async)  # type: ignore[arg-type]
    async with open_loopback_pair("ipv6") as (client, _):
        assert_type(await client.receive_some(), bytes)
    open_loopback_pair("ipv5")  # type: ignore[arg-type]
