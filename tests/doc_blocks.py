"""Finding the code blocks of a documentation page, and running them as a reader would."""

from __future__ import annotations

import ast
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import trio

TIMEOUT = 30

# Markdown's fence with its language, MyST's directive included, up to the fence that closes it.
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<fence>```+)(?P<kind>[^\n`]*)\n(?P<body>.*?)^(?P=indent)(?P=fence) *$",
    re.MULTILINE | re.DOTALL,
)
# reStructuredText's directive, and the indented lines that follow.
_DIRECTIVE = re.compile(
    r"^(?P<indent> *)\.\. code-block:: *(?P<kind>[^\n]*)\n(?P<body>(?:(?P=indent) +[^\n]*\n|\n)*)",
    re.MULTILINE,
)
_NOT_RUN = re.compile(r"(?:<!-- not run: (.+?) -->|^ *\.\. not run: (.+))\s*\Z", re.MULTILINE)


class Block(NamedTuple):
    """One code block of a page.

    Attributes:
      language: such as ``"python"``.
      text: its code, without the page's indentation.
      line: where the code begins in the page.
      caption: the name of the file that the reader is to save it in, or None.
      not_run: why it is not run, or None.
    """

    language: str
    text: str
    line: int
    caption: str | None
    not_run: str | None


def blocks_of(page: str) -> list[Block]:
    """All code blocks in the text *page*, Markdown or reStructuredText."""
    found = []
    for match in sorted(
        [*_FENCE.finditer(page), *_DIRECTIVE.finditer(page)], key=lambda match: match.start()
    ):
        kind = match["kind"].replace("{code-block}", "").strip()
        language = kind.split()[0] if kind else ""
        options, text, skipped = _options_first(match["body"])
        line = page.count("\n", 0, match.start("body")) + 1 + skipped
        reason = _NOT_RUN.search(page[: match.start()])
        found.append(
            Block(
                language,
                inspect.cleandoc("\n" + text) + "\n",
                line,
                options.get("caption"),
                reason and next(filter(None, reason.groups())),
            )
        )
    return found


def _options_first(body: str) -> tuple[dict[str, str], str, int]:
    """A directive's ``:name: value`` lines, the code after them, and at which line it begins."""
    options = {}
    lines = body.splitlines(keepends=True)
    begin = 0
    for line in lines:
        option = re.fullmatch(r":([\w-]+): *(.*)", line.strip())
        if option:
            options[option[1]] = option[2]
        elif line.strip():
            break
        begin += 1
    return options, "".join(lines[begin:]), begin


def run_page(path: Path, folder: Path) -> list[str]:
    """Run every block of the page at *path* in *folder*; returns what was run, for the record.

    Python blocks run one after the other in one namespace, as in one program (top-level
    ``await`` is under Trio). One with a caption is saved under that name instead. Of the
    commands in console blocks, those that call python run, in a shell; one that ends in
    ``&`` runs, from its first line of output on, beside what follows, until Ctrl-C.
    """
    namespace = {"__name__": "__main__"}
    ran = []
    with ExitStack() as stack:
        for block in blocks_of(path.read_text("utf-8")):
            if block.not_run is not None:
                continue
            if block.language == "python" and block.caption:
                (folder / block.caption).write_text(block.text, "utf-8")
            elif block.language == "python":
                _run_python(block, path, namespace)
                ran.append(f"python at line {block.line}")
            elif block.language == "console":
                for command in _commands(block.text):
                    _run_command(command, folder, stack)
                    ran.append(command)
    return ran


def _run_python(block: Block, path: Path, namespace: dict[str, object]) -> None:
    """Run *block*, whose tracebacks then name the page and its line."""
    tree = ast.parse(block.text, str(path))
    ast.increment_lineno(tree, block.line - 1)
    code = compile(tree, str(path), "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
    result = eval(code, namespace)
    if inspect.iscoroutine(result):

        async def finish() -> None:
            await result

        trio.run(finish)


def _commands(text: str) -> Iterator[str]:
    """The commands of a console block that call python, with their continuation lines."""
    for match in re.finditer(r"^\$ ((?:.*\\\n)*.*)$", text, re.MULTILINE):
        if re.search(r"(?:^|\| *)python ", match[1]):
            yield match[1]


def _run_command(command: str, folder: Path, stack: ExitStack) -> None:
    """Run *command* to its end, or beside the rest of the page."""
    if command.endswith("&"):
        stack.enter_context(_in_background(command.removesuffix("&").strip(), folder))
        return
    ended = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"


@contextmanager
def _in_background(command: str, folder: Path) -> Iterator[None]:
    """Run *command* until the body has ended, then press Ctrl-C; it has to end well."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {command}"],
        cwd=folder,
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            first = process.stdout.readline()
            assert first, f"{command} printed nothing\n{process.stderr.read()}"
            yield
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=TIMEOUT)
            # A program without signal handling ends in a traceback that says so.
            interrupted = "KeyboardInterrupt" in err
            assert process.returncode == 0 or interrupted, f"{command}\n{err}"
        finally:
            process.kill()


def _environment() -> dict[str, str]:
    """The environment in which ``python`` is this one, and output comes as it is printed."""
    path = os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1"}
