"""The results as plain text: a table for each group of figures, and ours against the peers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from harness.goals import Comparison
from harness.results import Results, Summary
from harness.workloads import Figure, Workload


def render(results: Results, comparisons: Sequence[Comparison]) -> str:
    """All tables, the machine, and what failed."""
    parts = [_group(results, name, figures) for name, figures in results.groups().items()]
    parts += [_ratios(results, comparison) for comparison in comparisons]
    parts += [_machine(results), _failures(results)]
    return "\n\n".join(part for part in parts if part)


def number(value: float) -> str:
    """Three significant digits, and whole numbers with thousands set apart."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _cell(summary: Summary | None) -> str:
    if summary is None:
        return "-"
    spread = "" if summary.rounds == 1 else f" ±{summary.spread / summary.median:.0%}"
    return number(summary.median) + spread


def _group(results: Results, name: str, figures: Sequence[tuple[Workload, Figure]]) -> str:
    programs = dict.fromkeys(program for workload, _ in figures for program in workload.programs)
    rows = []
    for program in programs:
        cells = [_cell(results.summary(figure.name, program.name)) for _, figure in figures]
        if any(cell != "-" for cell in cells):
            rows.append([program.label, *cells])
    if not rows:
        return ""
    titles = ["", *(figure.title for _, figure in figures)]
    units = ["", *(figure.unit for _, figure in figures)]
    return f"{name} (median of the rounds, ± half their range)\n{_align([titles, units, *rows])}"


def _align(rows: Sequence[Sequence[str]]) -> str:
    """The columns in line: the first to the left, the others to the right; a rule below heads."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for first, *cells in rows:
        aligned = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        lines.append("  ".join([first.ljust(widths[0]), *aligned]).rstrip())
    lines.insert(2, "  ".join("-" * width for width in widths))
    return "\n".join(lines)


def _ratios(results: Results, comparison: Comparison) -> str:
    """The subject as a part of each peer; nothing where it was not measured."""
    rows = []
    for workload in results.workloads:
        for figure in workload.figures:
            cells = [_against(results, figure, comparison, peer) for peer in comparison.peers]
            if any(cell != "-" for cell in cells):
                rows.append([f"{workload.group.partition(',')[0]}: {figure.title}", *cells])
    if not rows:
        return ""
    heads = [[f"{comparison.subject} /", *comparison.peers], [""] * (len(comparison.peers) + 1)]
    return f"Ratios (the goal in brackets, ! where it is missed)\n{_align([*heads, *rows])}"


def _against(results: Results, figure: Figure, comparison: Comparison, peer: str) -> str:
    ratio = results.ratio(figure.name, comparison.subject, peer)
    if ratio is None:
        return "-"
    goal = comparison.goals.get(figure.name, {}).get(peer)
    if goal is None:
        return f"{ratio:.2f}"
    missed = ratio < goal if figure.higher_is_better else ratio > goal
    return f"{'! ' * missed}{ratio:.2f} ({goal:.2f})"


def _machine(results: Results) -> str:
    return "\n".join(f"{name}: {value}" for name, value in results.machine.items())


def _failures(results: Results) -> str:
    """Each reason once, with the workloads in which it was met."""
    workloads: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (workload, program), reason in results.failures.items():
        workloads[program, reason].append(workload)
    lines = [
        f"{program}: {reason} (in {', '.join(names)})"
        for (program, reason), names in workloads.items()
    ]
    return "\n".join(["Not measured", *lines]) if lines else ""
