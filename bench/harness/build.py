"""Compiles the load generators and the C server, once, into the git-ignored build folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

BENCH = Path(__file__).resolve().parent.parent
BUILD = BENCH.parent / "build" / "bench"

_WORKLOADS = tuple(
    f"load/{name}.c"
    for name in ("main", "echo", "churn", "bulk", "latency", "memory", "link", "common")
)


class BuildError(Exception):
    """There is no compiler, or it refused."""


@dataclass(frozen=True, slots=True)
class Binary:
    """One C program: its sources, the libraries it needs, and what brings those."""

    sources: tuple[str, ...]
    libraries: tuple[str, ...] = ()
    hint: str = ""


BINARIES = {
    "epoll": Binary(("servers/epoll.c",)),
    "load": Binary((*_WORKLOADS, "load/link_plain.c")),
    "load_tls": Binary(
        (*_WORKLOADS, "load/link_tls.c"),
        libraries=("-lssl", "-lcrypto"),
        hint="It needs OpenSSL's headers (Debian: libssl-dev, Fedora: openssl-devel).",
    ),
    "load_udp": Binary(("load/udp.c", "load/common.c")),
}


def build(name: str) -> Path:
    """Compile the C program `name` unless it is newer than all that it is made from.

    Returns:
        The path of the executable.

    Raises:
        BuildError: no compiler, or the compiler's own complaint.
    """
    binary, target = BINARIES[name], BUILD / name
    sources = [BENCH / source for source in binary.sources]
    inputs = [*sources, *(BENCH / "load").glob("*.h")]
    if target.exists() and target.stat().st_mtime > max(path.stat().st_mtime for path in inputs):
        return target
    BUILD.mkdir(parents=True, exist_ok=True)
    command = [compiler(), "-O2", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-o", os.fspath(target)]
    command += [*map(os.fspath, sources), *binary.libraries]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{name} does not compile. {binary.hint}\n{done.stderr}")
    return target


def compiler() -> str:
    """The system's C compiler, or the one that CC names."""
    name = os.environ.get("CC", "cc")
    if shutil.which(name) is None:
        raise BuildError(
            f"no C compiler: {name!r} is not there. The load generators are written in C; install "
            "gcc or clang (Debian: apt-get install gcc libc6-dev), or name yours in CC."
        )
    return name
