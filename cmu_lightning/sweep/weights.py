"""Of the runs among which hyperparameters are chosen, the chosen one keeps its weights."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import Run, read_metrics
from cmu_lightning.files import write_atomically, write_json
from cmu_lightning.report.comparing.select import grid_position
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.proposals import Proposals
from cmu_lightning.sweep.stopped import is_stopped

MARK = "checkpoints: until_chosen"
"""In the config of a run whose weights are a sweep's to drop."""


class Choice:
    """Drops weights as soon as a run and all its rivals have finished, whoever ran them.

    Args:
        points: All of the sweep's files, in their order; one of several files is a rival in each.
    """

    def __init__(self, points: list[Point]) -> None:
        self.rivals: dict[str, list[Point]] = defaultdict(list)
        self.groups: dict[str, list[str]] = defaultdict(list)
        """In which rivalries a point is, by its key."""
        self.chosen: dict[str, Path] = {}
        """Of each rivalry that is settled."""
        self.awaited: dict[str, Point] = {}
        """Of some rivals one that had no results when it was last looked at, so that not all are read each time."""
        self._add(points)

    def _add(self, points: list[Point]) -> None:
        for point in points:
            if point.rivals not in self.groups[point.key]:
                self.groups[point.key].append(point.rivals)
                self.rivals[point.rivals].append(point)

    def settle(self, point: Point) -> None:
        """Drop what was not chosen among a point's rivals, if it can be known."""
        for group in self.groups[point.key]:
            for rival, found, stored in self._choose(group):
                for other in self.groups[rival.key]:
                    if other not in self.chosen:  # it may have been settled by another process
                        self._choose(other)
                if all(self.chosen.get(each, found) != found for each in self.groups[rival.key]):
                    drop(found, stored)

    def _choose(self, group: str) -> list[tuple[Point, Path, dict[str, Any]]]:
        """Note the best of some rivals, once all are known; all of them."""
        known = self._known(group)
        if known:
            in_order = sorted(known, key=lambda run: grid_position(run[2]))  # of equal ones the first, as in a report
            best = max(in_order, key=lambda run: run[2]["selection_score"])
            self.chosen[group] = best[1]
        return known

    def _known(self, group: str) -> list[tuple[Point, Path, dict[str, Any]]]:
        """Rivals with their folders and results, in the sweep's order; none before all have some."""
        awaited = self.awaited.get(group)
        if awaited is not None and self._scored(awaited) is None and not is_stopped(awaited):
            return []
        known = []
        for rival in reversed(self.rivals[group]):  # the last is awaited longest
            if is_stopped(rival):
                continue
            if (run := self._scored(rival)) is None:
                self.awaited[group] = rival
                return []
            known.append((rival, *run))
        alike = {(stored.get("content"), stored["original"]) for _, _, stored in known}
        return known[::-1] if len(alike) == 1 else []  # else some are of files as they were before

    def _scored(self, point: Point) -> tuple[Path, dict[str, Any]] | None:
        """A point's folder and results; None if there is nothing to compare yet."""
        found = point.folder
        stored = None if found is None else _results(found)
        return None if found is None or stored is None or "selection_score" not in stored else (found, stored)

    def settle_rest(self) -> None:
        """Of rivals that all had finished before, if whoever ran the last of them was killed before it dropped any."""
        for group, points in list(self.rivals.items()):
            if group not in self.chosen:
                self.settle(points[0])

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


def keep(run: Path) -> None:
    """Let a run's weights stay, whatever is chosen elsewhere."""
    config = run / "config.yaml"
    write_atomically(config, config.read_text().replace(f"{MARK}\n", "checkpoints: all\n"))


def drop(run: Path, stored: dict[str, Any]) -> None:
    """Say so first, then delete: a run never promises weights that are gone."""
    checkpoint, config = run / "last.ckpt", run / "config.yaml"
    if not checkpoint.exists() or not config.exists() or MARK not in config.read_text().splitlines():
        return
    with Run.of(run, stored["hash"]).locked():
        if checkpoint.exists():  # another sweep has not dropped it meanwhile
            stored["dropped_checkpoint"] = checkpoint.name
            write_json(run / "metrics.json", stored)
            checkpoint.unlink(missing_ok=True)
