"""The paper's experiments as a queue in order of value.

    python -m benchmarks.reproduce --results docs/results/paper/runs.jsonl [--queue core|grid] [--budget MINUTES]
        [--threads 1] [--precision bf16-mixed] [--nice] [--plan] [--estimate STEPS] [-- FIT OPTIONS]

`core` is one run for each question: the released code's original, our own, the methods at 0.1, 0.5 and 1.0 known, on
CIFAR-10, CIFAR-100 and PCam, then a second seed; on a CPU it takes days. `grid` is every cell of the paper's figures
and tables, for a GPU.

Each line of the results file is one finished run, which `report` reads. A run that is in the file, or finished in the
runs folder, is not repeated, so the queue continues where it stopped, also on another machine with the file. When
the budget ends, the run in progress ends at its last checkpoint, and the next call resumes it. A run that fails leaves
a line that says so, is tried again by the next call, and does not stop the others. What follows `--` is added to
every `fit`, such as `--network.width 16`. `--plan` prints what is left and does nothing; `--estimate 5` also times 5
steps of each network and says how long that would take here.
"""

import argparse
import gc
import io
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import pairwise
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


def at(method: str, *fractions: str) -> Iterator[list[str]]:
    """Return one method at some identified fractions."""
    for identified in fractions:
        yield ["--config", f"unlearn/{method}.yaml", "--data.identified", identified]


SMALL = ["--network.depth", "16", "--network.width", "4"]
"""WideResNet-16-4 instead of WideResNet-28-10, which takes days on a CPU."""
FIRST = [[], *(run for method in ("tuned_ssd", "potion", "assd", "lfssd") for run in at(method, *FEW))]
FIRST += [*at("cf", "0.1"), *at("pure", "0.1"), *at("rewod", "1.0")]
SECOND = [*(run for method in ("scrub", "badt") for run in at(method, "0.1", "1.0")), *at("rewod", "0.5")]
SECOND += [*at("cf", "0.5", "1.0"), *at("pure", "0.5", "1.0")]
ELSEWHERE = [[], *(run for method in ("tuned_ssd", "potion", "cf", "pure") for run in at(method, "0.1", "1.0"))]


def core(pcam_size: int = 2621) -> Iterator[list[str]]:
    """Return the arguments of `fit` for each question, most valuable first.

    Args:
        pcam_size: |S_m| on PCam.
    """
    released = ["--config", "poison_cifar10.yaml", "--config", "released_code.yaml"]
    released += ["--data.manipulation.value", "[1.0166,1.0,1.0028]"]
    poison, confusion, *others = (
        *(["--config", f"{setting}.yaml"] for setting in CIFAR10),
        *(["--config", f"{setting}.yaml", *SMALL] for setting in CIFAR100),
        ["--config", "poison_pcam.yaml", *SMALL, "--data.manipulation.size", str(pcam_size)],
    )
    for seed in ("0", "1"):
        cells = [(released, [[]]), (poison, FIRST), (confusion, FIRST), (released, [*at("rewod", "0.5")])]
        cells += [(poison, SECOND), (confusion, SECOND), *((each, ELSEWHERE) for each in others)]
        for setting, runs in cells:
            for run in runs:
                yield [*setting, "--seed_everything", seed, *run]


def grid_of_the_paper(pcam_size: int = 2621) -> Iterator[list[str]]:
    """Return the arguments of `fit` for every cell of the paper; repeated cells occur once.

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
    """The budget ends. It is no `Exception`, so nothing on the way treats it as an error."""


@contextmanager
def budget(seconds: float) -> Iterator[None]:
    """Interrupt the run in progress when the budget is spent."""

    def end(*_: Any) -> None:
        raise Spent

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6) if seconds < 1e9 else 0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


COSTS = {"rewod": 1.0, "cf": 1.0, "scrub": 1.3, "badt": 1.7, "pure": 2.2}
"""Cost of a method's step, or for PURE of `unlearn_steps`, in training steps: samples forward and backward."""
DAMPENING = 300
"""Training steps that importances of 50,000 images and the evaluation of the grid cost."""


def steps_of(run: list[str]) -> tuple[tuple[str, ...], float]:
    """Return the network's options of a run, by which steps are timed, and what the run costs in training steps."""
    import yaml

    from cmu_lightning.parsing import PACKAGE

    setting, overlays = run[1], [Path(name).stem for name in run if name.startswith("unlearn/")]
    procedure = yaml.safe_load((PACKAGE.parent / "configs" / setting).read_text())["procedure"]
    network = ("--config", setting, *(SMALL if "--network.depth" in run else []))
    if not overlays or overlays[0] == "rewod":
        return network, procedure["steps"]
    if overlays[0] in COSTS:
        return network, COSTS[overlays[0]] * procedure["unlearn_steps"]
    return network, DAMPENING


def estimate(left: list[str], steps: int, more: list[str]) -> None:
    """Time some steps of each network that is left, and print how long the queue would take on this machine.

    Args:
        left: Requested runs.
        steps: Number of steps to time; one more comes first and is not timed.
        more: Options of every `fit`.
    """
    costs: dict[tuple[str, ...], float] = {}
    for run in left:
        network, cost = steps_of(run.split())
        costs[network] = costs.get(network, 0.0) + cost
    hours = 0.0
    for network, cost in costs.items():
        seconds = seconds_a_step(network, steps, more)
        hours += cost * seconds / 3600
        print(f"{' '.join(network)}: {seconds:.2f} s a step, {cost:,.0f} steps left, {cost * seconds / 3600:.1f} hours")
    print(f"about {hours:.1f} hours in all, without evaluation")


def seconds_a_step(network: tuple[str, ...], steps: int, more: list[str]) -> float:
    """Return the time of a step of a setting's original on this machine, the median of some."""
    from lightning.pytorch import Callback

    from cmu_lightning.cli.fit import CLI
    from cmu_lightning.cli.fit import main as run_fit

    at_steps: list[float] = []

    class Timer(Callback):
        def on_train_batch_end(self, *_: Any) -> None:
            at_steps.append(time.perf_counter())

    make = CLI.instantiate_trainer

    def with_timer(self: CLI, **kwargs: Any) -> Any:
        trainer = make(self, **kwargs)
        trainer.callbacks.append(Timer())
        return trainer

    CLI.instantiate_trainer = with_timer  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            length = ["--procedure.steps", str(steps + 1), "--trainer.val_check_interval", str(10 * steps)]
            quiet = ["--wandb.mode", "disabled", "--trainer.enable_progress_bar", "false"]
            quiet += ["--trainer.limit_test_batches", "1"]
            with redirect_stdout(io.StringIO()):
                if run_fit(["fit", *network, *more, *length, *quiet, "--runs_dir", folder]):
                    raise SystemExit(1)
    finally:
        CLI.instantiate_trainer = make  # type: ignore[method-assign]
    return statistics.median(after - before for before, after in pairwise(at_steps))


def read(results: Path) -> set[str]:
    """Return the requests of a file's finished runs; a cut or damaged line is no run."""
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
    from cmu_lightning.experiment.run import read_metrics
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
    return pack_line(found, read_metrics(found))


def work(left: list[str], results: Path, runs_dir: str) -> int:
    """Execute these runs, and return the number of failures."""
    from cmu_lightning.data import CorruptedDataModule

    CorruptedDataModule.kept = {}  # consecutive runs share a data set
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
    parser.add_argument("--queue", choices=["core", "grid"], default="core")
    parser.add_argument("--threads", type=int, help="threads of a run; default all cores")
    parser.add_argument("--precision", help="such as bf16-mixed, where the CPU multiplies bf16 itself")
    parser.add_argument("--nice", action="store_true", help="yield the CPU to everything else")
    parser.add_argument("--plan", action="store_true")
    parser.add_argument("--estimate", type=int, metavar="STEPS", help="time so many steps of each network")
    given = parser.parse_args(arguments[:cut])
    if given.nice:
        os.nice(19)
    if given.threads:
        more = ["--threads", str(given.threads), *more]
    if given.precision:
        more = ["--trainer.precision", given.precision, *more]
    done = read(given.results)
    runs = {"core": core, "grid": grid_of_the_paper}[given.queue](given.pcam_size)
    asked = list(dict.fromkeys(" ".join([*run, *more]) for run in runs))[: given.first]
    left = [run for run in asked if run not in done]
    print(f"{len(asked) - len(left)} of {len(asked)} runs are done")
    if given.estimate:
        estimate(left, given.estimate, more)
    if given.plan or given.estimate:
        print("\n".join(left if given.plan else []))
        return 0
    try:
        with budget(60 * given.budget):
            failed = work(left, given.results, given.runs_dir)
    except Spent:
        print(f"the budget of {given.budget} minutes is spent; the same command resumes")
        return 3
    print(f"{failed} runs failed" if failed else "all of it is done")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
