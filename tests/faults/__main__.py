"""Runs one test program: ``python -m tests.faults FUNCTION ARGUMENTS SECONDS RESULT``.

FUNCTION is ``module:name`` of a function, ARGUMENTS its arguments in JSON; a coroutine
function runs under Trio. After SECONDS the program is ended with the traceback of every
thread. What it returns goes to the file RESULT, in JSON.
"""

from __future__ import annotations

import faulthandler
import importlib
import inspect
import json
import sys
from pathlib import Path

import trio


def main(function: str, arguments: str, seconds: str, result: str) -> None:
    faulthandler.dump_traceback_later(float(seconds), exit=True)
    module, _, name = function.partition(":")
    program = getattr(importlib.import_module(module), name)
    run = (
        trio.run if inspect.iscoroutinefunction(program) else lambda program, *args: program(*args)
    )
    Path(result).write_text(json.dumps(run(program, *json.loads(arguments))))


main(*sys.argv[1:])
