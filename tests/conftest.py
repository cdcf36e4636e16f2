"""What all tests share."""

from __future__ import annotations

import gc

import hypothesis

pytest_plugins = ["sockscope.testing", "tests.faults.plugin", "pytester"]

# A busy machine is no finding, so no deadline; what failed is printed to be run again.
hypothesis.settings.register_profile("sockscope", deadline=None, print_blob=True)
hypothesis.settings.load_profile("sockscope")


def pytest_collection_finish():
    """Keep what is loaded by now out of every later collection: the harness collects often."""
    gc.collect()
    gc.freeze()
