"""Reading a file in pieces, at a place of one's own choosing."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import BinaryIO


def reader_of(file: BinaryIO) -> Callable[[int, int], bytes]:
    """A plain function of offset and size that reads *file* there.

    A file with a descriptor is read by pread(2), so that its position stays where
    it is; one without (`io.BytesIO`), or a system without pread, by seeking.
    """
    try:
        descriptor = file.fileno()
    except (AttributeError, io.UnsupportedOperation):
        descriptor = -1
    if descriptor < 0 or not hasattr(os, "pread"):

        def seek_and_read(offset: int, size: int) -> bytes:
            file.seek(offset)
            return file.read(size)

        return seek_and_read

    def read_at(offset: int, size: int) -> bytes:
        return os.pread(descriptor, size, offset)

    return read_at
