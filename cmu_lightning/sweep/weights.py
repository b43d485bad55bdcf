"""The weights that a sweep keeps: those of the run that is chosen among hyperparameters."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import Run, read_metrics, write_metrics
from cmu_lightning.files import write_atomically
from cmu_lightning.selection import grid_position
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.search import BayesSearch

CHOSEN, ALL = "checkpoints: chosen\n", "checkpoints: all\n"
"""Lines of a run's config. `fit --checkpoints chosen` drops an unlearner's weights at its end, unless a sweep or a
repair has taken over that decision. Weights of a finished unlearner that says `chosen` therefore belong to them."""


@dataclass(frozen=True)
class ScoredRun:
    """A point whose run has a score.

    Args:
        point: The point.
        folder: Folder of its run.
        metrics: Content of the run's `metrics.json`.
    """

    point: Point
    folder: Path
    metrics: dict[str, Any]


class WeightChoice:
    """Drops weights as soon as all points of a group have finished, whichever process ran them.

    A group holds the points of one file among which hyperparameters are chosen. A point of several files is in a group
    of each, and keeps its weights if any of them chooses it.

    Args:
        points: All points of the sweep's files, in their order.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.points: dict[str, list[Point]] = defaultdict(list)
        """The points of each group."""
        self.groups: dict[str, list[str]] = defaultdict(list)
        """The groups of each point, by its key."""
        self.chosen: dict[str, Path] = {}
        """The folder that each settled group has chosen."""
        self.awaited: dict[str, Point] = {}
        """One point of each open group that had no score at the last check: it is checked first."""
        self._add(points)

    def _add(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.group not in self.groups[point.key]:
                self.groups[point.key].append(point.group)
                self.points[point.group].append(point)

    def settle(self, point: Point) -> None:
        """Drop the weights that were not chosen in the groups of a point, if all of their runs have finished.

        Args:
            point: Point whose run has finished.
        """
        for group in self.groups[point.key]:
            for run in self._choose(group):
                memberships = self.groups[run.point.key]
                for other in memberships:
                    if other not in self.chosen:  # another process may have finished its last run
                        self._choose(other)
                # A group that is still open may choose the run later, so it counts as choosing it.
                if all(self.chosen.get(each, run.folder) != run.folder for each in memberships):
                    drop_weights(run.folder)

    def settle_all(self, searches: Sequence[BayesSearch]) -> None:
        """Settle groups at the end of a sweep: those of searches, and those that a killed sweep left behind.

        Args:
            searches: Bayesian searches, whose groups are known only when they have come to their end.
        """
        for search in searches:
            points = search.points()
            self._add(points)
            for point in {point.group: point for point in points}.values():
                self.settle(point)
        for group, points in list(self.points.items()):
            if group not in self.chosen:
                self.settle(points[0])

    def _choose(self, group: str) -> list[ScoredRun]:
        """Record which run a group chooses, and return its runs; none before all have finished."""
        runs = self._finished_runs(group)
        if runs:
            # Of equal scores the first in grid order counts, as in a report.
            in_order = sorted(runs, key=lambda run: grid_position(run.metrics))
            self.chosen[group] = max(in_order, key=lambda run: run.metrics["selection_score"]).folder
        return runs

    def _finished_runs(self, group: str) -> list[ScoredRun]:
        """Return the runs of a group in the sweep's order; none before all have a score."""
        awaited = self.awaited.get(group)
        if awaited is not None and _find_run(awaited) is None:
            return []
        runs = []
        for point in reversed(self.points[group]):  # the last point is awaited longest
            if (run := _find_run(point)) is None:
                self.awaited[group] = point
                return []
            runs.append(run)
        # Runs on other files or from other originals than the rest come from an earlier state of these files.
        alike = {(run.metrics.get("content"), run.metrics["original"]) for run in runs}
        return runs[::-1] if len(alike) == 1 else []


def _find_run(point: Point) -> ScoredRun | None:
    """Return a point's run; None if it has no score, or damaged results, which `fit` reports."""
    folder = point.folder
    if folder is None:
        return None
    try:
        metrics = read_metrics(folder)
    except UserError:
        return None
    return ScoredRun(point, folder, metrics) if metrics is not None and "selection_score" in metrics else None


def keep_weights(run: Path) -> None:
    """Keep a run's weights, regardless of later choices.

    Args:
        run: Folder of the run.
    """
    config = run / "config.yaml"
    with Run.of(run, run.name.rpartition("-")[2]).locked():
        stored = read_metrics(run)
        write_atomically(config, config.read_text().replace(CHOSEN, ALL))
        if stored is not None and "config" in stored:
            stored["config"]["checkpoints"] = "all"
            write_metrics(run, stored)


def drop_weights(run: Path) -> None:
    """Delete a run's weights if they belong to a sweep or a repair.

    Args:
        run: Folder of the run, whose `metrics.json` will name the dropped checkpoint.
    """
    checkpoint, config = run / "last.ckpt", run / "config.yaml"

    def may_go() -> bool:
        return checkpoint.exists() and config.exists() and CHOSEN in config.read_text().splitlines(keepends=True)

    if not may_go():
        return
    with Run.of(run, run.name.rpartition("-")[2]).locked():
        # Another sweep may have dropped the weights meanwhile, or `repair` have kept them.
        stored = read_metrics(run)
        if stored is not None and may_go():
            # The results record it first: a run never promises missing weights.
            stored["dropped_checkpoint"] = checkpoint.name
            write_metrics(run, stored)
            checkpoint.unlink(missing_ok=True)
