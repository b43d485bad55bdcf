"""Runs that early termination has stopped: neither finished nor to be run again by this sweep."""

import json
from pathlib import Path

from cmu_lightning.sweep.points import Point
from cmu_lightning.tracking.run import write_atomically


def _mark(point: Point, runs_dir: Path) -> Path:
    return runs_dir / ".sweep" / "stopped" / f"{point.key}.json"


def mark(point: Point, runs_dir: Path) -> None:
    """Keep that a run was stopped; what it has done so far stays in its folder."""
    write_atomically(_mark(point, runs_dir), json.dumps({"arguments": point.arguments}, indent=2) + "\n")


def unmark(point: Point, runs_dir: Path) -> None:
    """It was finished before it could be stopped."""
    _mark(point, runs_dir).unlink(missing_ok=True)


def is_stopped(point: Point, runs_dir: Path) -> bool:
    """Whether its run was stopped."""
    return _mark(point, runs_dir).exists()
