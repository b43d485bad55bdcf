"""Runs that early termination has stopped: neither finished nor to be run again by this sweep."""

from cmu_lightning.files import write_json
from cmu_lightning.sweep.points import Point

KIND = "stopped"


def mark(point: Point) -> None:
    """Keep that a run was stopped; what it has done so far stays in its folder."""
    write_json(point.file(KIND), {"arguments": point.arguments})


def unmark(point: Point) -> None:
    """It was finished before it could be stopped."""
    point.file(KIND).unlink(missing_ok=True)


def is_stopped(point: Point) -> bool:
    """Whether its run was stopped."""
    return point.file(KIND).exists()
