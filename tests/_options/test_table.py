"""The whole table, row by row, against the kernel."""

from __future__ import annotations

import errno
import os
import re
import socket
import sys
from pathlib import Path

import pytest

from sockscope._core.errors import UnsupportedOptionError
from sockscope._options import kinds
from sockscope._options.features import supports
from sockscope._options.kernel import matches
from sockscope._options.model import Phase, number_of
from sockscope._options.table import SETTABLE, TABLE
from sockscope._options.table_readonly import LEFT_OUT
from sockscope._options.values import SocketOptions
from tests._options import sockets
from tests._options.samples import ELSEWHERE, SAMPLES

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the table's numbers are Linux's")

UNSUPPORTED = {errno.ENOPROTOOPT, errno.EOPNOTSUPP}
ROWS_ON_KINDS = [
    pytest.param(row, kind, id=f"{row.name}-{kind}")
    for row in SETTABLE
    for kind in sockets.EVERY_KIND
    if kind in row.suited
]


def skip_what_cannot_be(row):
    if row.untested:
        pytest.skip(row.untested)
    if all(target.number is None for target in row.targets):
        pytest.skip(f"not on this system: {row.platforms}")
    if not supports(row.name):
        pytest.skip(f"not by this kernel and user: {row.platforms} {row.privilege}")


def expected_raw(sample, target):
    return sample.raw.get(target.constant) if isinstance(sample.raw, dict) else sample.raw


def assert_kernel_has(sock, row, kind):
    """Read each of the kernel's options behind *row* past our own code."""
    sample = SAMPLES[row.name]
    for target in row.targets:
        expected = expected_raw(sample, target)
        mapped = kind in target.mapped_kinds
        if expected is None or not (kind in target.kinds or mapped) or target.number is None:
            continue
        size = len(expected) if isinstance(expected, bytes) else 0
        # bind_to_device wants room for a whole name.
        got = sockets.read(sock, target, 16 if row.name == "bind_to_device" else size)
        assert got == expected, target.constant


def set_and_check(sock, row, kind):
    value = SAMPLES[row.name].value
    if kind not in kinds.TCP:
        value = ELSEWHERE.get(row.name, value)
    options = SocketOptions(**{row.name: value})
    options.apply(sock)
    assert_kernel_has(sock, row, kind)
    result = options.check(sock)[row.name]
    assert result.ok or kind in row.ignored, result
    assert (result.reason is not None) == (not result.ok) or result.reason == row.readback


def test_every_field_has_a_sample_and_every_sample_a_field():
    assert set(SAMPLES) == {row.name for row in SETTABLE}


@pytest.mark.parametrize(("row", "kind"), ROWS_ON_KINDS)
def test_a_fresh_socket_takes_it(row, kind):
    skip_what_cannot_be(row)
    if row.after:
        pytest.skip("takes effect on a connected socket only, where it is tested")
    with sockets.make(kind) as sock:
        set_and_check(sock, row, kind)


@pytest.mark.parametrize(
    ("row", "kind"), [p for p in ROWS_ON_KINDS if p.values[0].phase is Phase.ANY]
)
def test_a_connected_socket_takes_what_may_be_set_any_time(row, kind):
    skip_what_cannot_be(row)
    with sockets.connected(kind) as sock:
        set_and_check(sock, row, kind)


# Linux takes these at any socket, and uses them at the kinds of the row only; a part of
# dead_peer is taken anywhere.
TAKEN_ANYWHERE = {
    "no_checksum",
    "multicast_loop",
    "receive_mark",
    "receive_priority",
    "dead_peer",
}


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        pytest.param(row, kind, id=f"{row.name}-{kind}")
        for row in SETTABLE
        for kind in sockets.EVERY_KIND
        if kind not in row.suited and not row.user and row.phase is not Phase.CREATION
    ],
)
def test_what_a_kind_is_said_not_to_have(row, kind):
    """It is refused with a reason; and the kernel refuses it too, so the row is right."""
    with sockets.make(kind) as sock:
        with pytest.raises(UnsupportedOptionError, match="has no such option"):
            SocketOptions(**{row.name: SAMPLES[row.name].value}).apply(sock)
        for target in row.targets:
            if target.number is None or row.name in TAKEN_ANYWHERE:
                continue
            with pytest.raises(OSError) as caught:
                sock.setsockopt(target.level, target.number, 1)
            assert caught.value.errno in {*UNSUPPORTED, errno.EINVAL}


@pytest.mark.parametrize(
    ("row", "kind"),
    [p for p in ROWS_ON_KINDS if p.values[1] in sockets.STREAMS],
)
def test_children_inherit_what_the_row_says(row, kind):
    skip_what_cannot_be(row)
    if row.phase is Phase.CREATION or row.name == "repair":
        pytest.skip("such a socket is another one, or does not listen")
    if not row.is_readable(kind) or row.name in ("quick_ack", "max_segment", "incoming_cpu"):
        pytest.skip("its value cannot be told by reading")
    value = SAMPLES[row.name].value
    if kind not in kinds.TCP:
        value = ELSEWHERE.get(row.name, value)
    options = SocketOptions(**{row.name: value})
    with sockets.listener(kind, options.apply) as listening:
        # With data, as defer_accept holds back a silent client.
        with sockets.accepted(listening, b"data") as (_, child):
            inherited = matches(row, value, child, kind)
    assert inherited == (kind in row.inherited)


class TestNumbers:
    def test_what_python_lacks_is_taken_by_number(self):
        assert not hasattr(socket, "SO_COOKIE")
        assert number_of("SO_COOKIE", 57) == 57
        assert number_of("TCP_NODELAY", 99) == socket.TCP_NODELAY

    def test_but_on_linux_only(self, monkeypatch):
        monkeypatch.setattr("sys.platform", "darwin")
        assert number_of("SO_COOKIE", 57) is None
        assert number_of("TCP_NODELAY", 99) == socket.TCP_NODELAY

    def test_and_not_where_linux_counts_in_its_own_way(self, monkeypatch):
        mips = os.uname_result(("Linux", "host", "6", "1", "mips64"))
        monkeypatch.setattr("os.uname", lambda: mips)
        assert number_of("SO_COOKIE", 57) is None
        assert number_of("IP_FREEBIND", 15) == 15


READ_ONLY = [row for row in TABLE.values() if row.phase is Phase.READ_ONLY]


@pytest.mark.parametrize("row", READ_ONLY, ids=lambda row: row.name)
def test_read_only_rows_are_no_fields(row):
    assert row.name not in SAMPLES
    with pytest.raises(TypeError, match=row.name):
        SocketOptions(**{row.name: 1})


def header_numbers():
    """Every constant that the kernel's headers define, as ``{name: number}``."""
    numbers = {}
    for name in ("asm-generic/socket.h", "linux/in.h", "linux/in6.h", "linux/tcp.h", "linux/udp.h"):
        path = Path("/usr/include") / name
        if path.exists():
            for key, value in re.findall(
                r"#define\s+(\w+)\s+(\d+|0x[0-9a-f]+)\b", path.read_text()
            ):
                numbers.setdefault(key, int(value, 0))
    return numbers


@pytest.mark.parametrize("row", TABLE.values(), ids=lambda row: row.name)
def test_numbers_are_those_of_python_and_of_the_kernels_headers(row):
    headers = header_numbers()
    for target in row.targets:
        for known in (getattr(socket, target.constant, None), headers.get(target.constant)):
            assert known in (None, target.linux), target.constant


def test_every_row_says_what_it_does():
    for row in TABLE.values():
        assert row.doc.endswith(".")
        assert row.codec.type_name
        assert row.platforms


def test_what_is_left_out_has_a_reason_and_no_row():
    constants = {target.constant for row in TABLE.values() for target in row.targets}
    for constant, reason in LEFT_OUT.items():
        assert constant not in constants
        assert reason


def test_nothing_reads_so_error():
    """Reading it clears it."""
    numbers = {(t.level, t.number) for row in TABLE.values() for t in row.targets}
    assert (socket.SOL_SOCKET, socket.SO_ERROR) not in numbers
