"""The points of sweep files, and what their command lines tell about them."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.ledger import config_text, is_finished, note_name, noted_folder, options
from cmu_lightning.sweep import search
from cmu_lightning.sweep.arguments import of_fit
from cmu_lightning.sweep.file import Sweep

OF_DELETION = re.compile(r"--data\.(init_args\.)?(identified|seed|discovery)(\.|$)")
NO_HYPERPARAMETER = (
    *("--model", "--model.class_path", "--model.seed", "--model.original"),
    *("--model.init_args.seed", "--model.init_args.original"),
)


@dataclass(frozen=True, eq=False)
class Point:
    """One point of a sweep file and the command line that runs it."""

    sweep: Sweep
    values: search.Values
    arguments: tuple[str, ...]
    """Of `python -m cmu_lightning`, beginning with fit."""
    runs_dir: Path
    """Where its run goes."""

    @classmethod
    def of(cls, sweep: Sweep, values: search.Values, runs_dir: Path) -> "Point":
        """With the command line that its file makes of its values.

        Raises:
            UserError: The file asks for another command than fit.
        """
        return cls(sweep, values, tuple(of_fit(sweep, values, runs_dir)), runs_dir)

    @cached_property
    def key(self) -> str:
        """Names what is asked for; points of the same key are the same."""
        return note_name(list(self.arguments[1:]))

    @cached_property
    def options(self) -> list[tuple[str, str]]:
        """Names and values of its options."""
        return list(options(list(self.arguments[1:])))

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """What the configs that it names say."""
        return [_mapping(config_text(value)) for name, value in self.options if name == "--config"]

    @cached_property
    def is_original(self) -> bool:
        """Whether it asks for no unlearner."""
        by_option = any(name.partition(".")[0] == "--model" for name, _ in self.options)
        return not by_option and not any("model" in config for config in self.configs)

    @cached_property
    def origin(self) -> str:
        """Equal for points that start from the same original, as far as their command lines tell."""
        without = [
            f"{name}={config_text(value) if name == '--config' else value}"
            for name, value in self.options
            if name.partition(".")[0] != "--model" and not OF_DELETION.match(name)
        ]
        overlays = [config_text(value) for name, value in self.options if name == "--config"]
        only_model = {f"--config={text}" for text in overlays if set(_mapping(text)) == {"model"}}
        return "\n".join(sorted(set(without) - only_model))

    @cached_property
    def rivals(self) -> str:
        """Equal for the points of a file among which hyperparameters are chosen: one setting, method, S_f and seed.

        Those that are no numbers make another method of it, as in the report.
        """
        kept = [f"{name}={value}" for name, value in self.options if not _is_tuned(name, value)]
        return "\n".join([str(self.sweep.path), *kept])

    @cached_property
    def processes(self) -> bool:
        """Whether it asks for more than one process."""
        trainer: dict[str, Any] = {}
        for config in self.configs:
            trainer |= config.get("trainer") or {}
        for name, value in self.options:
            if name in ("--trainer.devices", "--trainer.num_nodes"):
                trainer[name.rpartition(".")[2]] = yaml.safe_load(value)
        devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
        one = devices in (None, "auto", 1, "1") or (isinstance(devices, list) and len(devices) == 1)
        return not one or nodes not in (None, 1)

    @property
    def is_finished(self) -> bool:
        """Whether its results are known to be there."""
        return is_finished(self.key, self.runs_dir)

    @property
    def folder(self) -> Path | None:
        """Of its run, if that was started."""
        return noted_folder(self.key, self.runs_dir)

    def file(self, kind: str, ending: str = "json") -> Path:
        """What a sweep keeps of it beside its run.

        Args:
            kind: Names the folder.
            ending: Of the file's name.
        """
        return self.runs_dir / ".sweep" / kind / f"{self.key}.{ending}"

    def __str__(self) -> str:
        """As it is typed."""
        return " ".join(self.arguments)


def _is_tuned(name: str, value: str) -> bool:
    """Whether an option is a hyperparameter to be chosen by a search."""
    if not name.startswith("--model.") or name in NO_HYPERPARAMETER:
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


@cache
def _mapping(text: str) -> dict[str, Any]:
    read = yaml.safe_load(text)
    return read if isinstance(read, dict) else {}


def of_files(sweeps: list[Sweep], runs_dir: Path) -> list[Point]:
    """All points of grids and random searches, file by file.

    Raises:
        UserError: A file asks for what cannot be run.
    """
    return [Point.of(sweep, values, runs_dir) for sweep in sweeps for values in search.points(sweep)]


def listed(points: list[Point]) -> list[Point]:
    """Each point once; originals come first, for others start from them."""
    found = {point.key: point for point in reversed(points)}
    once = [point for point in points if found[point.key] is point]
    return sorted(once, key=lambda point: not point.is_original)


def shard(points: list[Point], part: str | None) -> list[Point]:
    """Every N-th point, beginning with the I-th.

    Raises:
        UserError: It is no I/N.
    """
    if part is None:
        return points
    first, _, count = part.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard {part} is no I/N: give 1/4, 2/4, 3/4 and 4/4 to four machines")
    return points[int(first) - 1 :: int(count)]
