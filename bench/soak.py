"""Soaks a server: thousands of clients of every kind, descriptors that run out, and no leaks.

At its end every good client was answered, the server's descriptors and tasks are where they
began, its memory is flat, and its statistics add up. The clients say what they saw, the
kernel what the server has: it runs in a process of its own.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio
import trustme
from soaking import clients

HERE = Path(__file__).parent
FIRST_SHORTAGE = 20.0  # seconds from the start; then one in each such time
SHORTAGE = 3.0
SETTLE = 30.0  # seconds for what the clients left behind: the idle, and the lingering ones
# What the collector leaves of Python's blocks when all is over: caches and free lists, but
# nothing of each connection.
MOST_BLOCKS = 50_000
BLOCKS_FOR_EACH = 0.05
# The second half's growth. The first fills the interpreter's pools; each burst, as after a
# shortage, may still be the highest so far, and what it took stays resident.
MOST_GROWTH = 0.05
LONG_ENOUGH = 180.0  # seconds, for that to mean something


class Soaked:
    """The server's process: what it says, and what the kernel says of it."""

    def __init__(self, process):
        self.process = process
        self.latest = {}
        self.complaints = []
        self._page = resource.getpagesize()
        self.pid = process.pid

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def memory(self):
        """Resident bytes."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * self._page

    def cpu_seconds(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def take_descriptors(self):
        """Let it open no more than it has: up to the lowest number that is free."""
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        taken = {int(name) for name in os.listdir(f"/proc/{self.pid}/fd")}
        lowest = next(number for number in itertools.count() if number not in taken)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (lowest, hard))

    def give_descriptors(self):
        _, hard = resource.prlimit(self.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(self.pid, resource.RLIMIT_NOFILE, (hard, hard))

    async def listen(self):
        """Keep the latest of what it prints."""
        async for line in lines_of(self.process.stdout):
            self.latest = json.loads(line)

    async def collect_complaints(self):
        async for line in lines_of(self.process.stderr):
            self.complaints.append(line)


async def lines_of(stream):
    rest = ""
    async for data in stream:
        *lines, rest = (rest + data.decode()).split("\n")
        for line in lines:
            yield line


async def start(nursery, chain):
    command = [sys.executable, "-W", "error::ResourceWarning", "-m", "soaking.server", chain]
    process = await trio.lowlevel.open_process(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=HERE,
    )
    soaked = Soaked(process)
    nursery.start_soon(soaked.listen)
    nursery.start_soon(soaked.collect_complaints)
    with trio.fail_after(20):
        await until(lambda: soaked.latest)
    return soaked


async def until(condition):
    while not condition():  # noqa: ASYNC110 - another process tells no events
        await trio.sleep(0.05)


async def run_short(soaked, phases):
    """Take the descriptors away now and then, and give them back."""
    while True:
        await trio.sleep(FIRST_SHORTAGE - SHORTAGE)
        soaked.take_descriptors()
        phases.append(time.monotonic())
        await trio.sleep(SHORTAGE)
        soaked.give_descriptors()


async def sample(soaked, world, seconds, samples):
    """Each second the memory, and a line (or a bar) of progress."""
    began = time.monotonic()
    while True:
        passed = time.monotonic() - began
        active = sum(server["active"] for server in soaked.latest["servers"])
        samples.append((passed, soaked.memory(), active, soaked.latest["blocks"]))
        show_progress(passed, seconds, f"{active:,} open, {world.requests:,} requests")
        await trio.sleep(1)


def show_progress(passed, seconds, words):
    if sys.stderr.isatty():
        filled = min(30, round(30 * passed / seconds))
        bar = "#" * filled + "." * (30 - filled)
        print(f"\r{bar} {passed:4.0f} s, {words} ", end="", file=sys.stderr, flush=True)
    elif round(passed) % 30 == 0:
        print(f"{passed:4.0f} s, {words}", file=sys.stderr, flush=True)


async def soak(minutes, number, seed, chain, context):
    seconds = 60 * minutes
    samples, phases = [], []
    async with trio.open_nursery() as nursery:
        soaked = await start(nursery, chain)
        before = {"descriptors": soaked.descriptors(), "tasks": soaked.latest["tasks"]}
        first_blocks = soaked.latest["blocks"]
        world = clients.World(*soaked.latest["ports"], context, random.Random(seed))
        async with trio.open_nursery() as load:
            load.start_soon(sample, soaked, world, seconds, samples)
            load.start_soon(run_short, soaked, phases)
            load.start_soon(clients.run, world, number)
            await trio.sleep(seconds)
            load.cancel_scope.deadline = trio.current_time() + clients.PATIENCE + 5
            world.ending.set()
            await until(lambda: len(load.child_tasks) == 2)
            load.cancel_scope.cancel()
        soaked.give_descriptors()
        with trio.move_on_after(SETTLE):
            await until(lambda: not any(left(server) for server in soaked.latest["servers"]))
            await until(lambda: soaked.descriptors() <= before["descriptors"])
            await trio.sleep(1.5)
        after = {"descriptors": soaked.descriptors(), "tasks": soaked.latest["tasks"]}
        dropped = [listener[3] for s in soaked.latest["servers"] for listener in s["listeners"]]
        cpu = soaked.cpu_seconds()
        await soaked.process.stdin.aclose()
        with trio.fail_after(30):
            await soaked.process.wait()
        await until(lambda: len(nursery.child_tasks) == 0)
    return {
        "seconds": seconds,
        "clients": number,
        "seed": seed,
        "requests": world.requests,
        "connections": dict(world.done),
        "failures": world.failures,
        "phases": len(phases),
        "before": before,
        "after": after,
        "growth": growth([sample for sample in samples if sample[0] <= seconds]),
        "most_open": max(active for _, _, active, _ in samples),
        "memory": samples[-1][1],
        "samples": samples,
        "kept_blocks": soaked.latest["blocks"] - first_blocks,
        "cpu_seconds": cpu,
        "dropped": dropped,
        "exit_status": soaked.process.returncode,
        "complaints": soaked.complaints,
        "statistics": soaked.latest["servers"],
    }


def left(statistics):
    return statistics["active"] + statistics["lingering"]


def growth(samples):
    """By which part of itself the memory grew in the second half: the slope of its best line."""
    half = samples[len(samples) // 2 :]
    if len(half) < 2:
        return 0.0
    middle = sum(when for when, *_ in half) / len(half)
    mean = sum(memory for _, memory, *_ in half) / len(half)
    slope = sum((when - middle) * (memory - mean) for when, memory, *_ in half)
    slope /= sum((when - middle) ** 2 for when, *_ in half)
    return slope * (half[-1][0] - half[0][0]) / mean


def accounted(statistics):
    names = ("active", "finished", "handler_errors", "timed_out", "resets", "option_failures")
    return (
        sum(statistics[name] for name in names)
        + sum(statistics["refused"].values())
        + sum(statistics["upgrade_failures"].values())
    )


def judge(result):
    """What is wrong: nothing, if all is well."""
    for failure in result["failures"]:
        yield f"a client: {failure}"
    for what, count in result["after"].items():
        if count != result["before"][what]:
            yield f"{what}: {result['before'][what]} before, {count} after"
    if result["seconds"] >= LONG_ENOUGH and result["growth"] > MOST_GROWTH:
        yield f"the memory grew by {result['growth']:.1%} in the second half"
    accepted = sum(statistics["accepted"] for statistics in result["statistics"])
    if result["kept_blocks"] > MOST_BLOCKS + BLOCKS_FOR_EACH * accepted:
        yield f"{result['kept_blocks']:,} blocks of memory are left of {accepted:,} connections"
    for statistics in result["statistics"]:
        if statistics["accepted"] != accounted(statistics):
            yield f"{statistics['accepted']} accepted, {accounted(statistics)} accounted for"
        if statistics["handler_errors"] or statistics["close_errors"]:
            yield f"a handler or a close failed: {statistics}"
    if any(result["dropped"]):
        yield f"the kernel dropped connections at a full queue: {result['dropped']}"
    if result["phases"] and not sum(s["shortages"] for s in result["statistics"]):
        yield "no shortage ever came about"
    # A pair of lines for each of two listeners in each phase.
    if len(result["complaints"]) > 4 * result["phases"]:
        yield f"{len(result['complaints'])} log lines in {result['phases']} shortages"
    if unexpected := [line for line in result["complaints"] if "accepting on" not in line]:
        yield f"the server complained: {unexpected[:20]}"
    if result["exit_status"]:
        yield f"the server ended with {result['exit_status']}"


def show(result, faults):
    print(f"\n{result['requests']:,} requests in {result['seconds']:.0f} s")
    for name, count in sorted(result["connections"].items()):
        print(f"  {name:14} {count:10,}")
    for statistics in result["statistics"]:
        refused = {**statistics["refused"], **statistics["upgrade_failures"]}
        print(
            f"accepted {statistics['accepted']:,}: finished {statistics['finished']:,}, "
            f"resets {statistics['resets']:,}, timed out {statistics['timed_out']:,}, "
            f"refused or failed {refused}, shortages {statistics['shortages']}"
        )
    print(
        f"at most {result['most_open']:,} open, {result['memory'] / 2**20:.1f} MiB, "
        f"{result['growth']:+.2%} in the second half, {result['kept_blocks']:,} blocks more at "
        f"the end than at the start, {result['cpu_seconds']:.1f} s of CPU"
    )
    print(
        f"descriptors {result['before']['descriptors']} -> {result['after']['descriptors']}, "
        f"tasks {result['before']['tasks']} -> {result['after']['tasks']}"
    )
    for fault in faults[:20]:
        print(f"FAULT: {fault}")
    print("FAILED" if faults else "all is well")


def parse():
    parser = argparse.ArgumentParser(prog="bench/soak.py", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, metavar="N", help="(5)")
    parser.add_argument("--clients", type=int, default=5000, metavar="N", help="at once (5000)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of all chance (0)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    return parser.parse_args()


def main():
    arguments = parse()
    needed = 2 * arguments.clients + 200
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < needed:
        print(f"error: {needed} descriptors are needed, the limit is {hard}", file=sys.stderr)
        return 2
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    authority = trustme.CA()
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tempfile.TemporaryDirectory() as folder:
        chain = Path(folder, "chain.pem")
        authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(chain)
        result = trio.run(
            soak, arguments.minutes, arguments.clients, arguments.seed, str(chain), context
        )
    faults = list(judge(result))
    show(result, faults)
    if arguments.json:
        arguments.json.write_text(json.dumps({**result, "faults": faults}, indent=1))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
