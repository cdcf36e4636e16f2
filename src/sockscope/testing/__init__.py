"""Testing what is built on sockscope.

- `cancel_everywhere` cancels an operation at each of its steps and raises for what it
  leaves behind (`LeakError`) or when it hangs (`StuckError`).
- `open_descriptors` tells which file descriptors are open.
- `ScriptedResolver` answers look-ups of names as a test wants them answered.

For fixtures of pytest-trio, write ``pytest_plugins = ["sockscope.testing"]`` into the
topmost ``conftest.py``. Nothing here imports pytest by itself.
"""

from __future__ import annotations

from sockscope.testing._cancel import LeakError, StuckError, cancel_everywhere
from sockscope.testing._descriptors import open_descriptors
from sockscope.testing._resolver import ScriptedResolver

__all__ = [
    "LeakError",
    "ScriptedResolver",
    "StuckError",
    "cancel_everywhere",
    "open_descriptors",
]

# pytest loads the plugins that a plugin names.
pytest_plugins: list[str] = ["sockscope.testing._fixtures"]

for _name in __all__:
    globals()[_name].__module__ = __name__
