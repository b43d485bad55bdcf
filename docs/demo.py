"""The demonstration: a poisoned model is trained, then repaired from the part of the poison that was found.

Every line of the table is a run that a command like
`python -m cmu_lightning fit --config poison_digits.yaml --config unlearn/cf.yaml --data.identified 0.1` makes.
"""

import json
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cmu_lightning.cli import main

FOLDER = Path(os.environ.get("CMU_RUNS_DIR", "runs"))
FRACTIONS = (0.1, 0.5, 1.0)


def fit(*arguments: str) -> None:
    code = main(["fit", "--config", "poison_digits.yaml", "--runs_dir", str(FOLDER), *arguments])
    if code:
        sys.exit(code)


def table(runs: list[dict]) -> Table:
    shown = Table(
        title="Poisoned digits: 36 of 1,197 training images carry a trigger and the label 0.\n"
        "acc_corr: accuracy on unseen images with the trigger; acc_retain: without it.",
        title_justify="left",
    )
    for column in ("method", "identified", "acc_corr", "acc_retain", "seconds"):
        shown.add_column(column, justify="left" if column == "method" else "right")
    for run in runs:
        shown.add_row(
            "None" if run["method"] == "Original" else run["method"],
            f"{run['identified']:.0%}" if "identified" in run else "",
            f"{run['acc_corr']:.3f}",
            f"{run['acc_retain']:.3f}",
            f"{run['seconds']:.1f}",
        )
    return shown


if __name__ == "__main__":
    fit()
    for method in ("cf", "rewod"):
        for identified in FRACTIONS:
            fit("--config", f"unlearn/{method}.yaml", "--data.identified", str(identified))
    stored = [json.loads(path.read_text()) for path in FOLDER.glob("poison_digits/*/*/metrics.json")]
    chosen = [run for run in stored if run.get("identified") in (None, *FRACTIONS) and run["seed"] == 0]
    chosen.sort(key=lambda run: (["Original", "CF", "RewoD"].index(run["method"]), run.get("identified", 0)))
    Console().print(table(chosen))
