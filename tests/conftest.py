"""What all tests share."""

from __future__ import annotations

import hypothesis

pytest_plugins = ["sockscope.testing", "tests.faults.plugin", "pytester"]

# A busy machine is no finding, so no deadline; what failed is printed to be run again.
hypothesis.settings.register_profile("sockscope", deadline=None, print_blob=True)
hypothesis.settings.load_profile("sockscope")
