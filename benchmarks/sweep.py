"""The cost of another run in a warm worker and in a separate process, and the overhead of the sweep itself.

    python -m benchmarks.sweep [--runs 6] [--points 5 10 20 40]

The benchmark runs a grid of SSD on poison_digits, whose original and importances are made first and counted nowhere.
Further points are run as one `fit` process each, and by `sweep` in one warm worker: a straight line is fitted to the
times of sweeps of growing numbers of points. A sweep itself adds the listing of its points and the parsing of their
command lines, which happens once and is part of the warm worker's time.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

FIT = ["fit", "--config", "poison_digits.yaml", "--config", "unlearn/ssd.yaml", "--threads", "1"]


def write_sweep(folder: Path, selections: list[float]) -> Path:
    """Write a sweep over SSD's thresholds into a folder, and return its path."""
    path = folder / "ssd.yaml"
    command = ["${env}", "${interpreter}", "-m", "${program}", *FIT, "${args}"]
    content = {"program": "cmu_lightning", "method": "grid", "command": command}
    path.write_text(json.dumps(content | {"parameters": {"model.selection": {"values": selections}}}))
    return path


def time_command(*arguments: str) -> float:
    """Return the seconds that a command takes."""
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cmu_lightning", *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    """Measure, and print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--points", type=int, nargs="+", default=[5, 10, 20, 40])
    given = parser.parse_args()
    count = given.runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = ["--runs_dir", str(folder / "runs")]
        time_command(*FIT, "--model.selection", "7", *runs)
        fresh = [time_command(*FIT, f"--model.selection={1000 + i}", *runs) for i in range(count)]
        studies, used = [], 0
        for points in given.points:
            selections = [1 + (used + i) / 1024 for i in range(points)]
            studies.append(time_command("sweep", str(write_sweep(folder, selections)), *runs))
            used += points
        large = folder / "large"
        large.mkdir()
        write_sweep(large, [float(i) for i in range(1, 5001)])
        listing = time_command("sweep", str(large), "--dry_run", *runs)
        one = write_sweep(folder, [1.0])
        nothing = time_command("sweep", str(one), "--dry_run", *runs)
        new = ["--runs_dir", str(folder / "new")]
        parsing_one = time_command("sweep", str(one), "--check", *new)
        parsing = time_command("sweep", str(write_sweep(folder, [float(i) for i in range(1, 42)])), "--check", *new)
    warm, start = statistics.linear_regression(given.points, studies)
    for points, took in zip(given.points, studies, strict=True):
        off = took - start - warm * points
        print(f"a study of {points:4} points  {took:8.2f} s, {off:+6.2f} s off the line")
    print(f"a further SSD run, fit in a separate process    {statistics.median(fresh):8.2f} s  (median of {count})")
    print(f"a further SSD run, in a warm worker             {warm:8.2f} s")
    print(f"the sweep's own, a command line parsed          {(parsing - parsing_one) / 40:8.2f} s")
    print(f"the sweep's own, a run listed                   {(listing - nothing) / 4999 * 1000:8.3f} ms")
    where = {"date": str(date.today()), "cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"fresh": round(statistics.median(fresh), 2), "warm": round(warm, 2), **where}))


if __name__ == "__main__":
    main()
