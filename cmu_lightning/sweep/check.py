"""Mistakes in sweep files, found before anything runs: in their content, and in the command lines of their points."""

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.console import bar
from cmu_lightning.experiment.run import COST, CURVES, MEASURED
from cmu_lightning.sweep.file import SweepFile
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.worker import Worker, start_workers, wait_for_answer

LOGGED = {*MEASURED, *COST, *CURVES}
"""Metrics that runs log."""
LOGGED_BY_UNLEARNERS = {
    *("acc_identified", "acc_unidentified", "fit_identified", "fit_retain", "val_acc_matched", "changed"),
    *("selection_score", "forget_loss", "retain_loss"),
}
"""Metrics that an original does not log."""
PARSED = "parsed"
"""Ledger in `RUNS_DIR/.sweep`: a line for each command line that was parsed without a mistake."""
LEFT_OUT = "\0"
"""Stands for the value of an option that a command line does not have; no option has this value."""
LOOK = 0.5
"""Seconds between two polls of the workers."""


def find_mistakes(points: Sequence[Point]) -> list[str]:
    """Return a sentence for each mistake that can be found without parsing a command line.

    Args:
        points: Points of all files.
    """
    by_file: dict[Path, list[Point]] = {}
    for point in points:
        by_file.setdefault(point.sweep.path, []).append(point)
    mistakes = []
    for path, own in by_file.items():
        sweep = own[0].sweep
        sentences = [*_find_numbers_as_text(sweep), *_find_mixed_bounds(sweep), *find_unlogged_metric(sweep, own)]
        mistakes += [f"{path}: {sentence}" for sentence in sentences]
    return mistakes


def _find_numbers_as_text(sweep: SweepFile) -> Iterator[str]:
    """Yield values such as 1e4, which YAML reads as text, and which W&B shows and compares as such."""
    for parameter in sweep.parameters:
        for value in [parameter.given.get("value"), *parameter.given.get("values", [])]:
            number = _read_number(value)
            if number is not None:
                yield (
                    f"parameter {parameter.dotted} has the value {value}, which YAML reads as text: "
                    f"write {yaml.safe_dump(number).split()[0]}"
                )


def _read_number(value: Any) -> float | None:
    """Return the number that a text spells; None for anything else."""
    try:
        return float(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _find_mixed_bounds(sweep: SweepFile) -> Iterator[str]:
    """Yield bounds of which one is a whole number, which changes W&B's distribution unexpectedly."""
    for parameter in sweep.parameters:
        low, high = parameter.given.get("min"), parameter.given.get("max")
        if parameter.distribution == "uniform" and type(low) is not type(high):
            yield f"parameter {parameter.dotted} goes from {low} to {high}: write both with a point, or neither"


def find_unlogged_metric(sweep: SweepFile, points: Sequence[Point]) -> Iterator[str]:
    """Yield a sentence on a metric that no run logs: a search for it would optimise nothing.

    Args:
        sweep: Sweep file.
        points: Its points.
    """
    metric = sweep.content.get("metric")
    if metric is None:
        return
    logged = LOGGED - LOGGED_BY_UNLEARNERS if all(point.is_original for point in points) else LOGGED
    if metric["name"] not in logged:
        yield f"metric {metric['name']} is never logged: there are {', '.join(sorted(logged))}"


def find_unparsed(points: Sequence[Point], runs_dir: Path) -> list[Point]:
    """Return the points whose command lines are still to be parsed.

    A file with hundreds of points has few values. It is enough that every pair of two options with their values is in
    a command line that a sweep or `fit` has parsed: what one value, or one value with another, does wrong is found.
    That an option is left out, as a boolean one is where it is false, counts as one of its values.

    Args:
        points: Points of all files.
        runs_dir: Folder that holds the ledger.
    """
    ledger = runs_dir / ".sweep" / PARSED
    # A damaged line is no key, so its command line is parsed again.
    keys = set(ledger.read_text(errors="replace").split()) if ledger.is_file() else set()
    parsed = [point for point in points if point.key in keys or point.folder is not None]
    names: dict[Path, set[str]] = {}
    for point in points:
        names.setdefault(point.sweep.path, set()).update(name for name, _ in point.options)
    known = {pair for point in parsed for pair in _pairs(point, names[point.sweep.path])}
    unparsed = []
    for point in points:
        new = set(_pairs(point, names[point.sweep.path])) - known
        if new:
            unparsed.append(point)
            known |= new
    return unparsed


def _pairs(point: Point, names: set[str]) -> Iterator[tuple[Path, tuple[str, str], tuple[str, str]]]:
    """Yield a point's file with each pair of the file's options and the values that they have in this point."""
    left_out = names - {name for name, _ in point.options}
    values = sorted([*point.options, *((name, LEFT_OUT) for name in left_out)])
    for first, second in combinations_with_replacement(values, 2):
        yield point.sweep.path, first, second


def find_refused(points: Sequence[Point], workers: int, ledger: Path | None = None) -> list[str]:
    """Parse command lines, each as far as a run would begin, and return a sentence for each mistake in each file.

    Args:
        points: Points whose command lines are to be parsed.
        workers: Largest number of processes.
        ledger: Runs folder in which those without a mistake are kept, so that they are parsed once; None to keep none.
    """
    mistakes: dict[str, None] = {}
    for point, sentence in bar(_parse(points, workers), "checking command lines", len(points)):
        if sentence:
            mistakes[f"{point.sweep.path}: {sentence}"] = None
        elif sentence == "" and ledger is not None:
            _record_parsed(point, ledger)
    return list(mistakes)


def _parse(points: Sequence[Point], count: int) -> Iterator[tuple[Point, str | None]]:
    """Yield each point with the sentence that refuses it, empty if none does, None if its worker was killed by it."""
    waiting = list(reversed(points))
    workers = start_workers(min(count, len(points)), {})
    try:
        while waiting or any(worker.point for worker in workers):
            for worker in workers:
                if worker.point is None and waiting:
                    worker.parse(waiting.pop())
            wait_for_answer([worker for worker in workers if worker.point], LOOK)
            for at, worker in enumerate(workers):
                if worker.point is None or (answer := worker.answer()) is None:
                    continue
                point, worker.point = worker.point, None
                yield point, answer if isinstance(answer, str) else None
                # Whatever kills a process here will kill the process of the run, too, which then counts as failed.
                if worker.is_dead:
                    workers[at] = worker.replace()
    finally:
        _end(workers)


def _end(workers: Sequence[Worker]) -> None:
    for worker in workers:
        worker.end(0)


def _record_parsed(point: Point, runs_dir: Path) -> None:
    """Add a command line to the ledger, with one write that other processes cannot tear.

    The line starts with an end of line, so that it cannot continue a line that was cut off.
    """
    path = runs_dir / ".sweep" / PARSED
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(f"\n{point.key}\n")
