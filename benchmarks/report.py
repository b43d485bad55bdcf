"""What a report on 5,000 runs takes.

    python -m benchmarks.report [--runs 5000]

The runs are made up, in the paper's grids: 621 for each seed of a setting. Figures are timed by themselves, for they
are drawn again only when their data have changed.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from cmu_lightning.report.pictures.draw import draw
from cmu_lightning.report.reading.collect import collect
from cmu_lightning.report.write import write_figures, write_page_and_tables
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


def make(folder, count):
    runs = (
        run
        for setting, (manipulation, size) in SETTINGS.items()
        for run in whole_study(Study(folder, setting, manipulation, size))
    )
    made = sum(1 for _ in islice(runs, count))
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


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=5000)
    with tempfile.TemporaryDirectory() as place:
        runs_dir, out = Path(place) / "runs", Path(place) / "out"
        make(runs_dir, parser.parse_args().runs)
        whole = clock = Clock()
        results, skipped = collect(runs_dir)
        print(f"{'read':28}{clock}")
        clock = Clock()
        charts = write_page_and_tables(results, skipped, runs_dir, out, "paper").charts
        print(f"{'select, tabulate, page':28}{clock}")
        print(f"{'both':28}{whole}")
        print(f"{'page':28}{(out / 'index.html').stat().st_size / 1e6:6.2f} MB")
        clock = Clock()
        first = next(iter(charts.values()))[0]
        draw(first, out / "warm")
        print(f"{'first figure, with import':28}{clock}")
        clock = Clock()
        drawn = write_figures(charts, out, list)
        print(f"{f'{drawn} figures':28}{clock}")
        clock = Clock()
        print(f"{f'{write_figures(charts, out, list)} drawn again':28}{clock}")
    starting()
