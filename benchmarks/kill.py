"""Kill commands at any moment, run them again, and compare the results with those of undisturbed ones.

    python -m benchmarks.kill [--operations 120] [--moments 30] [--only TEXT ...] [--sweeps 0] [--seed 0]

Each command is killed with SIGKILL just before one of its operations on files, spread over all of them, then at random
moments. The same command then has to end by itself and leave what an undisturbed one leaves: the same files, tensors
and results, bit for bit, and nothing else.

With --sweeps N, a sweep in real processes is killed N times, itself or one of its workers, and continued each time; at
the end four sweeps at once share a new runs folder.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.attack import SMALL, Fork, contents, fit, print_counts, run

OUTCOMES = ("bit-identical", "ended before", "refused", "traceback", "hang", "OTHER")
"""`ended before`: the command had ended when it was to be killed."""
EVENTS = frozenset(
    {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "shutil.rmtree", "fcntl.flock"}
)
"""Python's names of operations that change files; `open` counts where it is for writing."""

CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5")
COMMANDS = {
    "fit, the original": fit("--procedure.batch_size", "300"),
    "fit, CF and its original": fit(*CF, "--procedure.batch_size", "300"),
    "fit, Scrub that rewinds": fit("--config", "unlearn/scrub.yaml", "--model.rewind", "true"),
    "fit, SSD's importances": fit("--config", "unlearn/ssd.yaml", "--checkpoints", "none"),
    "predict": ["predict", "RUN", "--out", "out/predictions.csv"],
    "export": ["export", "RUN", "--out", "out/export"],
    "list --csv": ["list", "runs", "--csv", "out/table.csv"],
}
"""The commands to kill. Those that unlearn find the original of `base`, except CF's, which trains its own."""
PARTS = 4 * 4 + 3
"""Parts of the attacks: four for each `fit`, one for each other command."""


def die_at(operation: int | None, folder: Path, report: Path) -> Callable[[], object]:
    """Return a function that makes a process count its operations on files below a folder, and die before one.

    Args:
        operation: Number of the operation; None to count only.
        folder: The folder.
        report: File that holds a byte for each operation.
    """
    count = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal count
        if event not in EVENTS or (event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        if event != "fcntl.flock" and not Path(os.fsdecode(arguments[0])).absolute().is_relative_to(folder):
            return
        count += 1
        if count == operation:
            os.kill(os.getpid(), signal.SIGKILL)
        os.write(counter, b".")

    counter = os.open(report, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return lambda: sys.addaudithook(hook)


def spread(total: int, count: int, chance: random.Random) -> list[int]:
    """Return that many different numbers from 1 to a total, or all of them, one from each equal part."""
    if total <= count:
        return list(range(1, total + 1))
    return [chance.randint(total * at // count + 1, total * (at + 1) // count) for at in range(count)]


class Target:
    """A command that is to be killed, and what it leaves undisturbed.

    Args:
        words: Its words; `RUN` stands for the folder of a finished run of CF.
        base: Folder in which the command is given; it is copied for each attack.
        scratch: Folder for the copies.
    """

    def __init__(self, words: list[str], base: Path, scratch: Path) -> None:
        (run_of_cf,) = base.glob("runs/poison_digits/CF/*")
        self.words = [str(run_of_cf.relative_to(base)) if word == "RUN" else word for word in words]
        self.base, self.scratch, self.number = base, scratch, 0
        if words[0] == "fit":
            shutil.rmtree(shutil.copytree(base, scratch / "base") / run_of_cf.parent.relative_to(base))
            self.base = scratch / "base"
            if "unlearn/cf.yaml" in words or not {"unlearn/scrub.yaml", "unlearn/ssd.yaml"} & set(words):
                shutil.rmtree(self.base / "runs")
        folder, report = self.copy(), scratch / "operations"
        begin = time.monotonic()
        ended = Fork(self.words, folder, die_at(None, folder, report)).wait()
        self.seconds = time.monotonic() - begin
        assert ended.code == 0, ended.said
        self.operations, self.expected = report.stat().st_size, contents(folder)

    def copy(self) -> Path:
        """Return a new folder in which the command can be given."""
        self.number += 1
        return Path(shutil.copytree(self.base, self.scratch / str(self.number)))

    def attack(self, operation: int | None, moment: float | None) -> str:
        """Kill the command, run it again, and return the outcome.

        Args:
            operation: Number of the operation before which it dies; None for a moment.
            moment: Seconds after which it is killed.
        """
        folder = self.copy()
        prepare = None if operation is None else die_at(operation, folder, self.scratch / "ignored")
        victim = Fork(self.words, folder, prepare)
        if moment is not None:
            time.sleep(moment)
            victim.signal(signal.SIGKILL)
        killed = victim.wait()
        again = run(self.words, folder)
        outcome = again.failure or ("refused" if again.code else "bit-identical")
        if outcome == "bit-identical" and (now := contents(folder)) != self.expected:
            differing = sorted(name for name in now.keys() | self.expected if now.get(name) != self.expected.get(name))
            outcome = "OTHER"
            print(f"{self.words[:1]} operation {operation}, moment {moment}: {', '.join(differing)}", flush=True)
        elif outcome != "bit-identical":
            print(f"{self.words[:1]} operation {operation}, moment {moment}: {again.said}", flush=True)
        elif killed.code != -signal.SIGKILL and operation is None:
            outcome = "ended before"
        shutil.rmtree(folder)
        return outcome


def kill_commands(operations: int, moments: int, only: list[str], seed: int, folder: Path) -> None:
    """Kill each command many times, and print the outcomes."""
    base = folder / "base"
    assert run(fit(), base).code == 0
    assert run(fit(*CF), base).code == 0
    counts: dict[str, Counter[str]] = {}
    for name, words in COMMANDS.items():
        if only and not any(text in name for text in only):
            continue
        chance = random.Random(f"{name} {seed}")
        scratch = folder / str(len(counts))
        scratch.mkdir()
        target = Target(words, base, scratch)
        part = 4 if words[0] == "fit" else 1  # an export takes as long as ten runs
        chosen = spread(target.operations, part * operations // PARTS, chance)
        times = [chance.uniform(0, target.seconds) for _ in range(part * moments // PARTS)]
        before = f"{name}: before {len(chosen)} of {target.operations} operations"
        counts[before] = Counter(target.attack(operation, None) for operation in chosen)
        print(before, dict(counts[before]), flush=True)
        at_random = f"{name}: at random moments"
        counts[at_random] = Counter(target.attack(None, moment) for moment in times)
        print(at_random, dict(counts[at_random]), flush=True)
    print_counts("killed", counts, OUTCOMES)


SWEEP = ["-m", "cmu_lightning", *fit()[:3], *SMALL]
PARAMETERS = {
    "data.identified": {"values": [0.5, 1.0]},
    "model.class_path": {"values": ["CF", "SSD"]},
    "seed_everything": {"values": [0, 1]},
}


def results(runs: Path) -> dict[str, dict]:
    """Return the stored results of runs by their folders, without times and paths."""
    found = {}
    for path in sorted(runs.glob("*/*/*/metrics.json")):
        stored = json.loads(path.read_text())
        found["/".join(path.parts[-4:-1])] = {k: v for k, v in stored.items() if k not in ("seconds", "environment")}
    return found


def start(file: Path, runs: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "cmu_lightning", "sweep", str(file), "--runs_dir", str(runs), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def workers(sweep: int) -> list[int]:
    """Return the processes two generations below: the sweep starts a server, which forks workers."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    return [pid for pid, parent in parents.items() if parents.get(parent) == sweep]


def kill_sweep(count: int, chance: random.Random, folder: Path) -> None:
    """Kill a sweep or one of its workers at random moments, continue it each time, and compare the results."""
    file = folder / "sweep.yaml"
    content = {"program": "cmu_lightning", "method": "grid", "parameters": PARAMETERS, "command": [*SWEEP, "${args}"]}
    file.write_text(json.dumps(content))
    begin = time.monotonic()
    assert start(file, folder / "whole").wait() == 0
    lasts = time.monotonic() - begin
    whole = results(folder / "whole")
    print(f"undisturbed: {len(whole)} runs in {lasts:.0f} s", flush=True)
    runs = folder / "killed"
    for moment in range(count):
        if len(results(runs)) >= len(whole) - 1:
            shutil.rmtree(runs)
        sweep = start(file, runs)
        wait = chance.uniform(0.4, 0.95) * lasts
        time.sleep(wait)
        victims = workers(sweep.pid)
        victim = "a worker" if moment % 2 and victims else "the sweep"
        os.kill(chance.choice(victims) if victim == "a worker" else sweep.pid, signal.SIGKILL)
        code = sweep.wait()
        said = "killed" if code < 0 else code
        print(f"{victim} killed after {wait:.1f} s, sweep ended: {said}, {len(results(runs))} runs done", flush=True)
        assert all(whole[run] == stored for run, stored in results(runs).items())
    assert start(file, runs).wait() == 0
    assert results(runs) == whole
    print(f"after {count} kills the results are equal", flush=True)
    four = [start(file, folder / "four") for _ in range(4)]
    assert [sweep.wait() for sweep in four] == [0] * 4
    twice = list((folder / "four").glob("*/*/*/csv/version_1"))
    trained = len([run for run in results(folder / "four") if "/Original/" in run])
    assert results(folder / "four") == whole
    assert not twice
    print(f"four sweeps at once: equal results, no run twice, {trained} originals for 2 seeds")


def main() -> None:
    """Kill, and print the outcomes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--operations", type=int, default=120)
    parser.add_argument("--moments", type=int, default=30)
    parser.add_argument("--only", nargs="+", default=[], help="Kill those whose names hold one of these texts.")
    parser.add_argument("--sweeps", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if given.operations or given.moments:
            kill_commands(given.operations, given.moments, given.only, given.seed, Path(name))
        if given.sweeps:
            kill_sweep(given.sweeps, random.Random(given.seed), Path(name))


if __name__ == "__main__":
    main()
