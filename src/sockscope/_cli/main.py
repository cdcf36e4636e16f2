"""`main`: parse the command line, run the command, and tell its error in one line."""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
from collections.abc import Iterator, Sequence

from sockscope._cli import connect, demo, echo, interfaces, options
from sockscope._cli.command import Command, UsageError
from sockscope._cli.output import OutputError, finish, give_up, note, reader_has_gone
from sockscope._cli.signals import exit_code_of
from sockscope._core.errors import SocketError

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

COMMANDS: tuple[Command, ...] = (
    demo.COMMAND,
    echo.COMMAND,
    connect.COMMAND,
    options.COMMAND,
    interfaces.COMMAND,
)

_PROGRAM = "python -m sockscope"
# SIGPIPE ends what writes to nobody; Windows has no such signal, but as good a number.
_SIGPIPE = int(getattr(signal, "SIGPIPE", 13))
_EXIT_CODES = """\
exit codes:
  0    it did what it was asked for, also when the first Ctrl-C or SIGTERM ended it
  1    it failed; the reason is on the standard error
  2    the command line is wrong
  130  Ctrl-C ended it before it was done: for echo and connect the second one
  143  the same by SIGTERM
  141  whoever read its output wanted no more
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
      arguments: what follows the program's name; None for the process's own.

    Returns:
      The exit code.

    Raises:
      SystemExit: the arguments are wrong (2), or help was asked for (0).
    """
    _fill_standard_descriptors()
    for file in (sys.stdout, sys.stderr):
        if isinstance(file, io.TextIOWrapper):
            # A name that the terminal cannot show is no reason to fail.
            file.reconfigure(errors="backslashreplace")
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
        finish()
    except UsageError as exc:
        parser.error(str(exc))
    except KeyboardInterrupt:
        return exit_code_of(signal.SIGINT)
    except Exception as exc:
        return _fail(exc)
    return code


def _parser() -> argparse.ArgumentParser:
    examples = "\n".join(f"  {command.example}" for command in COMMANDS)
    parser = argparse.ArgumentParser(
        _PROGRAM,
        description="Sockets for Trio, tried out from the command line.",
        epilog=f"examples:\n{examples}\n\n{_EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        one = commands.add_parser(
            command.name,
            help=command.summary,
            description=command.description,
            epilog=f"example:\n  {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(one)
        one.set_defaults(run=command.run)
    return parser


def _fill_standard_descriptors() -> None:
    """Open what is closed of 0, 1 and 2, lest a socket get one of these numbers."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


def _fail(exc: Exception) -> int:
    errors = list(_leaves(exc))
    for error in errors:
        if isinstance(error, OutputError):
            give_up()
            if reader_has_gone(error):
                return exit_code_of(_SIGPIPE)
    note("; ".join(dict.fromkeys(map(describe, errors))))
    return 1


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    """What nurseries have put into groups."""
    if isinstance(exc, BaseExceptionGroup):
        for child in exc.exceptions:
            yield from _leaves(child)
    else:
        yield exc


def describe(exc: BaseException) -> str:
    """*exc* in one line."""
    if isinstance(exc, (SocketError, OutputError)):
        text = str(exc.strerror)
    else:
        text = str(exc) or (describe(exc.__cause__) if exc.__cause__ else type(exc).__name__)
    return " ".join(text.split())
