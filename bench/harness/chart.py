"""The results as an SVG: a panel for each figure, a bar for each program, ours in colour.

Written by hand: it is rectangles and text, and it must show in a README without a script. The
colours follow the reader's light or dark page.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from pathlib import Path

from harness.programs import OURS
from harness.results import Results, Summary
from harness.table import number
from harness.workloads import Figure, Workload

WIDTH, MARGIN, COLUMNS, GAP = 1000, 24, 2, 32
ROW, BAR, HEAD, LINE = 22, 14, 46, 18
PANEL = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) / COLUMNS
VALUE = 62
LETTER = 7.3  # the mean width of a letter of a label: text cannot be measured here

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
Panel = tuple[Workload, Figure, list[Row]]


def write(results: Results, title: str, path: Path) -> None:
    """Draw every figure that has rounds."""
    panels = [panel for panel in _panels(results) if panel[2]]
    label = LETTER * max((len(row[0]) for panel in panels for row in panel[2]), default=0) + 6
    top, body = MARGIN + 48.0, []
    for start in range(0, len(panels), COLUMNS):
        line = panels[start : start + COLUMNS]
        for column, panel in enumerate(line):
            body += _panel(MARGIN + column * (PANEL + GAP), top, label, panel)
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


def _panels(results: Results) -> Iterator[Panel]:
    for workload in results.workloads:
        for figure in workload.figures:
            rows = []
            for program in workload.programs:
                summary = results.summary(figure.name, program.name)
                if summary is not None:
                    rows.append((program.label, program.name.startswith(OURS), summary))
            yield workload, figure, rows


def _panel(x: float, y: float, label: float, panel: Panel) -> Iterator[str]:
    workload, figure, rows = panel
    better = "more" if figure.higher_is_better else "less"
    yield _text(x, y + 13, f"{workload.group.partition(',')[0]}: {figure.title}", "head")
    yield _text(x, y + 30, f"{figure.unit}, {better} is better", "quiet")
    longest = max(summary.high for _, _, summary in rows)
    scale = (PANEL - label - VALUE) / max(longest, 1e-9)
    for index, row in enumerate(rows):
        top = y + HEAD + index * ROW
        yield _text(x, top + 11.5, row[0], "strong" if row[1] else "")
        yield from _bar(x + label, top, row, scale)


def _bar(x: float, y: float, row: Row, scale: float) -> Iterator[str]:
    """A bar as long as the median, a line over the range, the median in figures."""
    _, ours, summary = row
    low, high, middle = x + summary.low * scale, x + summary.high * scale, y + BAR / 2
    yield (
        f'<rect class="{"ours" if ours else "bar"}" x="{x:.1f}" y="{y:.1f}" rx="2" '
        f'height="{BAR}" width="{max(summary.median * scale, 1):.1f}"/>'
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
