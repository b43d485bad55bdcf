"""Show on which plateau the constants of PURE lie.

    python -m benchmarks.pure_constants --runs_dir FOLDER [--seeds 20 21 22] [--steps 300] [--only WARM,PENALTY]

Each constant is changed and PURE runs on digits, poisoned and confused, a tenth of S_m known; the seeds are among
those that PURE was designed on. A value that the table of runs in FOLDER already has is not run again. Prints the
lowest acc_corr and acc_retain of each value as the rows of a table.
"""

import argparse
import contextlib
import io
import json
import shutil
from pathlib import Path
from unittest.mock import patch

from benchmarks.machine import where
from cmu_lightning.cli.fit import main as fit
from cmu_lightning.data.discoveries import positive_unlabelled
from cmu_lightning.unlearning import pure

VALUES = {
    "WARM": (0.5, 0.75, 1.0, 1.5),
    "WITNESS": (0.3, 0.4, 0.5, 0.7),
    "REPAIR": (0.6, 0.8, 1.0),
    "WARM_RATE": (2.0, 3.0, 4.0, 6.0),
    "LOOKS": (2, 4, 8),
    "PENALTY": (0.15, 0.3, 0.6),
    "MAJORITY": (0.6, 0.75, 0.9),
}
"""Values of each constant; the one that PURE has is run once."""
SETTINGS = {
    "poison": ["--config", "poison_digits.yaml"],
    "confusion": ["--config", "confusion_digits.yaml"],
}


def measure(place: Path, name: str, value: float, seed: int, steps: int, setting: str) -> dict[str, float]:
    """Return acc_corr and acc_retain of a run of PURE with another constant, which leaves no run behind."""
    module = pure if hasattr(pure, name) else positive_unlabelled
    fixed = ["--data.identified", "0.1", "--seed_everything", str(seed), "--procedure.steps", str(steps)]
    command = ["fit", *SETTINGS[setting], "--model", "PURE", *fixed, "--threads", "1", "--runs_dir", str(place)]
    said = io.StringIO()
    with patch.object(module, name, value), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = fit(command)
    if code:
        raise SystemExit(f"{name} {value}: the run failed\n{said.getvalue()}")
    (results,) = place.glob("*/PURE/*/metrics.json")
    metrics = json.loads(results.read_text())
    shutil.rmtree(results.parents[1])
    return {each: metrics[each] for each in ("acc_corr", "acc_retain", "suspect_recall")}


def main() -> None:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs_dir", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[20, 21, 22])
    parser.add_argument("--steps", type=int, default=300, help="Of the originals.")
    parser.add_argument("--only", help="Constants, separated by commas.")
    given = parser.parse_args()
    given.runs_dir.mkdir(parents=True, exist_ok=True)
    ledger = given.runs_dir / "constants.jsonl"
    lines = [json.loads(line) for line in ledger.read_text().splitlines()] if ledger.exists() else []
    done = {tuple(line["key"]): line["measured"] for line in lines}
    current = {name: getattr(pure if hasattr(pure, name) else positive_unlabelled, name) for name in VALUES}
    print(json.dumps(where()))
    print("| constant | value | lowest `acc_corr`: poison | confusion | lowest `acc_retain` | lowest recall |")
    print("|---|---|---|---|---|---|")
    for name in given.only.split(",") if given.only else VALUES:
        for value in VALUES[name]:
            found: dict[str, list[dict[str, float]]] = {}
            for setting in SETTINGS:
                for seed in given.seeds:
                    # The values that PURE has are one run, whichever constant is asked for.
                    key = ("", 0.0) if value == current[name] else (name, value)
                    key_of_run = (*key, seed, given.steps, setting)
                    if key_of_run not in done:
                        done[key_of_run] = measure(given.runs_dir, name, value, seed, given.steps, setting)
                        with ledger.open("a") as file:
                            file.write(json.dumps({"key": key_of_run, "measured": done[key_of_run]}) + "\n")
                    found.setdefault(setting, []).append(done[key_of_run])
            lowest = [f"{min(each['acc_corr'] for each in found[setting]):.3f}" for setting in SETTINGS]
            both = [each for own in found.values() for each in own]
            lowest += [f"{min(each[part] for each in both):.3f}" for part in ("acc_retain", "suspect_recall")]
            mark = " (PURE's)" if value == current[name] else ""
            print(f"| `{name}` | {value:g}{mark} | {' | '.join(lowest)} |", flush=True)


if __name__ == "__main__":
    main()
