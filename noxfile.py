"""What is checked, as sessions: ``nox -l`` lists them, ``nox -s lint`` runs one."""

from __future__ import annotations

import os
import shutil
import subprocess

import nox

PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
# Minutes long, and not for every change.
SCRIPTS = {
    "bench": ["bench/run.py", "bench/tls.py", "bench/udp.py", "bench/layers.py"],
    "soak": ["bench/soak.py"],
    "system": ["tests/system/run.py"],
}

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["tests", "lint", "types", "docs"]
# A CPython that is not installed is skipped, in CI as well.
nox.options.error_on_missing_interpreters = False
nox.options.reuse_venv = "yes"

if shutil.which("pyenv"):
    # pyenv's commands work for the versions selected: select all that are installed.
    versions = subprocess.run(
        ["pyenv", "versions", "--bare"], capture_output=True, text=True, check=False
    )
    os.environ.setdefault("PYENV_VERSION", ":".join(reversed(versions.stdout.split())))


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The tests, or a part of them: ``nox -s tests -- tests/_core``."""
    session.install("-e", ".[test]")
    whole = ["--cov"] if session.python == PYTHONS[-1] else []
    session.run("pytest", *(session.posargs or whole))


@nox.session
def lint(session: nox.Session) -> None:
    """The formatting and the rules of ruff."""
    session.install("-e", ".[lint]")
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """The types: no error, lines that must fail do, and no public name without its type."""
    session.install("-e", ".[types]")
    session.run("mypy")
    session.run("pyright", "--warnings")
    session.run("pyright", "--verifytypes", "sockscope", "--ignoreexternal")


@nox.session
def docs(session: nox.Session) -> None:
    """The documentation, in docs/_build; a warning is an error."""
    session.install("-e", ".[docs,cli,interfaces]")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "-E", "docs", "docs/_build")


def script_session(name: str, scripts: list[str]) -> None:
    """Make the session that runs *scripts*, with the arguments after ``--``."""

    def run(session: nox.Session) -> None:
        session.install("-e", ".[bench]")
        for script in scripts:
            session.run("python", script, *session.posargs)

    run.__doc__ = f"{', '.join(scripts)}: with the arguments after --."
    nox.session(run, name=name)


for session_name, session_scripts in SCRIPTS.items():
    script_session(session_name, session_scripts)
