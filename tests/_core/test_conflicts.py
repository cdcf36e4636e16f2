"""A second task is refused, and only while the first one is within."""

from __future__ import annotations

import pytest
import trio

from sockscope._core.conflicts import ConflictDetector


def test_a_second_entry_is_refused_until_the_first_has_left():
    detector = ConflictDetector("another task is sending")
    with detector, pytest.raises(trio.BusyResourceError, match="another task is sending"):
        detector.__enter__()
    with detector:
        assert detector.held
    assert not detector.held


def test_an_error_within_lets_go():
    detector = ConflictDetector("busy")
    with pytest.raises(KeyError), detector:
        raise KeyError
    assert not detector.held
