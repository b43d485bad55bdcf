"""Sweep files, and workers that run in the tests' own process."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmu_lightning.parsing import PACKAGE
from cmu_lightning.sweep.file import find_files, read_file
from cmu_lightning.sweep.points import Point, Values, order_points
from cmu_lightning.sweep.search import list_points
from tests.helpers.workers import in_process_workers

ROOT = PACKAGE.parent
SHIPPED = sorted((ROOT / "sweeps").rglob("*.yaml"))
COMMAND = ["${env}", "${interpreter}", "-m", "${program}", "fit"]
DIGITS = [*COMMAND, "--config", "poison_digits.yaml"]
SSD_GRID = {
    "data.identified": {"values": [0.5, 1.0]},
    "model.class_path": {"value": "SSD"},
    "model.selection": {"values": [0.1, 1.0, 10.0]},
}


def write_sweep(
    parameters: dict[str, Any], *options: str, name: str = "sweep.yaml", command: list[str] | None = None, **keys: Any
) -> Path:
    """Write a sweep file into the current folder, by default one of poison_digits.

    Args:
        parameters: Its parameters.
        options: Options of its command before `${args}`.
        name: Name of the file.
        command: The whole command.
        keys: Other keys of the file.
    """
    content = {"program": "cmu_lightning", "method": "grid", "parameters": parameters}
    content |= {"command": command or [*DIGITS, *options, "${args}"]} | keys
    path = Path.cwd() / name
    path.write_text(yaml.safe_dump(content))
    return path


def read_points(*paths: Path, runs_dir: Path = Path("runs")) -> list[Point]:
    """Return the points of sweep files as a sweep runs them: each once, originals first."""
    files = [read_file(path) for path in find_files([str(path) for path in paths])]
    return order_points([point for sweep in files for point in list_points(sweep, runs_dir)])


def read_values(path: Path) -> list[Values]:
    """Return the values of a sweep file's points."""
    return [point.values for point in list_points(read_file(path), Path("runs"))]


def read_results(runs_dir: Path, method: str = "*") -> dict[str, dict[str, Any]]:
    """Return what runs have stored, by their folders' names, without what differs from time to time."""
    found = {}
    for path in sorted(runs_dir.glob(f"*/{method}/*/metrics.json")):
        found[path.parent.name] = json.loads(path.read_text())
        for name in ("seconds", "environment", "config", "dropped_checkpoint"):
            found[path.parent.name].pop(name, None)
    return found


def note_run(point: Point, metrics: dict[str, Any] | None, ending: str = "", name: str | None = None) -> Path:
    """Leave what a finished run of a point leaves, in its runs folder and in the ledger, and return the run's folder.

    Args:
        point: The point.
        metrics: Its results; None for a run that has not finished.
        ending: What the note in the ledger ends with.
        name: Name of the run; default from the point's key.
    """
    name = name or point.key[:10]
    run = point.runs_dir / "poison_digits" / "SSD" / f"0-{name}"
    run.mkdir(parents=True, exist_ok=True)
    if metrics is not None:
        (run / "metrics.json").write_text(json.dumps({"hash": name} | metrics))
    note = point.runs_dir / ".sweep" / "asked" / point.key
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(run.relative_to(point.runs_dir)) + ending)
    return run


@pytest.fixture
def inline_workers() -> Iterator[None]:
    """Sweeps run in the test's own process."""
    with in_process_workers():
        yield
