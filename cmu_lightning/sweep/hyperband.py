"""Early termination: which runs fall behind, as W&B's own engine decides."""

import time
from pathlib import Path
from typing import Any

from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.trials import engine, trial

LOOK = 2.0
"""Seconds between two looks at the curves."""


class Hyperband:
    """Compares the curves of a sweep's runs (Li et al., 2018), for every file that asks for it."""

    def __init__(self) -> None:
        self.known: dict[Path, dict[str, Point]] = {}
        self.ended: dict[str, Any] = {}
        self.judged: dict[str, int] = {}
        self.looked = 0.0

    def add(self, points: list[Point]) -> None:
        """Points whose curves count."""
        for point in points:
            if point.sweep.stops_early:
                engine(point.sweep)
                self.known.setdefault(point.sweep.path, {})[point.key] = point
                self.ended.pop(point.key, None)  # one that had failed is tried again

    def behind(self, running: list[Point]) -> list[Point]:
        """Those of the running ones that are to be stopped."""
        if not self.known or time.monotonic() - self.looked < LOOK:
            return []
        self.looked = time.monotonic()
        sweeps = {point.sweep.path: point.sweep for point in running if point.sweep.stops_early}
        names = {name for sweep in sweeps.values() for name in self._behind(sweep)}
        return [point for point in running if point.key in names]

    def _behind(self, sweep: Sweep) -> list[str]:
        """Judged after every value that has been logged, whenever it is that somebody looks."""
        trials = [self._trial(point) for point in self.known[sweep.path].values()]
        begun = [one for one in trials if one is not None]
        return [one.name for one in begun if one.state == "running" and self._is_behind(sweep, one, begun)]

    def _is_behind(self, sweep: Sweep, run: Any, begun: list[Any]) -> bool:
        whole = run.history
        judged, self.judged[run.name] = self.judged.get(run.name, 0), len(whole)
        for length in range(judged + 1, len(whole) + 1):
            run.history = whole[:length]
            stops = engine(sweep).stop_runs(sweep.of_engine, begun)
            run.history = whole
            if any(stop.name == run.name for stop in stops):
                return True
        return False

    def _trial(self, point: Point) -> Any:
        """None if its run has not begun; what has ended is read once."""
        if point.key in self.ended:
            return self.ended[point.key]
        if point.folder is None:
            return None
        found = trial(point)
        if found.state != "running":
            self.ended[point.key] = found
        return found
