"""The cost of logging: training with W&B offline, with only CSV files, and without curves.

    python -m benchmarks.wandb_cost [--steps 200] [--rounds 5] [--setting poison_digits.yaml]

Every round trains the setting's original once in each way, in another order; the first round is not counted. Time is
the stage's own `seconds`, which begins and ends W&B's run outside. Medians, and the median of the ratios of each round.
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.machine import where
from cmu_lightning.cli.fit import main as run

WAYS = {
    "W&B offline, every 50 steps": ("--wandb.mode", "offline", "--trainer.log_every_n_steps", "50"),
    "only CSV, every 50 steps": ("--wandb.mode", "disabled", "--trainer.log_every_n_steps", "50"),
    "only CSV, never": ("--wandb.mode", "disabled", "--trainer.log_every_n_steps", "0"),
}


def rate(setting: str, steps: int, arguments: tuple[str, ...]) -> float:
    """Return the steps per second of one training."""
    with tempfile.TemporaryDirectory() as folder:
        length = ("--procedure.steps", str(steps), "--trainer.val_check_interval", str(10 * steps))
        quiet = ("--trainer.enable_progress_bar", "false", "--runs_dir", folder)
        if run(["fit", "--config", setting, *length, *quiet, *arguments]):
            raise SystemExit(1)
        (path,) = Path(folder).glob("*/*/*/metrics.json")
        return steps / json.loads(path.read_text())["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--setting", default="poison_digits.yaml")
    given = parser.parse_args()
    rounds = []
    for number in range(given.rounds + 1):
        order = list(WAYS)[number % 3 :] + list(WAYS)[: number % 3]
        measured = {way: rate(given.setting, given.steps, WAYS[way]) for way in order}
        rounds.append(measured)
    rounds = rounds[1:]
    for way in WAYS:
        print(f"{way}: {statistics.median(one[way] for one in rounds):.1f} steps per second")
    offline, every, never = WAYS
    for slow, fast in ((offline, every), (every, never)):
        ratios = sorted(one[fast] / one[slow] - 1 for one in rounds)
        spread = ", ".join(f"{ratio:+.1%}" for ratio in ratios)
        print(f"{slow} takes {statistics.median(ratios):+.1%} compared with {fast} (rounds: {spread})")
    print(json.dumps(where() | {"setting": given.setting, "steps": given.steps, "rounds": given.rounds}))


if __name__ == "__main__":
    main()
