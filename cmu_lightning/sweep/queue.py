"""The queue of a sweep's runs, shared with other processes on the same runs folder, and the record of failed ones."""

import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cmu_lightning.files import Lock, write_json
from cmu_lightning.sweep.points import Point

if TYPE_CHECKING:
    from cmu_lightning.sweep.search import BayesSearch

FAILED = "failed"
"""Folder of the records of failed runs, in `RUNS_DIR/.sweep`."""
LAST_LINES = 20
"""Number of lines of a failed run's output that are kept."""


class Queue:
    """Runs to do, in order; other processes on the same runs folder may do some of them.

    Args:
        points: Points that are not known to be finished.
        searches: Searches that propose more points once nothing else is left.
    """

    def __init__(self, points: Sequence[Point], searches: "Sequence[BayesSearch]" = ()) -> None:
        self.waiting = list(points)
        self.searches = list(searches)
        self.claims: dict[str, Lock] = {}
        self.started_origins: set[str] = set()
        self.finished_origins: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether anything is left to hand out."""
        return bool(self.waiting or self.searches)

    def put_first(self, point: Point) -> None:
        """Put a run at the front.

        Args:
            point: Point of the run.
        """
        self.waiting.insert(0, point)

    def take(self) -> Point | None:
        """Return the next run that no other process works on, taken out; None if there is none at present."""
        for point in self._by_origin():
            if self._claim(point):
                self.waiting.remove(point)
                self.started_origins.add(point.origin)
                return point
        return self._take_proposal()

    def _take_proposal(self) -> Point | None:
        """Return a new point of the first search that is not at its end."""
        while self.searches:
            point = self.searches[0].propose()
            if point is None:
                self.searches.pop(0)
            elif self._claim(point):
                return point
        return None

    def _by_origin(self) -> Iterator[Point]:
        """Yield the waiting points; those that would wait because their original is being trained come last."""
        busy = self.started_origins - self.finished_origins
        later = []
        for point in list(self.waiting):
            if point.origin in busy:
                later.append(point)
            else:
                yield point
        yield from later

    def _claim(self, point: Point) -> bool:
        """Return whether this process has claimed a run for itself; the claim ends with the process."""
        lock = Lock(point.record("claims", "lock"))
        if not lock.acquire(wait=False):
            return False
        self.claims[point.key] = lock
        return True

    def release(self, point: Point, finished: bool) -> None:
        """Give up the claim on a run.

        Args:
            point: Point of the run.
            finished: Whether its results exist, and with them those of its original.
        """
        self.claims.pop(point.key).release()
        if finished:
            self.finished_origins.add(point.origin)
        else:
            self.started_origins.discard(point.origin)


@dataclass(frozen=True)
class Failure:
    """A run that failed.

    Args:
        point: Point of the run.
        code: Exit code; negative for the number of a signal.
        lines: The last lines of its output.
    """

    point: Point
    code: int
    lines: list[str]

    @property
    def reason(self) -> str:
        """One line with the reason, as far as the output shows it."""
        if self.code < 0:
            return f"its process was ended by {signal.Signals(-self.code).name}, twice"
        errors = [line for line in self.lines if "error" in line.lower()]
        return (errors or self.lines or [f"exit code {self.code}"])[-1]


def log_path(point: Point) -> Path:
    """Return the file for a run's output.

    Args:
        point: Point of the run.
    """
    return point.record("logs", "log")


def record_failure(point: Point, code: int) -> Failure:
    """Keep the last lines of a failed run's output in the runs folder, and return them.

    Args:
        point: Point of the run.
        code: Its exit code; negative for the number of a signal.
    """
    log = log_path(point)
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = [line.rstrip() for line in text.splitlines() if line.strip()][-LAST_LINES:]
    write_json(point.record(FAILED), {"arguments": point.arguments, "code": code, "lines": lines})
    return Failure(point, code, lines)


def has_failed(point: Point) -> bool:
    """Return whether the last attempt at a run failed.

    Args:
        point: Point of the run.
    """
    return point.record(FAILED).exists()


def forget_failure(point: Point) -> None:
    """Delete the failure record and the output of a run that is tried again, or that has succeeded.

    Args:
        point: Point of the run.
    """
    for path in (point.record(FAILED), log_path(point)):
        path.unlink(missing_ok=True)
