"""Time from process start to the first training step, compared with importing the same libraries; light commands.

    python -m benchmarks.start [--rounds 5]

Fresh processes in alternating rounds, the best of each. `fit` runs one step of poison_digits into a new folder; another
imports torch, torchvision, lightning, torchmetrics, jsonargparse, scikit-learn's digits and rich. Both are ended
without a clean-up, `fit` by a callback at its first step.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

SWEEP = Path(__file__).parents[1] / "sweeps/demo_digits"
LIBRARIES = (
    "import torch, torchvision, lightning.pytorch, lightning.pytorch.cli, torchmetrics, jsonargparse, rich; "
    "import sklearn.datasets, os; os._exit(0)"
)
STEP = """
import os, sys
from lightning.pytorch import Callback
class Stop(Callback):
    def on_train_batch_end(self, *arguments):
        os._exit(0)
"""
FIT = [
    "fit",
    "--config",
    "poison_digits.yaml",
    "--trainer.callbacks",
    "first_step.Stop",
    "--trainer.accelerator",
    "cpu",
]


def seconds(command: list[str], folder: str, expected: int = 0) -> float:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([folder, str(Path(__file__).parents[1])])}
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode != expected:
        sys.exit(done.stderr)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    best: dict[str, float] = {}
    for _ in range(given.rounds):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "first_step.py").write_text(STEP)
            commands = {
                "libraries": ["-c", LIBRARIES],
                "fit to its first step": ["-m", "cmu_lightning", *FIT],
                "python and rich": ["-c", "import rich.table, rich.progress"],
                "report --help": ["-m", "cmu_lightning", "report", "--help"],
                "sweep --dry_run": ["-m", "cmu_lightning", "sweep", str(SWEEP), "--dry_run"],
            }
            for name, command in commands.items():
                best[name] = min(seconds(command, folder), best.get(name, float("inf")))
    for name, value in best.items():
        print(f"{name:24} {value:6.2f} s")
    print(f"fit / libraries: {best['fit to its first step'] / best['libraries']:.2f}")
    print(json.dumps({"date": str(date.today()), "cpus": os.cpu_count(), "machine": platform.machine()}))


if __name__ == "__main__":
    main()
