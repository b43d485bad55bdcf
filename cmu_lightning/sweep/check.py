"""What is wrong with sweep files, said before anything runs."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer

from cmu_lightning.cli.fit import CLI, main
from cmu_lightning.console import bar
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.experiment.run import COST, CURVES, MEASURED
from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.points import Point
from cmu_lightning.unlearning import Stage

LOGGED = {*MEASURED, *COST, *CURVES}
OF_UNLEARNERS = {
    *("acc_identified", "acc_unidentified", "fit_identified", "fit_retain", "val_acc_matched", "changed"),
    *("selection_score", "forget_loss", "retain_loss"),
}
"""What an original does not log."""
STRUCTURE = ("--config", "--model", "--model.class_path", "--data", "--data.class_path")
"""Options on which depends what other options there are."""


def complaints(points: list[Point]) -> list[str]:
    """One sentence for each thing that is wrong.

    Args:
        points: Points of all the files.
    """
    by_file: dict[Path, list[Point]] = {}
    for point in points:
        by_file.setdefault(point.sweep.path, []).append(point)
    said = []
    for path, own in by_file.items():
        sweep = own[0].sweep
        sentences = [*_numbers_as_text(sweep), *_mixed_bounds(sweep), *_metric(sweep, own)]
        said += [f"{path}: {sentence}" for sentence in sentences]
    return [*said, *_refused(points)]


def _numbers_as_text(sweep: Sweep) -> Iterator[str]:
    """YAML reads 1e4 as text, and W&B shows and compares it as such."""
    for parameter in sweep.parameters:
        for value in [parameter.given.get("value"), *parameter.given.get("values", [])]:
            if isinstance(value, str) and _is_number(value):
                yield (
                    f"parameter {'.'.join(parameter.name)} has the value {value}, which YAML reads as text: "
                    f"write {yaml.safe_dump(float(value)).split()[0]}"
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
    logged = LOGGED - OF_UNLEARNERS if all(point.is_original for point in points) else LOGGED
    if metric["name"] not in logged:
        yield f"metric {metric['name']} is never logged: there are {', '.join(sorted(logged))}"


def _refused(points: list[Point]) -> Iterator[str]:
    """What the command line says to the options of the points, each thing once for a file."""
    said = set()
    few = covering(points)
    for point in bar(few, "checking", len(few)):
        sentence = refused(point.arguments)
        error = f"{point.sweep.path}: {sentence}"
        if sentence is not None and error not in said:
            said.add(error)
            yield error


class Checking(CLI):
    """Makes all that a `fit` needs, on any machine, and runs nothing."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """One that needs no device of the run's."""
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def fit(self, model: Stage, datamodule: CorruptedDataModule, ckpt_path: str | None = None) -> None:
        """Nothing."""


def refused(arguments: tuple[str, ...]) -> str | None:
    """What the command line has against its arguments; nothing is run."""
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main(list(arguments), Checking)
    return errors.getvalue().strip().rpartition("error: ")[2] if code else None


def covering(points: list[Point]) -> list[Point]:
    """Few points that hold every combination of classes, and every value of an option with each of its classes."""
    parts = {point: _parts(point) for point in points}
    missing: set[Part] = set().union(*parts.values())
    alike: dict[Part, list[Point]] = {}
    for point in points:
        alike.setdefault(_structure(point), []).append(point)
    chosen = []
    while missing:
        for own in alike.values():
            best = max(own, key=lambda point: len(parts[point] & missing))
            if parts[best] & missing:
                chosen.append(best)
                missing -= parts[best]
    return chosen


Part = tuple[str, ...]
"""An option, its value and what decides whether it is a good one."""


def _parts(point: Point) -> set[Part]:
    """What of a point can be wrong on its own."""
    owners = {part: _owners(point, part) for part in ("model", "data")}
    others = [(name, value) for name, value in point.options if name not in STRUCTURE]
    return {_structure(point)} | {
        (name, value, *owners.get(name.strip("-").partition(".")[0], [])) for name, value in others
    }


def _structure(point: Point) -> Part:
    """Which classes and configs it names."""
    return tuple(f"{name}={value}" for name, value in point.options if name in STRUCTURE)


def _owners(point: Point, part: str) -> list[str]:
    """What says of which class the model or the data are."""
    by_config = [value for (name, value), config in zip(_named(point), point.configs, strict=True) if part in config]
    return by_config + [value for name, value in point.options if name in (f"--{part}", f"--{part}.class_path")]


def _named(point: Point) -> list[tuple[str, str]]:
    return [(name, value) for name, value in point.options if name == "--config"]
