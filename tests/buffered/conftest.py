"""The connected pairs, for every test here."""

from tests.buffered.streams import real_pair

__all__ = ["real_pair"]
