"""Starts the measured programs and the load, each on a core of its own, and hears them."""

from __future__ import annotations

import json
import os
import select
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

PATIENCE = 60.0  # seconds in which any single measurement must have said something


class ProgramError(Exception):
    """A program could not run, or what it did was wrong; the message is its own last line."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Where the measured program runs and where the load does."""

    measured: int
    load: int


def choose_cores() -> Cores:
    """The last and the first core this process may use; one and the same where there is one."""
    allowed = sorted(os.sched_getaffinity(0))
    return Cores(measured=allowed[-1], load=allowed[0])


class Child:
    """A running program, stopped at the end of the block."""

    def __init__(
        self,
        command: Sequence[str],
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed on the way out
        self._process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(environment or {})},
        )
        self.pid = self._process.pid
        if core is not None:
            self.pin(core)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._errors.close()

    def pin(self, core: int) -> None:
        """Keep its main thread, and every thread that one starts from now on, on one core."""
        try:
            os.sched_setaffinity(self.pid, {core})
        except ProcessLookupError:
            pass  # it ended already: reading its line says why

    def read_line(self) -> str:
        """The next line that it prints, or a `ProgramError` if it ends or is silent."""
        output = self._process.stdout
        ready, _, _ = select.select([output], [], [], PATIENCE)
        if not ready:
            raise ProgramError(f"said nothing for {PATIENCE:.0f} s")
        line = output.readline()
        if not line:
            self._process.wait()
            raise ProgramError(self.last_words())
        return line

    def read_port(self) -> int:
        """Wait until it listens."""
        return int(self.read_line())

    def read_result(self) -> dict[str, float]:
        """Wait for what it measured."""
        return json.loads(self.read_line())

    def complaints(self) -> list[str]:
        """The lines of its standard error so far."""
        # Not by seek: the program writes where the offset that it shares with us stands.
        size = os.fstat(self._errors.fileno()).st_size
        return os.pread(self._errors.fileno(), size, 0).decode(errors="replace").splitlines()

    def last_words(self) -> str:
        """The last line of its standard error, or its status where it said nothing."""
        lines = [line for line in self.complaints() if line.strip()]
        return lines[-1] if lines else f"ended with status {self._process.returncode}"
