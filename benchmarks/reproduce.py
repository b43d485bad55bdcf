"""The paper's experiments as a queue in order of value, within a budget of time.

    python benchmarks/reproduce.py --results docs/results/h200.jsonl --budget 25 [--plan] [-- FIT OPTIONS]

Each line of the results file is one finished run, which `report` reads. A run that is in the file, or finished in the
runs folder, is not repeated, so that the queue goes on where it was. When the budget ends, so does the run that is
being made, which goes on from its last checkpoint. A run that fails has a line that says so, is tried again by the next
call, and does not stop the others. What stands after `--` is added to every `fit`, such as `--network.width 16`.
`--plan` prints the queue and does nothing.
"""

import argparse
import gc
import io
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Any

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
    """Return the 39 of the paper's 50 points of SSD that differ."""
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
    """Return the original, then everything that starts from it."""
    common = ["--config", f"{setting}.yaml", "--seed_everything", str(seed), *more]
    yield common
    for identified in fractions:
        for unlearner in of_fraction(identified):
            yield [*common, *unlearner]


def queue(pcam_size: int = 2621) -> Iterator[list[str]]:
    """Arguments of `fit`, most valuable first; what comes twice is done once.

    Args:
        pcam_size: |S_m| on PCam.
    """
    for seed, fractions in ((0, FEW), (0, FRACTIONS), (1, FRACTIONS), (2, FRACTIONS)):
        for setting in CIFAR10:
            yield from of_setting(setting, seed, fractions)
    for seed in range(3):
        yield from of_setting("poison_pcam", seed, FRACTIONS, "--data.manipulation.size", str(pcam_size))
    for setting in CIFAR100:
        yield from of_setting(setting, 0, ["0.1", "1.0"])
    for setting, sizes in SIZES.items():
        for size in sizes:
            yield from of_setting(setting, 0, FRACTIONS, "--data.manipulation.size", size)


class Spent(BaseException):
    """The budget ends; no error, so that nothing on the way takes it for one."""


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Whatever goes on is interrupted when it is spent."""

    def end(*_: Any) -> None:
        raise Spent

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6) if seconds < 1e9 else 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def read(results: Path) -> set[str]:
    """Return what the finished runs of a file asked for; a cut or damaged line is no run."""
    from cmu_lightning.report.load import is_undamaged

    done = set()
    for text in results.read_text().splitlines() if results.exists() else []:
        try:
            run = json.loads(text)
        except ValueError:
            continue
        if isinstance(run, dict) and "asked" in run and "failed" not in run and is_undamaged(run):
            done.add(run["asked"])
    return done


def append(results: Path, run: dict) -> None:
    """Add one run, on a line of its own even after a cut one."""
    from cmu_lightning.report.load import with_digest

    results.parent.mkdir(parents=True, exist_ok=True)
    cut = results.exists() and not results.read_text().endswith("\n")
    with results.open("a") as file:
        file.write(("\n" if cut else "") + json.dumps(with_digest(run)) + "\n")


def fit(arguments: list[str], runs_dir: str) -> dict:
    """One run in this process; its line, or why there is none."""
    from cmu_lightning.cli.fit import main
    from cmu_lightning.experiment.ledger import command_key, find_folder
    from cmu_lightning.report.load import pack_line

    given = ["fit", *arguments, "--runs_dir", runs_dir, "--checkpoints", "chosen"]
    sys.argv = ["cmu_lightning"]
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            code = main(given)
    except Exception as error:  # such as too little memory, which the next run may not lack
        return {"failed": f"{type(error).__name__}: {error}"}
    finally:
        sys.stderr.write(said.getvalue())
        gc.collect()
    if code:
        return {"failed": (said.getvalue().strip().splitlines() or [f"exit code {code}"])[-1]}
    found = find_folder(command_key(given[1:]), Path(runs_dir))
    return pack_line(found, json.loads((found / "metrics.json").read_text()))


def work(left: list[str], results: Path, runs_dir: str) -> int:
    """Make these runs; how many failed."""
    from cmu_lightning.data import CorruptedDataModule

    CorruptedDataModule.kept = {}  # runs that follow each other share a data set
    failed = 0
    for run in left:
        begin = time.monotonic()
        made = fit(run.split(), runs_dir)
        failed += "failed" in made
        append(results, {"asked": run, "date": time.strftime("%F"), "wall": round(time.monotonic() - begin, 2)} | made)
    return failed


def main(arguments: list[str]) -> int:
    """Run the queue; 0 when all of it is done, 3 when the budget is spent, 1 when a run failed."""
    cut = arguments.index("--") if "--" in arguments else len(arguments)
    more = arguments[cut + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=float("inf"), help="minutes")
    parser.add_argument("--runs_dir", default="runs")
    parser.add_argument("--first", type=int, help="only so many runs of the queue")
    parser.add_argument("--pcam_size", type=int, default=2621, help="|S_m| on PCam: 1%% of the patches that are there")
    parser.add_argument("--plan", action="store_true")
    given = parser.parse_args(arguments[:cut])
    done = read(given.results)
    asked = list(dict.fromkeys(" ".join([*run, *more]) for run in queue(given.pcam_size)))[: given.first]
    left = [run for run in asked if run not in done]
    print(f"{len(asked) - len(left)} of {len(asked)} runs are done")
    if given.plan:
        print("\n".join(left))
        return 0
    try:
        with budget(60 * given.budget):
            failed = work(left, given.results, given.runs_dir)
    except Spent:
        print(f"the budget of {given.budget} minutes is spent; the same command goes on")
        return 3
    print(f"{failed} runs failed" if failed else "all of it is done")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
