"""Runs what needs privilege, other programs, or the network: each check in a process of its own.

    python tests/system/run.py [--only NAME] [--list] [--json FILE]

Each has a network of its own where that is allowed, which goes with its last process; what
cannot be run here is skipped, and says why. The exit status is 1 if a check has failed.
"""

from __future__ import annotations

import argparse
import inspect
import json
import subprocess
import sys
import time
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.system import networks, peers, system_calls
from tests.system.support import ROOT, Skip, end_group, may_make_networks

GROUPS = {
    "networks": networks.CHECKS,
    "peers": peers.CHECKS,
    "system calls": system_calls.CHECKS,
}
NEED_A_NETWORK = "no network namespace may be made here (root, or user namespaces), or no unshare"
SKIPPED = 77
SECONDS = 120.0  # for one check


def run_one(name):
    """In a process of its own: its status and its last line say how the check named so went."""
    [check] = [checks[name] for checks in GROUPS.values() if name in checks]
    if may_make_networks() is not None:
        networks.prepare()
    try:
        if inspect.iscoroutinefunction(check):
            trio.run(check)
        else:
            check()
    except BaseException as exc:
        reason = reason_to_skip(exc)
        if reason is None:
            raise
        print(reason)
        return SKIPPED
    return 0


def reason_to_skip(exc):
    """That of a `Skip` in *exc*, which a nursery may have wrapped; None if there is none."""
    if isinstance(exc, Skip):
        return str(exc)
    reasons = (reason_to_skip(leaf) for leaf in getattr(exc, "exceptions", ()))
    return next((reason for reason in reasons if reason is not None), None)


def outcome_of(group, name, words):
    """Run one check: "passed", "failed" or "skipped", and why."""
    if group == "networks" and words is None:
        return "skipped", NEED_A_NETWORK
    command = [*(words or []), sys.executable, __file__, "--one", name]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        return "failed", f"not over after {SECONDS:.0f} s"
    finally:
        end_group(process)
    last = next((line for line in reversed(said.splitlines()) if line.strip(" |+-")), "")
    if process.returncode == SKIPPED:
        return "skipped", last
    return ("failed", said) if process.returncode else ("passed", "")


def main():
    parser = argparse.ArgumentParser(prog="tests/system/run.py", description=__doc__)
    parser.add_argument("--only", action="append", metavar="NAME", help="this one; repeatable")
    parser.add_argument("--list", action="store_true", help="print the names, and end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the table there, too")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return run_one(arguments.one)
    every = [(group, name) for group, checks in GROUPS.items() for name in checks]
    chosen = [row for row in every if not arguments.only or row[1] in arguments.only]
    if arguments.list:
        print(*(name for _, name in every), sep="\n")
        return 0
    if not chosen:
        parser.error(f"there is none of {arguments.only}: see --list")
    words = may_make_networks()
    table = []
    for group, name in chosen:
        began = time.monotonic()
        outcome, why = outcome_of(group, name, words)
        seconds = time.monotonic() - began
        table.append({"check": name, "outcome": outcome, "seconds": seconds, "why": why})
        reason = f"  ({why})" if outcome == "skipped" else ""
        print(f"{outcome:8} {seconds:6.1f} s  {name.replace('_', ' ')}{reason}", flush=True)
    failures = [row for row in table if row["outcome"] == "failed"]
    for row in failures:
        print(f"\n--- {row['check']}\n{row['why'].rstrip()}")
    counts = [sum(row["outcome"] == kind for row in table) for kind in ("passed", "skipped")]
    print(f"\n{counts[0]} passed, {counts[1]} skipped, {len(failures)} failed")
    if arguments.json:
        arguments.json.write_text(json.dumps(table, indent=1))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
