"""Bayesian search: points that W&B's own engine proposes one after the other, from the results so far."""

import hashlib
import json
import random
import warnings
from functools import cached_property
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import locked, write_json
from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.search import Values
from cmu_lightning.sweep.trials import engine, trial


class Proposals:
    """What was proposed for a sweep file in a runs folder, by whichever process, and what is proposed next.

    The n-th proposal follows from the results at that time alone, so one worker that is interrupted goes on as if it
    had not been.

    Args:
        sweep: Sweep of method bayes.
        runs_dir: Where its runs go.

    Raises:
        UserError: It has no end or no metric, or the engine is not installed.
    """

    def __init__(self, sweep: Sweep, runs_dir: Path) -> None:
        if sweep.run_cap is None:
            raise UserError(f"{sweep.path} is a bayes search without an end: set run_cap to the number of runs")
        self.sweep, self.runs_dir = sweep, runs_dir
        self.run_cap = sweep.run_cap
        self.engine = engine(sweep)

    @cached_property
    def path(self) -> Path:
        """Of the proposals; another search is another file."""
        of = json.dumps([self.sweep.content[key] for key in ("command", "metric", "parameters")], sort_keys=True)
        return self.runs_dir / ".sweep" / "proposals" / f"{hashlib.sha256(of.encode()).hexdigest()[:16]}.json"

    def points(self) -> list[Point]:
        """All that was proposed, in order."""
        try:
            proposed: list[Values] = json.loads(self.path.read_text())
        except FileNotFoundError:
            return []
        except ValueError as error:
            raise UserError(f"{self.path} is damaged: delete it, and the search begins anew") from error
        return [Point.of(self.sweep, values, self.runs_dir) for values in proposed]

    def next(self) -> Point | None:
        """One more point; None if there are as many as there may be."""
        lock = self.runs_dir / ".locks" / f"{self.path.stem}.lock"
        with locked(lock, f"the search of {self.sweep.path}", "give another --runs_dir"):
            known = self.points()
            if len(known) >= self.run_cap:
                return None
            point = Point.of(self.sweep, self._propose(known), self.runs_dir)
            write_json(self.path, [*(one.values for one in known), point.values])
        return point

    def _propose(self, known: list[Point]) -> Values:
        import numpy as np  # a light command loads what it needs

        random.seed(len(known))
        np.random.seed(len(known))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # few results determine no Gaussian process
            proposed = self.engine.next_run(self.sweep.of_engine, [trial(point) for point in known])
        return {name: _plain(given["value"]) for name, given in proposed.config.items()}


def _plain(value: Any) -> Any:
    """Numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return value.item() if hasattr(value, "item") else value
