"""What is tried: the original as it is, and the methods that fit, at a few values each."""

from itertools import product
from pathlib import Path

from cmu_lightning.errors import UserError
from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.points import Point

TRIED: dict[str, dict[str, tuple[float, ...]]] = {
    "keep": {},
    "potion": {},
    "assd": {},
    "ssd": {"selection": (1.0, 10.0, 100.0), "dampening_ratio": (0.1, 1.0)},
    "cf": {},
    "scrub": {"distill": (0.1, 1.0)},
    "badt": {},
}
"""Overlays and the values of their hyperparameters. RewoD costs as much as the original did, so it is not tried."""

ORIGINAL = ("--model.original", "--model.init_args.original")
FILES = (*ORIGINAL, "--data.discovery.path", "--data.discovery.init_args.path")
GIVEN = (*ORIGINAL, "--model.seed", "--model.init_args.seed")
"""What a user may say about the model."""


def points(arguments: list[str], runs_dir: Path) -> list[Point]:
    """A run of `fit` for everything that is tried; the first one keeps the original.

    Args:
        arguments: A setting and what else holds for all of them.
        runs_dir: Where their runs go.

    Raises:
        UserError: They say which method to use, or name a file that is not there.
    """
    made = []
    for overlay, grid in TRIED.items():
        for values in product(*grid.values()):
            point = dict(zip(grid, values, strict=True))
            chosen = [f"--model.{name}={value}" for name, value in point.items()]
            command = ("fit", "--config", f"unlearn/{overlay}.yaml", *arguments, *chosen)
            made.append(Point(Sweep(Path("repair"), {}, []), point, command, runs_dir))
    _refuse_methods(made[0])
    _refuse_missing(made[0])
    return made


def _refuse_methods(point: Point) -> None:
    """Those of the user's own; the first config is the study's."""
    said = [name for name, _ in point.options if name.partition(".")[0] == "--model" and name not in GIVEN]
    said += ["model: in a config" for config in point.configs[1:] if "model" in config]
    if said:
        raise UserError(f"repair tries several methods, and {said[0]} asks for one: leave it out, or use fit")


def _refuse_missing(point: Point) -> None:
    """At once, and not when torch has been imported and the images read."""
    for name, value in point.options:
        if name not in FILES or value == "null":
            continue
        try:
            there = Path(value).exists()
        except OSError as error:
            raise UserError(f"{name} names {value}, which cannot be read ({error.strerror}): give another") from error
        if not there:
            raise UserError(f"{name} names {value}, and there is no such file: check its path")
