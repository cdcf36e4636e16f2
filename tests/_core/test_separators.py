"""A separator is found where `bytes.find` finds it, in linear time however it comes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sockscope._core.separators import SeparatorSearch

# Two letters make prefixes repeat, which is where such searches go wrong.
_few = st.lists(st.sampled_from(b"ab"), max_size=40).map(bytes)


@given(separator=_few.filter(len), data=_few, cuts=st.lists(st.integers(1, 9)))
def test_finds_the_first_one_as_soon_as_it_is_whole(separator, data, cuts):
    search, buffer = SeparatorSearch(separator), bytearray()
    index = data.find(separator)
    for size in [*cuts, len(data)]:
        buffer += data[len(buffer) : len(buffer) + size]
        whole = 0 <= index <= len(buffer) - len(separator)
        assert search.advance(buffer) is whole
        assert search.found == (index if whole else None)


@given(separator=_few.filter(len), data=_few, cuts=st.lists(st.integers(1, 9)))
def test_earliest_is_where_it_can_still_come_to_stand(separator, data, cuts):
    search, buffer = SeparatorSearch(separator), bytearray()
    for size in [*cuts, len(data)]:
        buffer += data[len(buffer) : len(buffer) + size]
        search.advance(buffer)
        candidates = (
            start
            for start in range(len(buffer) + 1)
            if (separator.startswith(buffer[start:]) or buffer.startswith(separator, start))
        )
        assert search.earliest == next(candidates)


class _CountingBuffer(bytearray):
    """Counts the bytes that are looked at."""

    touched = 0

    def __getitem__(self, index):
        self.touched += 1
        return super().__getitem__(index)

    def find(self, separator, start=0):
        self.touched += len(self) - start
        return super().find(separator, start)


@pytest.mark.parametrize(
    ("separator", "byte"),
    [
        (b"\r\n", b"\r"),
        (b"a" * 499 + b"b", b"a"),
        (b"a" * 250 + b"b" + b"a" * 249, b"a"),
        (b"ab" * 250 + b"c", b"ab"),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 499, 500, 501, 4096])
def test_hostile_input_is_looked_at_a_bounded_number_of_times(separator, byte, chunk):
    data = byte * (20_000 // len(byte)) + separator
    search, buffer = SeparatorSearch(separator), _CountingBuffer()
    for start in range(0, len(data), chunk):
        buffer += data[start : start + chunk]
        search.advance(buffer)
    assert search.found == data.find(separator)
    assert buffer.touched <= 3 * len(data)
