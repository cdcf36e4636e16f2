"""What a command prints: plain text; on a terminal, where rich is installed, with its help.

rich comes with the extra ``cli``. ``NO_COLOR`` leaves its tables, without any style.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Final, TextIO

from sockscope._core.errors import words_for
from sockscope._serve.statistics import ServerStatistics

_NOTHING: Final = "-"
_STYLES: Final = {"yes": "green", "no": "dim", _NOTHING: "dim"}


class OutputError(OSError):
    """The standard output takes no more: its reader has gone, the disk is full ..."""


@contextmanager
def writing() -> Generator[None, None, None]:
    """Tell the standard output's errors from all others.

    Raises:
      OutputError: writing failed.
    """
    try:
        yield
    except OSError as exc:
        message = f"cannot write to the standard output: {words_for(exc)}"
        raise OutputError(exc.errno, message) from exc


def _rich(file: TextIO | None) -> Any:
    """A console of rich's on *file*; None where that is no terminal, or rich is not there."""
    if file is None or not file.isatty():
        return None
    try:
        console = importlib.import_module("rich.console")
    except ModuleNotFoundError:
        return None
    system = None if os.environ.get("NO_COLOR") else "auto"
    # An address such as [::1]:80 is no markup.
    return console.Console(
        file=file, color_system=system, markup=False, emoji=False, highlight=False
    )


def say(text: str = "", *, style: str = "") -> None:
    """Print *text* at once: who reads it may wait for it.

    Args:
      text: one line or several.
      style: rich's word for its look on a terminal.

    Raises:
      OutputError: writing failed.
    """
    console = _rich(sys.stdout)
    with writing():
        if console is None:
            print(text, flush=True)
        else:
            console.print(text, style=style, soft_wrap=True)


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table.

    Args:
      headers: the names of the columns.
      rows: their cells; None and "" print as a dash.

    Raises:
      OutputError: writing failed.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    console = _rich(sys.stdout)
    with writing():
        if console is None:
            print("\n".join(_aligned([list(headers), *cells])), flush=True)
        else:
            console.print(_rich_table(headers, cells))


def _cell(value: object) -> str:
    if value is None or value == "":
        return _NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _aligned(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _rich_table(headers: Sequence[str], rows: list[list[str]]) -> Any:
    text = importlib.import_module("rich.text").Text
    box = importlib.import_module("rich.box").SIMPLE
    made = importlib.import_module("rich.table").Table(box=box, header_style="bold cyan")
    for header in headers:
        made.add_column(header, overflow="fold")
    for row in rows:
        made.add_row(*(text(cell, style=_STYLES.get(cell, "")) for cell in row))
    return made


def note(text: str) -> None:
    """Print a line on the standard error: for who watches, not for what reads the output."""
    if sys.stderr is None:
        return
    try:
        print(f"sockscope: {text}", file=sys.stderr, flush=True)
    except OSError:
        # Nobody is there to be told; the interpreter need not try once more.
        sys.stderr = None


@contextmanager
def waiting(text: str) -> Generator[None, None, None]:
    """Show on a terminal that something takes its time."""
    console = _rich(sys.stdout)
    # One without styles wants no moving parts either, or has none.
    if console is None or console.color_system is None:
        yield
        return
    with console.status(text):
        yield


@contextmanager
def progress(text: str, total: int) -> Generator[Callable[[int], None], None, None]:
    """A bar on the standard error, where that is a terminal and the standard output is not.

    Args:
      text: what goes on.
      total: how many bytes there are; 0 is unknown, without a bar.

    Yields:
      A function that is told how many bytes have been done since.
    """
    console = _rich(sys.stderr) if total and not _is_terminal(sys.stdout) else None
    if console is None:
        yield _ignore
        return
    with importlib.import_module("rich.progress").Progress(console=console) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)


def _is_terminal(file: TextIO | None) -> bool:
    return file is not None and file.isatty()


def _ignore(count: int) -> None:
    """Nobody watches."""


#: Shown even where they are 0.
_ALWAYS = ("accepted", "finished", "bytes_received", "bytes_sent")


def show_statistics(statistics: ServerStatistics) -> None:
    """Print a server's figures: what it did, and whatever else is not 0."""
    rows = []
    for field in fields(statistics):
        value = getattr(statistics, field.name)
        if field.name == "listeners" or not (value or field.name in _ALWAYS):
            continue
        if not isinstance(value, int):
            value = ", ".join(f"{kind}: {count}" for kind, count in value.items())
        rows.append((field.name.replace("_", " "), value))
    table(("statistics", ""), rows)


def finish() -> None:
    """Write out what is buffered, while an error can still be told.

    Raises:
      OutputError: writing failed.
    """
    if sys.stdout is not None:
        with writing():
            sys.stdout.flush()


def give_up() -> None:
    """After an `OutputError`: the interpreter would try once more, and complain in its own way."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)


def reader_has_gone(exc: OutputError) -> bool:
    """Whether it is only that who read the output wanted no more."""
    return exc.errno == errno.EPIPE
