"""What all tests share."""

from __future__ import annotations

import gc
import sys

import hypothesis
import pytest

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytest_plugins = ["sockscope.testing", "tests.faults.plugin", "pytester"]

# A busy machine is no finding, so no deadline; what failed is printed to be run again.
hypothesis.settings.register_profile("sockscope", deadline=None, print_blob=True)
hypothesis.settings.load_profile("sockscope")


def pytest_collection_finish():
    """Keep what is loaded by now out of every later collection: the harness collects often."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    """Tell why an async test was skipped: pytest-trio raises Skipped anew, without the reason."""
    try:
        return (yield)
    except pytest.skip.Exception as skipped:
        reason = skipped.__context__
        while isinstance(reason, BaseExceptionGroup):
            [reason] = reason.exceptions
        if isinstance(reason, pytest.skip.Exception):
            raise reason from None
        raise
