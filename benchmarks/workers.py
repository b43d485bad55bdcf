"""The time that a sweep takes with one, two or three workers, which share a GPU if there is one.

    python -m benchmarks.workers [--setting poison_cifar10.yaml] [--workers 1 2 3] [--runs 6] [options of fit ...]

The setting's original is trained first and not counted. Then a sweep of several runs of CF, which differ only in
their seed, runs once for each number of workers. Imports and the parsing of command lines count.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.machine import where


def time_command(*arguments: str) -> float:
    """Return the seconds that a command takes."""
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "cmu_lightning", *arguments], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr or done.stdout)
    return time.perf_counter() - begin


def main() -> None:
    """Measure, and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="poison_cifar10.yaml")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--runs", type=int, default=6)
    given, options = parser.parse_known_args()
    options = ["--wandb.mode", "disabled", *options]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        time_command("fit", "--config", given.setting, *options, "--runs_dir", str(folder / "original"))
        fit = ["fit", "--config", given.setting, "--config", "unlearn/cf.yaml", *options, "${args}"]
        study = folder / "cf.yaml"
        values = {"parameters": {"model.seed": {"values": list(range(given.runs))}}}
        command = ["${env}", "${interpreter}", "-m", "${program}", *fit]
        study.write_text(json.dumps({"program": "cmu_lightning", "method": "grid", "command": command} | values))
        for workers in given.workers:
            runs = str(shutil.copytree(folder / "original", folder / str(workers)))
            took = time_command("sweep", str(study), "--workers", str(workers), "--runs_dir", runs)
            print(f"{given.runs} runs with {workers} workers: {took:8.1f} s", flush=True)
    print(json.dumps(where() | vars(given) | {"options": options}))


if __name__ == "__main__":
    main()
