"""The paper's experiments as a queue in order of value, within a budget of time.

    python benchmarks/reproduce.py --results docs/results/h200.jsonl --budget 25 [--plan] [-- FIT OPTIONS]

Each line of the results file is one finished run: its `metrics.json`. A run that is in the file, or finished in the
runs folder, is not repeated, so that the queue goes on where it was. A run is only begun if one of its kind fits into
what is left of the budget; the longest one so far tells. What stands after `--` is added to every `fit`, such as
`--trainer.precision bf16-mixed`. `--plan` prints the queue and does nothing.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

FRACTIONS = [str(tenth / 10) for tenth in range(1, 11)]
FEW = ["0.1", "0.5", "1.0"]
SELECTIONS = ["0.1", "1", "10", "50", "100", "500", "1000", "10000", "100000", "1000000"]
DISTILL = ["0.001", "0.01", "0.05", "0.1", "0.5", "1", "5", "10"]
CIFAR10 = ["poison_cifar10", "confusion_cifar10"]
CIFAR100 = ["poison_cifar100", "confusion_cifar100"]
SIZES = {
    "poison_cifar10": ["100", "1000"],
    "confusion_cifar10": ["500", "2500"],
    "poison_cifar100": ["100", "1000"],
    "confusion_cifar100": ["100", "250"],
}


def grid() -> Iterator[tuple[str, str]]:
    """The 39 of the paper's 50 points of SSD that differ."""
    seen = set()
    for selection in SELECTIONS:
        for ratio in ("0.1", "0.5", "1", "5", "10"):
            product = float(selection) * float(ratio)
            key = product if float(ratio) >= 1 else (float(selection), float(ratio))
            if key not in seen:
                seen.add(key)
                yield selection, ratio


def of_fraction(identified: str) -> Iterator[list[str]]:
    """All methods at one identified fraction; the cheap ones first."""
    at = ["--data.identified", identified]
    for selection, ratio in grid():
        point = ["--model.selection", selection, "--model.dampening_ratio", ratio]
        yield ["--config", "unlearn/ssd.yaml", *point, *at]
    for method in ("potion", "assd", "rewod", "cf", "badt"):
        yield ["--config", f"unlearn/{method}.yaml", *at]
    for weight in DISTILL:
        yield ["--config", "unlearn/scrub.yaml", "--model.distill", weight, *at]


def of_setting(setting: str, seed: int, fractions: list[str], *more: str) -> Iterator[list[str]]:
    """The original, then everything that starts from it."""
    common = ["--config", f"{setting}.yaml", "--seed_everything", str(seed), *more]
    yield common
    for identified in fractions:
        for unlearner in of_fraction(identified):
            yield [*common, *unlearner]


def queue() -> Iterator[list[str]]:
    """Arguments of `fit`, most valuable first; what comes twice is done once."""
    for seed, fractions in ((0, FEW), (0, FRACTIONS), (1, FRACTIONS), (2, FRACTIONS)):
        for setting in CIFAR10:
            yield from of_setting(setting, seed, fractions)
    for seed in range(3):
        yield from of_setting("poison_pcam", seed, FRACTIONS)
    for setting in CIFAR100:
        yield from of_setting(setting, 0, ["0.1", "1.0"])
    for setting, sizes in SIZES.items():
        for size in sizes:
            yield from of_setting(setting, 0, FRACTIONS, "--data.manipulation.size", size)


def kind(run: str) -> str:
    """Runs that take about as long: of one setting and one method."""
    return " ".join(argument for argument in run.split() if argument.endswith(".yaml"))


def read(results: Path) -> dict[str, dict]:
    """The runs in a results file, by what was asked for; a cut line is no run."""
    lines = results.read_text().splitlines() if results.exists() else []
    return {run["asked"]: run for run in (json.loads(line) for line in lines if line.endswith("}"))}


def append(results: Path, run: dict) -> None:
    """Add one run, on a line of its own even after a cut one."""
    results.parent.mkdir(parents=True, exist_ok=True)
    cut = results.exists() and not results.read_text().endswith("\n")
    with results.open("a") as file:
        file.write(("\n" if cut else "") + json.dumps(run) + "\n")


def fit(arguments: list[str], runs_dir: str) -> dict:
    """One run in this process; its metrics."""
    from cmu_lightning.cli import main
    from cmu_lightning.tracking.asked import folder, key

    given = ["fit", *arguments, "--runs_dir", runs_dir, "--checkpoints", "chosen"]
    sys.argv = ["cmu_lightning"]
    if code := main(given):
        sys.exit(code)
    found = folder(key(sys.argv[2:]), Path(runs_dir))
    return json.loads((found / "metrics.json").read_text())


def main(arguments: list[str]) -> int:
    """Run the queue; 0 when all of it is done, 3 when the budget is spent."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    more = arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=float("inf"), help="minutes")
    parser.add_argument("--runs_dir", default="runs")
    parser.add_argument("--first", type=int, help="only so many runs of the queue")
    parser.add_argument("--plan", action="store_true")
    given = parser.parse_args(arguments[:cut])
    begin, done, longest = time.monotonic(), read(given.results), {}
    asked = list(dict.fromkeys(" ".join([*run, *more]) for run in queue()))[: given.first]
    left = [run for run in asked if run not in done]
    print(f"{len(asked) - len(left)} of {len(asked)} runs are done")
    if given.plan:
        print("\n".join(left))
        return 0
    for run in left:
        spent = time.monotonic() - begin
        if spent + longest.get(kind(run), 0.0) > 60 * given.budget:
            print(f"the budget of {given.budget} minutes is spent; the same command goes on")
            return 3
        metrics = fit(run.split(), given.runs_dir)
        wall = time.monotonic() - begin - spent
        longest[kind(run)] = max(wall, longest.get(kind(run), 0.0))
        append(given.results, {"asked": run, "date": time.strftime("%F"), "wall": round(wall, 2)} | metrics)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
