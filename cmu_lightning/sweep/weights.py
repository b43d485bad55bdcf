"""Of the runs among which hyperparameters are chosen, the chosen one keeps its weights."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.proposals import Proposals
from cmu_lightning.sweep.stopped import is_stopped
from cmu_lightning.tracking.asked import folder
from cmu_lightning.tracking.run import read_metrics, write_atomically

MARK = "checkpoints: until_chosen"
"""In the config of a run whose weights are a sweep's to drop."""


class Choice:
    """Drops weights as soon as a run and all its rivals have finished, whoever ran them.

    Args:
        points: All of the sweep, in its order.
        runs_dir: Where their runs are.
    """

    def __init__(self, points: list[Point], runs_dir: Path) -> None:
        self.runs_dir = runs_dir
        self.rivals: dict[str, list[Point]] = defaultdict(list)
        self._add(points)

    def _add(self, points: list[Point]) -> None:
        for point in points:
            self.rivals[point.rivals].append(point)

    def settle(self, point: Point) -> None:
        """Drop what was not chosen among a point's rivals, if it can be known."""
        rivals = [rival for rival in self.rivals[point.rivals] if not is_stopped(rival, self.runs_dir)]
        folders = [folder(rival.key, self.runs_dir) for rival in rivals]
        results = [(found, _results(found)) for found in folders if found is not None]
        known = [(found, stored) for found, stored in results if stored is not None]
        if len(known) < len(folders) or any("selection_score" not in stored for _, stored in known):
            return
        chosen = max(known, key=lambda run: run[1]["selection_score"])  # of equal ones the first in the sweep's order
        for found, stored in known:
            if found != chosen[0]:
                drop(found, stored)

    def settle_searches(self, searches: list[Proposals]) -> None:
        """The same for bayes searches that have come to their end."""
        for search in searches:
            points = search.points()
            self._add(points)
            for one in {point.rivals: point for point in points}.values():
                self.settle(one)


def _results(run: Path) -> dict[str, Any] | None:
    """Of a run; None if they are not there, or damaged, which whoever runs it will be told."""
    try:
        return read_metrics(run)
    except UserError:
        return None


def drop(run: Path, stored: dict[str, Any]) -> None:
    """Say so first, then delete: a run never promises weights that are gone."""
    checkpoint, config = run / "last.ckpt", run / "config.yaml"
    if checkpoint.exists() and config.exists() and MARK in config.read_text().splitlines():
        stored["dropped_checkpoint"] = checkpoint.name
        write_atomically(run / "metrics.json", json.dumps(stored, indent=2) + "\n")
        checkpoint.unlink(missing_ok=True)
