"""What was measured: every round of every figure, medians, spreads and ratios."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from harness.programs import Program
from harness.workloads import Figure, Workload


@dataclass(frozen=True, slots=True)
class Summary:
    """The rounds of one figure of one program, in short."""

    median: float
    low: float
    high: float
    rounds: int

    @property
    def spread(self) -> float:
        """Half the way from the lowest round to the highest."""
        return (self.high - self.low) / 2


@dataclass(slots=True)
class Results:
    """All rounds, by figure and program; and what failed, by workload and program."""

    machine: dict[str, str]
    workloads: tuple[Workload, ...]
    rounds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, program: Program, figures: dict[str, float]) -> None:
        """Note one round of one program."""
        for name, value in figures.items():
            self.rounds[name][program.name].append(value)

    def summary(self, figure: str, program: str) -> Summary | None:
        """Median, lowest and highest round; None where there is none."""
        values = self.rounds[figure].get(program)
        return Summary(median(values), min(values), max(values), len(values)) if values else None

    def ratio(self, figure: str, program: str, peer: str) -> float | None:
        """The median of the ratios round by round: what slows a whole round cancels out."""
        pairs = zip(
            self.rounds[figure].get(program, ()), self.rounds[figure].get(peer, ()), strict=False
        )
        ratios = [value / other for value, other in pairs if other]
        return median(ratios) if ratios else None

    def groups(self) -> dict[str, list[tuple[Workload, Figure]]]:
        """The figures by group, in the order of the workloads."""
        groups: dict[str, list[tuple[Workload, Figure]]] = defaultdict(list)
        for workload in self.workloads:
            groups[workload.group] += [(workload, figure) for figure in workload.figures]
        return groups

    def write_json(self, path: Path) -> None:
        """Write all there is, rounds included."""
        figures = {
            figure.name: self._figure_to_json(workload, figure)
            for workload in self.workloads
            for figure in workload.figures
        }
        failures = [
            {"workload": workload, "program": program, "reason": reason}
            for (workload, program), reason in self.failures.items()
        ]
        whole = {"machine": self.machine, "figures": figures, "failures": failures}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n")

    def _figure_to_json(self, workload: Workload, figure: Figure) -> dict[str, object]:
        programs = {}
        for program in workload.programs:
            summary = self.summary(figure.name, program.name)
            if summary is None:
                continue
            programs[program.name] = {
                "label": program.label,
                "median": round(summary.median, 3),
                "low": round(summary.low, 3),
                "high": round(summary.high, 3),
                "rounds": [round(value, 3) for value in self.rounds[figure.name][program.name]],
            }
        return {
            "workload": workload.name,
            "title": f"{workload.group}: {figure.title}",
            "unit": figure.unit,
            "higher_is_better": figure.higher_is_better,
            "programs": programs,
        }
