"""Testing what is built on sockscope.

- `cancel_everywhere` cancels an operation at each of its steps and raises for what it
  leaves behind (`LeakError`) or when it hangs (`StuckError`).
- `open_descriptors` tells which file descriptors are open.
- `ScriptedResolver` answers look-ups of names as a test wants them answered.
- `serving` is a server that raises what its handler raises.
- `open_loopback_listener` and `open_loopback_pair` give real sockets over loopback.

For fixtures, with pytest-trio, write ``pytest_plugins = ["sockscope.testing"]`` into the
topmost ``conftest.py``. A test that takes one runs three times, over IPv4, IPv6 and a
local socket (skipped where the system lacks it): ``loopback_kind`` is the `LoopbackKind`,
``loopback_listener`` a `PassiveSocket`, ``loopback_pair`` both ends of a connection, the
one that connected first. pytest is needed for these alone.
"""

from __future__ import annotations

from sockscope.testing._cancel import LeakError, StuckError, cancel_everywhere
from sockscope.testing._descriptors import open_descriptors
from sockscope.testing._loopback import LoopbackKind, open_loopback_listener, open_loopback_pair
from sockscope.testing._resolver import ScriptedResolver
from sockscope.testing._serving import serving

__all__ = [
    "LeakError",
    "LoopbackKind",
    "ScriptedResolver",
    "StuckError",
    "cancel_everywhere",
    "open_descriptors",
    "open_loopback_listener",
    "open_loopback_pair",
    "serving",
]

# pytest loads the plugins that a plugin names.
pytest_plugins: list[str] = ["sockscope.testing._fixtures"]

for _name in __all__:
    _value = globals()[_name]
    if _value is not LoopbackKind:  # an alias has no home to set
        _value.__module__ = __name__
