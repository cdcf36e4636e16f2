"""The results as an SVG: a panel for each figure, a bar for each program, ours in colour.

Written by hand: it is rectangles and text, and it must show in a README without a script. The
colours follow the reader's light or dark page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from harness.programs import OURS
from harness.results import Results, Summary
from harness.table import number
from harness.workloads import Figure, Workload

WIDTH, MARGIN, COLUMNS, GAP = 1000, 24, 2, 32
ROW, BAR, HEAD, LINE = 22, 14, 46, 18
PANEL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
LABEL, VALUE = 172, 62

STYLE = """
  text { font: 13px system-ui, -apple-system, 'Segoe UI', sans-serif; fill: #24292f }
  .page { fill: #ffffff } .head { font-weight: 600 } .large { font-size: 18px; font-weight: 600 }
  .quiet { fill: #656d76; font-size: 12px } .bar { fill: #afb8c1 } .ours { fill: #0969da }
  .range { stroke: #57606a; stroke-width: 1.5 } .strong { font-weight: 600 }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #0d1117 } .quiet { fill: #8d96a0 }
    .bar { fill: #484f58 } .ours { fill: #4493f8 } .range { stroke: #b1bac4 }
  }
"""

Row = tuple[str, bool, Summary]


def write(results: Results, title: str, path: Path) -> None:
    """Draw every figure that has rounds."""
    panels = [panel for panel in _panels(results) if panel[2]]
    top, body = MARGIN + 48.0, []
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for column, (workload, figure, rows) in enumerate(line):
            x = MARGIN + column * (PANEL + GAP)
            body += _panel(x, top, workload, figure, rows)
        top += HEAD + max(len(rows) for _, _, rows in line) * ROW + 20
    foot = list(_footer(results, top))
    height = top + len(foot) * LINE + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}">',
        f"<title>{escape(title)}</title>",
        f"<style>{STYLE}</style>",
        '<rect class="page" width="100%" height="100%" rx="6"/>',
        _text(MARGIN, MARGIN + 14, title, "large"),
        *body,
        *foot,
        "</svg>",
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(parts) + "\n")


def _panels(results: Results) -> Iterator[tuple[Workload, Figure, list[Row]]]:
    for workload in results.workloads:
        for figure in workload.figures:
            rows = []
            for program in workload.programs:
                summary = results.summary(figure.name, program.name)
                if summary is not None:
                    rows.append((program.label, program.name.startswith(OURS), summary))
            yield workload, figure, rows


def _panel(
    x: float, y: float, workload: Workload, figure: Figure, rows: Sequence[Row]
) -> Iterator[str]:
    better = "more" if figure.higher_is_better else "less"
    yield _text(x, y + 13, f"{workload.group.partition(',')[0]}: {figure.title}", "head")
    yield _text(x, y + 30, f"{figure.unit}, {better} is better", "quiet")
    room = PANEL - LABEL - VALUE
    scale = room / max(max(summary.high for _, _, summary in rows), 1e-9)
    for index, (label, ours, summary) in enumerate(rows):
        yield from _row(x, y + HEAD + index * ROW, label, ours, summary, scale)


def _row(
    x: float, y: float, label: str, ours: bool, summary: Summary, scale: float
) -> Iterator[str]:
    """The label, a bar as long as the median, a line over the range, the median in figures."""
    start, middle = x + LABEL, y + BAR / 2
    low, high = start + summary.low * scale, start + summary.high * scale
    kind = "ours" if ours else "bar"
    yield _text(x, y + 11.5, label, "strong" if ours else "")
    yield (
        f'<rect class="{kind}" x="{start:.1f}" y="{y:.1f}" rx="2" height="{BAR}" '
        f'width="{max(summary.median * scale, 1):.1f}"/>'
    )
    if high - low > 1:
        yield (
            f'<line class="range" x1="{low:.1f}" x2="{high:.1f}" '
            f'y1="{middle:.1f}" y2="{middle:.1f}"/>'
        )
    yield _text(high + 6, y + 11.5, number(summary.median), "strong" if ours else "")


def _footer(results: Results, top: float) -> Iterator[str]:
    machine = results.machine
    lines = (
        "Bars: the median of the rounds; lines: from the lowest to the highest.",
        f"{machine['processor']}, {machine['kernel']}, {machine['python']}, {machine['openssl']}",
        f"{machine['packages']}; {machine['cores']}; {machine['date']}",
    )
    for index, line in enumerate(lines):
        yield _text(MARGIN, top + index * LINE + 10, line, "quiet")


def _text(x: float, y: float, text: str, kind: str) -> str:
    attribute = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{attribute}>{escape(text)}</text>'
