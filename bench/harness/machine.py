"""The machine and the versions that a result was made with: figures mean nothing without."""

from __future__ import annotations

import os
import platform
import ssl
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.processes import Cores

PACKAGES = ("sockscope", "trio", "anyio", "uvloop")


def describe(cores: Cores) -> dict[str, str]:
    """Processor, kernel, interpreter, packages, the cores used and the day."""
    shared = " (shared: only one core)" if cores.measured == cores.load else ""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "kernel": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "openssl": ssl.OPENSSL_VERSION,
        "cores": f"measured program on core {cores.measured}, load on core {cores.load}{shared}",
        "load before": f"{os.getloadavg()[0]:.2f} (others' work makes every figure dearer)",
        "date": datetime.now(timezone.utc).date().isoformat(),
    }


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
