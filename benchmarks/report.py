"""Measure the time of a report on 5,000 runs.

    python -m benchmarks.report [--runs 5000] [--yaml]

The runs are made up, in the paper's grids: 621 for each seed of a setting. Figures are timed by themselves, because
they are drawn again only when their data have changed. With --yaml, runs store their config in `config.yaml` only, as
those of earlier versions do.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

import yaml

from tests.helpers.synthetic_runs import Study, whole_study

SETTINGS = {
    "poison_digits": ("Poison", 36),
    "confusion_digits": ("InterclassConfusion", 122),
    "poison_more": ("Poison", 72),
}


class Clock:
    """Prints the time since it was made."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def __str__(self):
        return f"{time.perf_counter() - self.wall:6.2f} s, {time.process_time() - self.cpu:6.2f} s of CPU"


def make(folder, count, in_metrics):
    runs = (
        run
        for setting, (manipulation, size) in SETTINGS.items()
        for run in whole_study(Study(folder, setting, manipulation, size))
    )
    made = 0
    for run in islice(runs, count):
        made += 1
        if in_metrics:
            metrics = json.loads((run / "metrics.json").read_text())
            config = yaml.load((run / "config.yaml").read_text(), yaml.CSafeLoader)
            (run / "metrics.json").write_text(json.dumps(metrics | {"config": config}))
    print(f"{made} runs of {len(SETTINGS)} settings")


def starting():
    for what, code in {
        "python and rich": "import rich.console, rich.table, rich.progress",
        "report --help": "from cmu_lightning.__main__ import main; main(['report', '--help'])",
    }.items():
        taken = []
        for _ in range(5):
            before = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
            taken.append(time.perf_counter() - before)
        print(f"{what:28}{sorted(taken)[2]:6.2f} s, median of 5")


def reporting(runs_dir, out):
    whole = clock = Clock()
    from cmu_lightning.report.build import build, write_figures, write_page_and_tables
    from cmu_lightning.report.load import read_runs

    print(f"{'import':28}{clock}")
    clock = Clock()
    runs = read_runs(runs_dir)
    print(f"{'read':28}{clock}")
    clock = Clock()
    report = build(runs, "paper")
    print(f"{'select, tabulate, page':28}{clock}")
    clock = Clock()
    write_page_and_tables(report, out)
    print(f"{'write':28}{clock}")
    print(f"{'all of it':28}{whole}")
    print(f"{'page':28}{(out / 'index.html').stat().st_size / 1e6:6.2f} MB")
    clock = Clock()
    print(f"{f'{write_figures(report, out)} figures':28}{clock}")
    clock = Clock()
    print(f"{f'{write_figures(report, out)} drawn again':28}{clock}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5000)
    parser.add_argument("--yaml", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        make(Path(place) / "runs", given.runs, not given.yaml)
        reporting(Path(place) / "runs", Path(place) / "out")
    starting()
