"""Every code block in the README and the documentation does what it shows."""

from __future__ import annotations

import importlib
import logging
import re
import subprocess
from pathlib import Path
from textwrap import dedent

import pytest

from tests.doc_blocks import blocks_of, run_page

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(
        path
        for path in (ROOT / "docs").rglob("*")
        if path.suffix in (".md", ".rst") and "_build" not in path.parts
    ),
]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told, root = logging.getLogger("sockscope.server"), logging.getLogger()
    levels, handlers = (told.level, root.level), root.handlers[:]
    try:
        run_page(path, tmp_path)
    finally:
        # What a page says of logging is for its reader's program only.
        told.setLevel(levels[0])
        root.setLevel(levels[1])
        root.handlers[:] = handlers


def test_set_up_commands_are_one_line_each():
    """The two blocks that .ci/run takes its commands from."""
    blocks = [
        block for block in blocks_of((ROOT / "README.md").read_text()) if block.language == "sh"
    ]
    assert [block.text.count("\n") for block in blocks] == [1, 1]
    assert "sockscope demo" in blocks[0].text
    assert "pytest" in blocks[1].text


@pytest.mark.parametrize("module", ["sockscope", "sockscope.testing", "sockscope.buffered"])
def test_every_public_name_is_in_the_reference(module):
    pages = "".join(path.read_text() for path in (ROOT / "docs" / "reference").iterdir())
    documented = set(re.findall(r"auto(?:function|class|exception|data):: ([\w.]+)", pages))
    documented = {name.rpartition(".")[2] for name in documented}
    assert set(importlib.import_module(module).__all__) - documented == set()


# The finder and the runner themselves


@pytest.fixture
def run(tmp_path):
    def run(text, name="page.md"):
        path = tmp_path / name
        path.write_text(dedent(text))
        return run_page(path, tmp_path)

    return run


MARKDOWN = """\
Text
```python
x = 1
```
- in a list:
  ```console
  $ python -m sockscope demo
  ```
<!-- not run: it would take a day -->
```python
y = 2
```

```{code-block} python
:caption: server.py
:emphasize-lines: 1

z = 3
```
"""
RESTRUCTURED = """\
Text

.. code-block:: python

   x = 1

   x = 2

- in a list:

  .. code-block:: console

     $ python -m sockscope demo

.. not run: it would take a day

.. code-block:: python

   y = 2

.. code-block:: python
   :caption: server.py

   z = 3
"""


@pytest.mark.parametrize("page", [MARKDOWN, RESTRUCTURED], ids=["markdown", "restructured"])
def test_finds_blocks(page):
    first, console, skipped, file = blocks_of(page)
    assert first.language == "python"
    assert first.text.startswith("x = 1\n")
    for block in (first, file):
        assert page.splitlines()[block.line - 1].strip() == block.text.splitlines()[0]
    assert (console.language, console.text) == ("console", "$ python -m sockscope demo\n")
    assert skipped.not_run == "it would take a day"
    assert (file.caption, file.text) == ("server.py", "z = 3\n")
    assert (first.not_run, first.caption) == (None, None)


def test_blocks_share_a_namespace(run):
    assert run("```python\nx = 1\n```\n\n```python\nassert x == 1\n```\n") == [
        "python at line 2",
        "python at line 6",
    ]


def test_a_failing_block_names_its_line(run):
    with pytest.raises(ZeroDivisionError) as caught:
        run("# Title\n\n```python\nx = 1\nx / 0\n```\n")
    assert str(caught.traceback[-1].path).endswith("page.md")
    assert caught.traceback[-1].lineno + 1 == 5


def test_top_level_await_is_under_trio(run):
    run("```python\nimport trio\nawait trio.lowlevel.checkpoint()\nx = 1\n```\n```python\nx\n```\n")


def test_commands_run_and_must_succeed(run):
    run("```console\n$ python -c 'print(1)'\n1\n```\n")
    run("```console\n$ echo 2 | python -c 'assert input() == \"2\"'\n```\n")
    with pytest.raises(AssertionError, match="broken"):
        run("```console\n$ python -c 'raise SystemExit(\"broken\")'\n```\n")


def test_other_commands_do_not_run(run):
    assert run("```console\n$ rm -rf everything\n```\n") == []


SERVER = """\
```{code-block} python
:caption: server.py

import time
print("listening")
time.sleep(60)
```
```console
$ python server.py &
listening
$ python -c 'print("client")'
```
"""


def test_a_command_in_the_background(run):
    assert run(SERVER) == ["python server.py &", "python -c 'print(\"client\")'"]


def test_a_command_in_the_background_that_dies(run):
    with pytest.raises(AssertionError, match="printed nothing"):
        run(SERVER.replace('print("listening")', "1 / 0"))
    with pytest.raises(AssertionError, match="bad end"):
        run(
            SERVER.replace(
                "import time",
                "import signal, sys, time\n"
                "signal.signal(signal.SIGINT, lambda *_: sys.exit('bad end'))",
            )
        )


def test_a_block_that_is_not_run_has_its_reason(run):
    assert run("<!-- not run: needs a day -->\n```python\n1 / 0\n```\n") == []
    with pytest.raises(ZeroDivisionError):
        run("<!-- not run: -->\n```python\n1 / 0\n```\n")


def test_nothing_hangs(run, monkeypatch):
    monkeypatch.setattr("tests.doc_blocks.TIMEOUT", 0.3)
    with pytest.raises(subprocess.TimeoutExpired):
        run("```console\n$ python -c 'import time; time.sleep(60)'\n```\n")
