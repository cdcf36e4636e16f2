"""The command line that the benchmark scripts share, and the rounds themselves."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import chart, machine, table
from harness.build import BUILD, BuildError
from harness.goals import Comparison
from harness.processes import Cores, choose_cores
from harness.programs import Program
from harness.results import Results
from harness.workloads import Settings, Workload

EPILOG = """\
The measured program is pinned to one core and the load to another; what counts is the CPU
time of the measured process for each operation. Rounds are interleaved: each takes all
programs in turn, and in each every server is started anew. Compare ratios within one run
only: from machine to machine, and from day to day, the figures themselves differ.
"""


def main(
    script: str,
    description: str,
    workloads: Sequence[Workload],
    comparisons: Sequence[Comparison],
) -> int:
    """Run a benchmark script.

    Returns:
        The exit status: 0, 1 where something could not be measured, 2 where nothing could.
    """
    arguments = _parse(script, description, workloads)
    if sys.platform != "linux":
        return _refuse("the benchmarks read /proc and use epoll: they run on Linux only")
    settings = Settings(
        rounds=arguments.rounds or (1 if arguments.quick else 5),
        seconds=0.15 if arguments.quick else 0.5,
        bulk_mib=arguments.bulk_mib or (128 if arguments.quick else 512),
        many=0.2 if arguments.quick else 1.0,
    )
    chosen = [workload for workload in workloads if _selected(workload.name, arguments.only)]
    cores = choose_cores()
    results = Results(machine.describe(cores), tuple(chosen))
    try:
        for workload in chosen:
            _run(workload, arguments.servers, settings, cores, results)
    except BuildError as error:
        return _refuse(str(error))
    except KeyboardInterrupt:
        _say("interrupted: what is there is shown")
    print(table.render(results, comparisons))
    results.write_json(arguments.json)
    chart.write(results, description, arguments.svg)
    _say(f"written: {arguments.json} and {arguments.svg}")
    return 1 if results.failures else 0


def _parse(script: str, description: str, workloads: Sequence[Workload]) -> argparse.Namespace:
    names = [workload.name for workload in workloads]
    programs = dict.fromkeys(program.name for work in workloads for program in work.programs)
    parser = argparse.ArgumentParser(
        prog=f"bench/{script}.py",
        description=description,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--only",
        action="append",
        type=_one_of(names),
        metavar="WORKLOAD",
        help=f"measure this only; may be given more than once. One of: {', '.join(names)}",
    )
    parser.add_argument(
        "--servers",
        type=_list_of(list(programs)),
        metavar="A,B",
        help=f"these programs only, of: {', '.join(programs)}",
    )
    parser.add_argument("--rounds", type=_positive, metavar="N", help="rounds (5; --quick: 1)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a look in about a minute: short, one round, a fifth of the largest numbers",
    )
    parser.add_argument(
        "--bulk-mib",
        type=_positive,
        metavar="N",
        help="MiB of a bulk transfer (512; --quick: 128)",
    )
    for ending in ("json", "svg"):
        default = BUILD / f"{script}.{ending}"
        parser.add_argument(
            f"--{ending}", type=Path, default=default, metavar="FILE", help="default: %(default)s"
        )
    return parser.parse_args()


def _one_of(names: Sequence[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(names)}")
        return text

    return check


def _list_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    check = _one_of(names)
    return lambda text: [check(part) for part in text.split(",")]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def _selected(name: str, chosen: Sequence[str] | None) -> bool:
    return chosen is None or name in chosen


def _run(
    workload: Workload,
    chosen: Sequence[str] | None,
    settings: Settings,
    cores: Cores,
    results: Results,
) -> None:
    """All rounds of one workload; what fails is left out of the further ones."""
    programs = [program for program in workload.programs if _selected(program.name, chosen)]
    for number in range(settings.rounds):
        started = time.monotonic()
        order = _rotated(programs, number)
        shown = []
        for program, outcome in workload.measure_round(order, settings, cores):
            if isinstance(outcome, Exception):
                results.failures[workload.name, program.name] = str(outcome)
                programs.remove(program)
                _say(f"{workload.name}: {program.label} left out: {outcome}")
                continue
            results.add(program, outcome)
            shown.append(f"{program.name} {'/'.join(map(table.number, outcome.values()))}")
        _say(
            f"{workload.name} {number + 1}/{settings.rounds} "
            f"({time.monotonic() - started:.1f} s): {', '.join(shown)}"
        )


def _rotated(programs: Sequence[Program], by: int) -> list[Program]:
    """Each round begins with another one, so that none always follows the same."""
    if not programs:
        return []
    by %= len(programs)
    return [*programs[by:], *programs[:by]]


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _refuse(reason: str) -> int:
    _say(f"error: {reason}")
    return 2
