"""Buffering over any Trio stream, of bytes and of text; public as `sockscope.buffered`."""
