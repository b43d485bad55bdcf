"""What a further run costs in a warm worker, in a process of its own, and what the sweep itself adds.

    python benchmarks/sweep.py [--runs 6] [--points 5 10 20 40]

A grid of SSD on poison_digits: its original and its importances are made first and counted nowhere. Further
points are then run as one `fit` process each, and by `sweep` in one warm worker: sweeps of growing numbers of points,
through whose times a straight line is laid. The sweep's own overhead is that of listing a run.
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


def sweep_file(folder: Path, selections: list[float]) -> Path:
    path = folder / "ssd.yaml"
    command = ["${env}", "${interpreter}", "-m", "${program}", *FIT, "${args}"]
    content = {"program": "cmu_lightning", "method": "grid", "command": command}
    path.write_text(json.dumps(content | {"parameters": {"model.selection": {"values": selections}}}))
    return path


def timed(*arguments: str) -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-m", "cmu_lightning", *arguments], check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=6)
    parser.add_argument("--points", type=int, nargs="+", default=[5, 10, 20, 40])
    given = parser.parse_args()
    count = given.runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        runs = ["--runs_dir", str(folder / "runs")]
        timed(*FIT, "--model.selection", "7", *runs)
        fresh = [timed(*FIT, f"--model.selection={1000 + i}", *runs) for i in range(count)]
        studies, used = [], 0
        for points in given.points:
            selections = [1 + (used + i) / 1024 for i in range(points)]
            studies.append(timed("sweep", str(sweep_file(folder, selections)), *runs))
            used += points
        large = folder / "large"
        large.mkdir()
        sweep_file(large, [float(i) for i in range(1, 5001)])
        listing = timed("sweep", str(large), "--dry_run", *runs)
        nothing = timed("sweep", str(sweep_file(folder, [1.0])), "--dry_run", *runs)
    warm, start = statistics.linear_regression(given.points, studies)
    for points, took in zip(given.points, studies, strict=True):
        off = took - start - warm * points
        print(f"a study of {points:4} points  {took:8.2f} s, {off:+6.2f} s off the line")
    print(f"a further SSD run, fit in a process of its own  {statistics.median(fresh):8.2f} s  (median of {count})")
    print(f"a further SSD run, in a warm worker             {warm:8.2f} s")
    print(f"the sweep's own, a run listed                   {(listing - nothing) / 4999 * 1000:8.3f} ms")
    where = {"date": str(date.today()), "cpus": os.cpu_count(), "machine": platform.machine()}
    print(json.dumps({"fresh": round(statistics.median(fresh), 2), "warm": round(warm, 2), **where}))


if __name__ == "__main__":
    main()
