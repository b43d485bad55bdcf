"""Compare SSD's grid within one run with a run for each of its points.

    python -m benchmarks.tuned_ssd [--setting poison_digits.yaml] [--identified 0.5] [options of fit ...]

The original and its importances are made first and not counted. All runs follow each other in one process, as in a
warm worker of a sweep, with all measurements of a run. Prints whether both end at the same point of the grid.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

from benchmarks.machine import where
from cmu_lightning.cli.fit import main as run_fit
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.unlearning import TunedSSD

RESULTS = ("acc_corr", "acc_retain", "val_acc", "changed", "selection_score")


def fit(runs: Path, method: str, *options: str) -> tuple[float, dict]:
    """Its seconds and its results."""
    sys.argv = ["cmu_lightning"]
    begin = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        code = run_fit(
            ["fit", *options, "--runs_dir", str(runs), "--checkpoints", "chosen", "--wandb.mode", "disabled"]
        )
    passed = time.perf_counter() - begin
    if code:
        raise SystemExit(code)
    newest = max(runs.glob(f"*/{method}/*/metrics.json"), key=lambda path: path.stat().st_mtime_ns)
    return passed, json.loads(newest.read_text())


def compare(setting: list[str], identified: str, runs: Path) -> dict:
    fit(runs, "Original", *setting)
    common = [*setting, "--data.identified", identified]
    ssd = [*common, "--config", "unlearn/ssd.yaml"]
    fit(runs, "SSD", *ssd, "--model.selection", "7")  # makes the importances
    made = []
    for selection, ratio in TunedSSD.points():
        made.append(fit(runs, "SSD", *ssd, f"--model.selection={selection}", f"--model.dampening_ratio={ratio}"))
    best = max((results for _, results in made), key=lambda results: results["selection_score"])
    one, found = fit(runs, "TunedSSD", *common, "--config", "unlearn/tuned_ssd.yaml")
    each = sum(seconds for seconds, _ in made)
    return {
        "runs": len(made),
        "seconds of all runs": round(each, 2),
        "seconds of one run for the grid": round(one, 2),
        "ratio": round(each / one, 1),
        "the same point": all(found[name] == best[name] for name in RESULTS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", default="poison_digits.yaml")
    parser.add_argument("--identified", default="0.5")
    given, options = parser.parse_known_args()
    CorruptedDataModule.kept = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            found = compare(["--config", given.setting, *options], given.identified, Path(folder))
    finally:
        CorruptedDataModule.kept = None
    print(json.dumps(found | where() | vars(given) | {"options": options}))


if __name__ == "__main__":
    main()
