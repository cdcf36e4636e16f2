"""The fixtures: the shim, built once a session, and the way to run a program under it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("shim.c")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
      result: what its function returned; None for a file.
      returncode: 0 if it ended well; negative for a signal.
      out: its standard output.
      err: its standard error.
      cpu_seconds: processor time, of user and system, its start (0.3 to 1 s) included.
    """

    result: Any
    returncode: int
    out: str
    err: str
    cpu_seconds: float


@pytest.fixture(scope="session")
def fault_shim(tmp_path_factory):
    """The path of the shim, built with the system's compiler."""
    if sys.platform != "linux":
        pytest.skip("the fault shim is for Linux: its calls are Linux's")
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        pytest.skip("no C compiler to build the fault shim with (Debian: apt-get install gcc)")
    shim = tmp_path_factory.mktemp("faults") / "shim.so"
    build = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O2", "-Wall", "-o", shim, SOURCE, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if "dlfcn.h" in build.stderr:
        pytest.skip("no C library headers to build the fault shim with (Debian: libc6-dev)")
    assert build.returncode == 0, build.stderr
    assert not build.stderr
    return shim


@pytest.fixture
def run_under_faults(fault_shim, tmp_path):
    """Run a test program in a process of its own, in which `tests.faults.injection` works.

    Call it with the program, a function of a test module (a coroutine function runs under
    Trio) or the path of a Python file, and its arguments: what JSON can carry for a
    function, texts for a file. Further: ``timeout=20.0`` seconds, after which the program
    is ended with the tracebacks of its threads in ``err``; ``check=True``, to fail the test
    with the program's own error if it does not end well; ``env``, more environment.
    Returns an `Outcome`.
    """

    def run(
        program: Callable[..., Any] | Path,
        *arguments: Any,
        timeout: float = 20.0,
        check: bool = True,
        env: dict[str, str] | None = None,
    ) -> Outcome:
        result = tmp_path / "result.json"
        result.write_text("null")
        if isinstance(program, Path):
            command = [str(program), *arguments]
        else:
            function = f"{program.__module__}:{program.__name__}"
            command = ["-m", "tests.faults", function, json.dumps(arguments), str(timeout), result]
        before = os.times()
        try:
            ended = subprocess.run(
                [sys.executable, "-W", "error", *command],
                cwd=ROOT,
                env={**os.environ, **(env or {}), "LD_PRELOAD": str(fault_shim)},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                # The program ends itself, so as to tell where it hangs.
                timeout=timeout + 5,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            pytest.fail(f"{program} did not end in {timeout} s: {exc.stderr!r}", pytrace=False)
        after = os.times()
        if check and ended.returncode:
            pytest.fail(f"{program} ended with {ended.returncode}:\n{ended.stderr}", pytrace=False)
        return Outcome(
            json.loads(result.read_text()),
            ended.returncode,
            ended.stdout,
            ended.stderr,
            sum(after[2:4]) - sum(before[2:4]),
        )

    return run
