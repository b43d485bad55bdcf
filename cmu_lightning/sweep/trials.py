"""What W&B's own engine is told of the runs of a sweep, for searches whose points depend on results."""

import csv
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import ROWS, read_metrics
from cmu_lightning.sweep import failures, stopped
from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.points import Point


def engine(sweep: Sweep) -> Any:
    """The package `sweeps`.

    Raises:
        UserError: It is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pydantic's, at import
            import sweeps
    except ImportError as error:
        what = "early_terminate" if sweep.stops_early else "method bayes"
        raise UserError(
            f"{sweep.path}: {what} is W&B's own engine's: pip install 'cmu-lightning[sweeps]', or use W&B's agents"
        ) from error
    return sweeps


def trial(point: Point) -> Any:
    """The engine's record of a point's run, with whatever is known of it."""
    metric = point.sweep.metric
    found = point.folder
    summary: dict[str, Any] = {}
    if found is not None:
        with suppress(UserError):  # damaged results, which `fit` will name
            summary = read_metrics(found) or {}
    return engine(point.sweep).SweepRun(
        name=point.key,
        config={name: {"value": value} for name, value in point.values.items()},
        state="finished" if summary else _state(point),
        summary_metrics={metric: summary[metric]} if metric in summary else {},
        history=[] if found is None else [{metric: value} for value in history(found, metric)],
    )


def _state(point: Point) -> str:
    """Of a run without results."""
    if failures.has_failed(point):
        return "failed"
    return "killed" if stopped.is_stopped(point) else "running"


def history(run: Path, metric: str) -> list[float]:
    """A metric's values as they were logged during training, in order.

    Args:
        run: Its folder.
        metric: Its name.
    """
    values = []
    for path in sorted(run.glob(f"{ROWS}/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns):
        with path.open(newline="") as file:
            values += [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    return values
