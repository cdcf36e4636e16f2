"""Finding a separator in a buffer that grows, in linear time however it grows.

`bytearray.find` alone would search the last ``len(separator) - 1`` bytes again
after each chunk: with chunks of one byte and a long separator (a multipart
boundary is the peer's choice) that is quadratic. So short chunks are walked byte
by byte with the automaton of Knuth, Morris and Pratt (SIAM Journal on Computing
6(2), 1977), which never looks back, and only chunks at least as long as the
separator are given to ``find``: what it searches again is then never more than
what is new.
"""

from __future__ import annotations


def _borders(separator: bytes) -> list[int]:
    """For each prefix, how long its longest border is: a proper prefix that also ends it."""
    borders = [0]
    border = 0
    for byte in separator[1:]:
        while border and separator[border] != byte:
            border = borders[border - 1]
        border += separator[border] == byte
        borders.append(border)
    return borders


class SeparatorSearch:
    """Where a separator stands in a buffer that is only ever appended to.

    Args:
      separator: what is sought; not empty.

    Attributes:
      separator: the same.
      found: the index of the first separator, or None so far.
    """

    def __init__(self, separator: bytes) -> None:
        self.separator = separator
        self.found: int | None = None
        self._borders = _borders(separator)
        self._searched = 0  # the buffer's bytes before this index are done
        self._matched = 0  # the separator's first bytes that end them

    @property
    def earliest(self) -> int:
        """The least index at which the first separator stands, or can still come to stand."""
        return self._searched - self._matched if self.found is None else self.found

    def advance(self, buffer: bytearray) -> bool:
        """Search what was appended to *buffer* since the last call; whether it is found."""
        if self.found is not None:
            return True
        size = len(self.separator)
        if len(buffer) - self._searched < size:
            self._walk(buffer, self._searched)
            return self.found is not None
        index = buffer.find(self.separator, self.earliest)
        if index >= 0:
            self.found = index
            return True
        self._matched = 0
        self._walk(buffer, len(buffer) - size + 1)
        return False

    def _walk(self, buffer: bytearray, start: int) -> None:
        """Run the automaton over the bytes from *start* on."""
        separator, borders, matched = self.separator, self._borders, self._matched
        for index in range(start, len(buffer)):
            byte = buffer[index]
            while matched and separator[matched] != byte:
                matched = borders[matched - 1]
            matched += separator[matched] == byte
            if matched == len(separator):
                self.found = index + 1 - matched
                return
        self._searched, self._matched = len(buffer), matched
