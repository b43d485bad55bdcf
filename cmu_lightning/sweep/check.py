"""What is wrong with sweep files, said before anything runs."""

import contextlib
import io
from collections.abc import Iterator
from itertools import cycle, islice
from typing import Any

from cmu_lightning.cli import main
from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.points import Point
from cmu_lightning.tracking.results import MEASURED

OF_ORIGINAL = {name for name in MEASURED if name.startswith(("acc_corr", "acc_retain", "acc_manip", "asr", "val_acc"))}
LOGGED = {*MEASURED, "train_loss", "seconds", "samples_forward", "samples_backward"}
STRUCTURE = ("config", "model", "model.class_path", "data", "data.class_path")
"""Parameters on which depends what other parameters there are."""


def complaints(points: list[Point]) -> list[str]:
    """One sentence for each thing that is wrong.

    Args:
        points: Of all the files.
    """
    by_file: dict[int, list[Point]] = {}
    for point in points:
        by_file.setdefault(id(point.sweep), []).append(point)
    return [said for own in by_file.values() for said in _of_file(own)]


def _of_file(points: list[Point]) -> list[str]:
    sweep = points[0].sweep
    said = [*_numbers_as_text(sweep), *_mixed_bounds(sweep), *_metric(sweep, points)]
    return [f"{sweep.path}: {sentence}" for sentence in [*said, *_refused(points)]]


def _numbers_as_text(sweep: Sweep) -> Iterator[str]:
    """YAML reads 1e4 as text, and W&B shows and compares it as such."""
    for parameter in sweep.parameters:
        for value in [parameter.given.get("value"), *parameter.given.get("values", [])]:
            if isinstance(value, str) and _is_number(value):
                yield (
                    f"parameter {'.'.join(parameter.name)} has the value {value}, which YAML reads as text: "
                    f"write {float(value)}"
                )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _mixed_bounds(sweep: Sweep) -> Iterator[str]:
    for parameter in sweep.parameters:
        low, high = parameter.given.get("min"), parameter.given.get("max")
        if parameter.distribution == "uniform" and type(low) is not type(high):
            yield f"parameter {'.'.join(parameter.name)} goes from {low} to {high}: write both with a point, or neither"


def _metric(sweep: Sweep, points: list[Point]) -> Iterator[str]:
    """A search that optimises what nobody logs optimises nothing."""
    metric = sweep.content.get("metric")
    if metric is None:
        return
    logged = OF_ORIGINAL if all(point.is_original for point in points) else LOGGED
    if metric["name"] not in logged:
        yield f"metric {metric['name']} is never logged: there are {', '.join(sorted(logged))}"


def _refused(points: list[Point]) -> Iterator[str]:
    """What the command line says to points that hold every value of every parameter, each once for the same reason."""
    said = set()
    for point in covering(points):
        error = parse(point.arguments)
        if error is not None and error not in said:
            said.add(error)
            yield error


def parse(arguments: tuple[str, ...]) -> str | None:
    """What the command line has against its arguments; nothing is run."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        try:
            code: Any = main([*arguments, "--print_config"])
        except SystemExit as ended:
            code = ended.code
    return errors.getvalue().strip().removeprefix("error: ") or f"exit code {code}" if code else None


def covering(points: list[Point]) -> list[Point]:
    """As few points as hold every combination of `STRUCTURE`, and with each of these every value of the others."""
    rest: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        structure = tuple(str(point.values.get(name)) for name in STRUCTURE)
        rest.setdefault(structure, []).append(point)
    chosen = []
    for own in rest.values():
        unseen = {(name, str(value)) for point in own for name, value in point.values.items()}
        while unseen:
            best = max(own, key=lambda point: len(unseen & _pairs(point)))
            unseen -= _pairs(best)
            chosen.append(best)
    return chosen


def _pairs(point: Point) -> set[tuple[str, str]]:
    return {(name, str(value)) for name, value in point.values.items()}
