"""Runs that early termination has stopped: neither finished nor to be run again by this sweep."""

from pathlib import Path

from cmu_lightning.files import write_json
from cmu_lightning.sweep.points import Point


def _mark(point: Point, runs_dir: Path) -> Path:
    return runs_dir / ".sweep" / "stopped" / f"{point.key}.json"


def mark(point: Point, runs_dir: Path) -> None:
    """Keep that a run was stopped; what it has done so far stays in its folder."""
    write_json(_mark(point, runs_dir), {"arguments": point.arguments})


def unmark(point: Point, runs_dir: Path) -> None:
    """It was finished before it could be stopped."""
    _mark(point, runs_dir).unlink(missing_ok=True)


def is_stopped(point: Point, runs_dir: Path) -> bool:
    """Whether its run was stopped."""
    return _mark(point, runs_dir).exists()
