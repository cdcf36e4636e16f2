"""The work, as data, and the two ways of measuring it: from outside, and by the program itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial

from harness.build import build
from harness.processes import Child, Cores, ProgramError
from harness.programs import Program

Result = Mapping[str, float]
# What one program gave in one round: its figures, or why it has none.
Outcome = tuple[Program, dict[str, float] | ProgramError]


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how large: what the command line can change."""

    rounds: int
    seconds: float
    bulk_mib: int
    many: float  # a factor on the largest numbers of connections


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that a workload gives: its name in the JSON file, its title and its unit."""

    name: str
    title: str
    unit: str
    read: Callable[[Result], float]
    higher_is_better: bool = False


def cpu_per_operation(name: str, title: str, unit: str = "CPU µs") -> Figure:
    """CPU time of the measured process for each operation, in microseconds."""
    return Figure(name, title, unit, lambda result: result["cpu_ns"] / 1e3 / result["operations"])


@dataclass(frozen=True, slots=True)
class ServerWorkload:
    """A load generator asks a server, and reads the CPU time of the server's process."""

    name: str
    group: str
    figures: tuple[Figure, ...]
    programs: tuple[Program, ...]
    load: tuple[str, ...]  # which workload of the load generator, with its arguments
    role: str = "echo"
    generator: str = "load"
    server_arguments: tuple[str, ...] = ()
    lasts: float = 1.0  # as many times as long as the others
    sized: Callable[[Settings], Mapping[str, int]] = field(default=lambda settings: {})

    def measure_round(
        self, programs: Iterable[Program], settings: Settings, cores: Cores
    ) -> Iterator[Outcome]:
        """Start all servers, which may take both cores, then measure one after the other."""
        with ExitStack() as stack:
            running = [(program, stack.enter_context(self._start(program))) for program in programs]
            ports = [_try(server.read_port) for program, server in running]
            for (program, server), port in zip(running, ports, strict=True):
                if isinstance(port, ProgramError):
                    yield program, port
                    continue
                server.pin(cores.measured)
                yield program, _try(partial(self._measure, server, port, settings, cores))

    def _start(self, program: Program) -> Child:
        command = program.command(self.role, *self.server_arguments)
        return Child(command, environment=dict(program.environment))

    def _measure(
        self, server: Child, port: int, settings: Settings, cores: Cores
    ) -> dict[str, float]:
        command = [str(build(self.generator)), *self.load, "--port", str(port)]
        command += ["--pid", str(server.pid), "--seconds", str(settings.seconds * self.lasts)]
        for name, value in self.sized(settings).items():
            command += [f"--{name}", str(value)]
        with Child(command, cores.load) as load:
            result = load.read_result()
        if server.complaints():  # a traceback a connection is neither the same work nor right
            raise ProgramError(f"it answered, but complained: {server.last_words()}")
        return _figures(self.figures, result)


@dataclass(frozen=True, slots=True)
class SelfMeasuredWorkload:
    """The program does the work against a companion in C and measures itself."""

    name: str
    group: str
    figures: tuple[Figure, ...]
    programs: tuple[Program, ...]
    companion: tuple[str, ...]
    arguments: tuple[str, ...]

    def measure_round(
        self, programs: Iterable[Program], settings: Settings, cores: Cores
    ) -> Iterator[Outcome]:
        """Run one program after the other, each with a companion of its own."""
        for program in programs:
            yield program, _try(partial(self._measure, program, settings, cores))

    def _measure(self, program: Program, settings: Settings, cores: Cores) -> dict[str, float]:
        binary, *arguments = self.companion
        with Child([str(build(binary)), *arguments], cores.load) as companion:
            ports = companion.read_line().strip()  # one, or two with a comma
            command = program.command(ports, settings.seconds, *self.arguments)
            with Child(command, cores.measured, dict(program.environment)) as running:
                return _figures(self.figures, running.read_result())


Workload = ServerWorkload | SelfMeasuredWorkload


def _figures(figures: Iterable[Figure], result: Result) -> dict[str, float]:
    return {figure.name: figure.read(result) for figure in figures}


def _try(step: Callable[[], object]) -> object:
    """What the step gives, or the `ProgramError` that it raised: the others go on."""
    try:
        return step()
    except ProgramError as error:
        return error
