"""Every finished run of a runs folder, and by name everything else that lies in it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from cmu_lightning.experiment.run import MEASURED, ROWS
from cmu_lightning.report.reading.configuration import Configuration, read_configuration

FRACTIONS = ("identified", *MEASURED)
"""What is between 0 and 1 in a `metrics.json`."""

TYPES: dict[str, type] = {
    "setting": str,
    "dataset": str,
    "model": str,
    "manipulation": str,
    "method": str,
    "hash": str,
    "manipulated": int,
    "fingerprint": int,
    "hyperparameters": dict,
    "environment": dict,
}
"""What no `metrics.json` lacks."""


UNKNOWN = "Unknown"
"""The manipulation of runs on data of which nobody knows what was done to them."""

OF_REPAIR = "of unknown manipulation: repair compares such runs"
"""Why they are skipped."""


class Skipped(NamedTuple):
    """Something in a runs folder that no number comes from, and why."""

    path: str
    reason: str


class Seeds(NamedTuple):
    """What was drawn anew; None where a stage has no such seed."""

    original: int
    manipulation: int
    model: int | None
    data: int | None

    def __str__(self) -> str:
        if len({seed for seed in self if seed is not None}) == 1:
            return str(self.original)
        return " ".join(f"{name}={seed}" for name, seed in self._asdict().items() if seed is not None)


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        folder: Relative to the runs folder.
        metrics: Content of its `metrics.json`.
        configuration: From its `config.yaml`; None if that is missing or damaged.
    """

    folder: str
    metrics: dict[str, Any]
    configuration: Configuration | None = field(repr=False)

    @property
    def is_original(self) -> bool:
        """Whether nothing was unlearned."""
        return "identified" not in self.metrics

    @cached_property
    def identified(self) -> float:
        """Of an unlearner; free of what binary fractions add to decimal ones."""
        return round(float(self.metrics["identified"]), 6)

    @cached_property
    def seeds(self) -> Seeds:
        """What tells repetitions apart."""
        return Seeds._make(self.metrics.get(f"{name}_seed") for name in Seeds._fields)


def collect(runs_dir: Path) -> tuple[list[Result], list[Skipped]]:
    """Read a runs folder.

    Returns:
        The finished runs, and what was skipped; both in the order of their paths.
    """
    results: dict[tuple[str, ...], Result] = {}
    skipped: list[Skipped] = []
    for folder in _run_folders(runs_dir, runs_dir, skipped):
        name = str(folder.relative_to(runs_dir))
        read = read_result(folder, name)
        if isinstance(read, Skipped):
            skipped.append(read)
            continue
        first = results.setdefault((*folder.parts[-3:-1], read.metrics["hash"]), read)
        if first is not read:
            skipped.append(Skipped(name, f"the same run as {first.folder}"))
        elif read.configuration is None:
            skipped.append(Skipped(f"{name}/config.yaml", "missing or damaged: its run counts as a variant of its own"))
    return list(results.values()), skipped


def _run_folders(runs_dir: Path, folder: Path, skipped: list[Skipped]) -> Iterator[Path]:
    """Folders at `<setting>/<method>/<run>`; hidden entries are locks and the like."""
    within = folder.relative_to(runs_dir)
    try:
        entries = sorted(
            (entry for entry in os.scandir(folder) if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    except OSError as error:
        skipped.append(Skipped(str(within), f"cannot be read ({error.strerror})"))
        return
    if not entries:
        skipped.append(Skipped(str(within), "an empty folder"))
    for entry in entries:
        inner = folder / entry.name
        if not entry.is_dir():
            reason = "what repair chose" if entry.name == "repaired.json" else "no run: a file of something else"
            skipped.append(Skipped(str(within / entry.name), reason))
        elif len(within.parts) == 2:
            yield inner
        else:
            yield from _run_folders(runs_dir, inner, skipped)


def read_result(folder: Path, name: str) -> Result | Skipped:
    """One run.

    Args:
        folder: Folder of the run.
        name: Name of the folder, relative to the runs folder.
    """
    try:
        metrics = json.loads((folder / "metrics.json").read_bytes())
    except FileNotFoundError:
        begun = any((folder / part).exists() for part in ("config.yaml", "last.ckpt", ROWS))
        return Skipped(name, "not finished: it has no metrics.json" if begun else "no run: it has no metrics.json")
    except OSError as error:
        return Skipped(f"{name}/metrics.json", f"cannot be read ({error.strerror})")
    except (ValueError, RecursionError):
        return Skipped(f"{name}/metrics.json", "damaged: no whole JSON")
    reason = what_is_wrong(metrics, *folder.parts[-3:])
    if reason is not None:
        return Skipped(f"{name}/metrics.json", reason)
    return Result(name, metrics, read_configuration(folder / "config.yaml"))


def what_is_wrong(metrics: Any, setting: str, method: str, run: str) -> str | None:
    """Why no number can come from a `metrics.json`; None if nothing is wrong.

    Args:
        metrics: Its content.
        setting: Name of the folder that it lies in, three levels up.
        method: The same, two levels up.
        run: The same, one level up.
    """
    if not isinstance(metrics, dict):
        return "foreign: no JSON object"
    if metrics.get("manipulation") == UNKNOWN:
        return OF_REPAIR
    seeds = {"original_seed": int, "manipulation_seed": int}
    of_unlearner = {"original": str} if "identified" in metrics else {}
    for key, kind in (TYPES | seeds | of_unlearner).items():
        if not isinstance(metrics.get(key), kind) or isinstance(metrics.get(key), bool):
            return f"foreign or damaged: no {key}" if key not in metrics else f"damaged: {key}={metrics[key]!r}"
    for key in FRACTIONS:
        value = metrics.get(key, 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1 + 1e-9:
            return f"damaged: {key}={value!r} is not between 0 and 1"
    if not 0 <= _number(metrics.get("seconds", 0)) < float("inf"):
        return f"damaged: seconds={metrics['seconds']!r}"
    said, lies = (metrics["setting"], metrics["method"], metrics["hash"]), (setting, method, run.rpartition("-")[2])
    if said != lies:
        return f"foreign: it says {'/'.join(said)}"
    return None


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")
