"""The points that a sweep file asks for: a grid in W&B's order, random and Bayesian search by Optuna.

Optuna draws each parameter from its own distribution or, if it has none like W&B's, from the unit interval. The
draw is then turned into the parameter's value: by the exponential function, by a quantile function (inverse transform
sampling; Devroye, 1986, chapter II.2), or by rounding to multiples of `q`.
"""

import csv
import hashlib
import json
import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from itertools import accumulate, islice, product
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import ROWS, read_metrics
from cmu_lightning.files import digest_of, locked, parse_json, write_json
from cmu_lightning.sweep.file import Parameter, SweepFile
from cmu_lightning.sweep.points import Point, Values
from cmu_lightning.sweep.queue import has_failed

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

LARGE = 100_000
"""Number of runs above which a file must set `run_cap`."""
MARGIN = 1e-9
"""Distance of a draw from 0 and from 1, where a quantile may be infinite."""
EXAMPLES = 3
"""Number of points that stand for a Bayesian search when its file is checked."""

Draws = dict[str, Any]
"""Optuna's draws, by the names of parameters."""


def list_points(sweep: SweepFile, runs_dir: Path) -> list[Point]:
    """Return all points of a grid or of a random search, in order.

    Args:
        sweep: The file.
        runs_dir: Folder that the runs are written to.

    Raises:
        UserError: There are too many, or the file asks for something that cannot be run.
    """
    values = grid(sweep) if sweep.method == "grid" else draw(sweep)
    return [Point.from_values(sweep, each, runs_dir) for each in islice(values, sweep.run_cap)]


def grid(sweep: SweepFile) -> Iterator[Values]:
    """Yield every combination as W&B orders them: parameters sorted by name, the last one varies fastest.

    Args:
        sweep: File of method grid.

    Raises:
        UserError: A parameter has no grid, or the grid is implausibly large.
    """
    for parameter in sweep.parameters:
        _check_is_countable(sweep, parameter)
    axes = [_grid_values(sweep, parameter) for parameter in sweep.parameters]
    count = math.prod(len(axis) for axis in axes)
    if count > LARGE and sweep.run_cap is None:
        raise UserError(f"{sweep.path} is a grid of {count:,} runs: set run_cap to the number that you want")
    for values in product(*axes):
        yield nest_values(sweep.parameters, values)


def _check_is_countable(sweep: SweepFile, parameter: Parameter) -> None:
    """Refuse a parameter with more values than can be listed."""
    given = parameter.given
    if parameter.distribution in ("int_uniform", "q_uniform"):
        count = (given["max"] - given["min"]) / given.get("q", 1)
        if count > LARGE:
            raise UserError(
                f"{sweep.path}: parameter {parameter.dotted} has {count:,.0f} values from {given['min']} to "
                f"{given['max']}: give values, or method: random"
            )


def _grid_values(sweep: SweepFile, parameter: Parameter) -> list[Any]:
    """Return the values of a parameter in a grid, each once."""
    given = parameter.given
    match parameter.distribution:
        case "constant":
            return [given["value"]]
        case "categorical":
            return list({json.dumps(value, sort_keys=True, default=str): value for value in given["values"]}.values())
        case "int_uniform":
            return list(range(given["min"], given["max"] + 1))
        case "q_uniform":
            import numpy as np  # not at the top: listing runs takes no numpy

            values: list[Any] = np.arange(given["min"], given["max"], given["q"]).tolist()
            return values
    raise UserError(
        f"{sweep.path}: parameter {parameter.dotted} is {parameter.distribution}, which has no grid: "
        "give values, or method: random"
    )


def draw(sweep: SweepFile) -> Iterator[Values]:
    """Yield the same random points every time, so that an interrupted sweep continues with its own points.

    Args:
        sweep: File of method random or bayes.

    Raises:
        UserError: The file has no `run_cap`, or Optuna is not installed.
    """
    check_is_finite(sweep)
    space = Space(sweep)
    study = space.study(_import_optuna(sweep).samplers.RandomSampler(seed=0))
    while True:
        yield space.values(study.ask(space.distributions).params)


def check_is_finite(sweep: SweepFile) -> None:
    """Refuse a search that would never end.

    Args:
        sweep: File of method random or bayes.

    Raises:
        UserError: The file has no `run_cap`.
    """
    if sweep.run_cap is None:
        raise UserError(f"{sweep.path} is a {sweep.method} search without an end: set run_cap to the number of runs")


def _import_optuna(sweep: SweepFile) -> Any:
    """Return the package, which takes a second to import and which only random and Bayesian searches need."""
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            f"{sweep.path}: method {sweep.method} needs Optuna, which is not installed: "
            "pip install '.[search]' in a checkout, or give the file to W&B's agents"
        ) from error
    return optuna


class Space:
    """The parameters of a sweep file as Optuna draws them.

    Args:
        sweep: File of method random or bayes.

    Raises:
        UserError: Optuna is not installed.
    """

    def __init__(self, sweep: SweepFile) -> None:
        self.sweep = sweep
        self.optuna = _import_optuna(sweep)
        # Constants are not drawn. A slash keeps nested names apart from dotted ones.
        drawn = {"/".join(each.name): each for each in sweep.parameters if each.distribution != "constant"}
        axes = {name: self._axis(parameter) for name, parameter in drawn.items()}
        self.distributions: dict[str, BaseDistribution] = {name: axis[0] for name, axis in axes.items()}
        self.transforms: dict[str, Callable[[Any], Any]] = {name: axis[1] for name, axis in axes.items()}

    def study(self, sampler: "BaseSampler") -> "Study":
        """Return an empty study in memory, without Optuna's message about it.

        Args:
            sampler: Draws the points.
        """
        logging = self.optuna.logging
        verbosity = logging.get_verbosity()
        logging.set_verbosity(logging.WARNING)
        try:
            study: Study = self.optuna.create_study(sampler=sampler, direction=self.sweep.goal)
        finally:
            logging.set_verbosity(verbosity)
        return study

    def values(self, draws: Draws) -> Values:
        """Return the values of the file's parameters.

        Args:
            draws: What Optuna drew for those that are not constant.
        """
        values = []
        for parameter in self.sweep.parameters:
            name, given = "/".join(parameter.name), parameter.given
            if name not in draws:
                values.append(given["value"])
                continue
            value = self.transforms[name](draws[name])
            if "q" in given:
                value = round(value / given["q"]) * given["q"]
                value = int(value) if isinstance(given["q"], int) else value
            values.append(value)
        return nest_values(self.sweep.parameters, values)

    def _axis(self, parameter: Parameter) -> tuple["BaseDistribution", Callable[[Any], Any]]:
        """Return Optuna's distribution of a parameter, and the function from a draw to the value before rounding."""
        given, optuna = parameter.given, self.optuna.distributions
        unit = optuna.FloatDistribution(MARGIN, 1 - MARGIN)
        match parameter.distribution.removeprefix("q_"):
            case "categorical":
                # Optuna takes neither lists nor mappings as choices, so it chooses a position.
                return optuna.CategoricalDistribution(range(len(given["values"]))), given["values"].__getitem__
            case "categorical_w_probabilities":
                return unit, lambda u: _choose(given["values"], given["probabilities"], u)
            case "int_uniform":
                return optuna.IntDistribution(given["min"], given["max"]), int
            case "uniform":
                return optuna.FloatDistribution(given["min"], given["max"]), float
            case "log_uniform":  # the bounds are exponents
                return optuna.FloatDistribution(given["min"], given["max"]), math.exp
            case "inv_log_uniform":  # the bounds are exponents of 1 / value
                return optuna.FloatDistribution(given["min"], given["max"]), lambda x: math.exp(-x)
            case "log_uniform_values" | "inv_log_uniform_values":
                return optuna.FloatDistribution(given["min"], given["max"], log=True), float
            case "normal":
                return unit, NormalDist(given["mu"], given["sigma"]).inv_cdf
            case "log_normal":
                return unit, lambda u: math.exp(NormalDist(given["mu"], given["sigma"]).inv_cdf(u))
        from scipy.special import betaincinv  # not at the top: few searches have a beta distribution

        return unit, lambda u: float(betaincinv(given["a"], given["b"], u))


def _choose(values: list[Any], probabilities: list[float], quantile: float) -> Any:
    """Return the first value at which the sum of the probabilities reaches a quantile."""
    reached = accumulate(probabilities)
    return next((value for value, total in zip(values, reached, strict=True) if quantile <= total), values[-1])


def nest_values(parameters: list[Parameter], values: Any) -> Values:
    """Return values under the names of their parameters, those of nested ones in mappings.

    Args:
        parameters: Parameters of a file.
        values: A value for each of them.
    """
    point: Values = {}
    for parameter, value in zip(parameters, values, strict=True):
        *outer, last = parameter.name
        inner = point
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return point


class BayesSearch:
    """A Bayesian search: Optuna's tree-structured Parzen estimator proposes one point after the other.

    The runs folder keeps the proposals of a file from all processes. The n-th proposal follows from the results that
    are known at that time, so an interrupted search with one worker continues as if it had not been interrupted.

    Args:
        sweep: File of method bayes.
        runs_dir: Folder that its runs are written to.

    Raises:
        UserError: The file has no `run_cap`, or Optuna is not installed.
    """

    def __init__(self, sweep: SweepFile, runs_dir: Path) -> None:
        check_is_finite(sweep)
        self.sweep, self.runs_dir = sweep, runs_dir
        self.run_cap: int = sweep.run_cap or 0
        self.space = Space(sweep)

    @cached_property
    def path(self) -> Path:
        """Path of the proposals; a file with another search has another path."""
        searched = ["optuna", *(self.sweep.content[key] for key in ("command", "metric", "parameters"))]
        digest = hashlib.sha256(json.dumps(searched, sort_keys=True).encode()).hexdigest()[:16]
        return self.runs_dir / ".sweep" / "proposals" / f"{digest}.json"

    def points(self) -> list[Point]:
        """Return all points that were proposed, in order.

        Raises:
            UserError: The file of the proposals is damaged.
        """
        return [Point.from_values(self.sweep, proposal["values"], self.runs_dir) for proposal in self._proposals()]

    def examples(self) -> list[Point]:
        """Return a few points of the space, to find out whether they can be run."""
        return [Point.from_values(self.sweep, values, self.runs_dir) for values in islice(draw(self.sweep), EXAMPLES)]

    def propose(self) -> Point | None:
        """Return one more point, and keep it; None if the limit is reached.

        Raises:
            UserError: The proposals can be neither read nor written.
        """
        lock = self.runs_dir / ".locks" / f"{self.path.stem}.lock"
        with locked(lock, f"the search of {self.sweep.path}", "give another --runs_dir"):
            proposals = self._proposals()
            if len(proposals) >= self.run_cap:
                return None
            draws = self._draw(proposals)
            values = self.space.values(draws)
            proposals.append({"values": values, "draws": draws})
            write_json(self.path, {"proposals": proposals, "digest": digest_of(proposals)})
        return Point.from_values(self.sweep, values, self.runs_dir)

    def _proposals(self) -> list[dict[str, Any]]:
        """Return the values and draws of all proposals so far."""
        try:
            content: Any = parse_json(self.path.read_bytes())
            if isinstance(content, list):  # of an earlier version
                return content
            proposals: list[dict[str, Any]] = content["proposals"]
            is_whole = content["digest"] == digest_of(proposals)
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError):
            is_whole = False
        if not is_whole:
            raise UserError(f"{self.path} is damaged: delete it, and the search starts from the beginning")
        return proposals

    def _draw(self, proposals: list[dict[str, Any]]) -> Draws:
        """Return Optuna's next draw, given the outcomes of the proposals so far."""
        # Unfinished runs count as bad ones, so that parallel workers do not try the same region.
        sampler = self.space.optuna.samplers.TPESampler(seed=len(proposals), constant_liar=True)
        study = self.space.study(sampler)
        for proposal in proposals:
            point = Point.from_values(self.sweep, proposal["values"], self.runs_dir)
            study.add_trial(self._describe(point, proposal["draws"]))
        draws: Draws = study.ask(self.space.distributions).params
        return draws

    def _describe(self, point: Point, draws: Draws) -> Any:
        """Return Optuna's record of a proposal: its result, a failure, or that it is running."""
        trial, result = self.space.optuna.trial, find_result(point)
        state = trial.TrialState.RUNNING
        if result is not None and math.isfinite(result):
            state = trial.TrialState.COMPLETE
        elif result is not None or has_failed(point):
            state = trial.TrialState.FAIL
        value = result if state == trial.TrialState.COMPLETE else None
        return trial.create_trial(state=state, value=value, params=draws, distributions=self.space.distributions)


def find_result(point: Point) -> float | None:
    """Return the metric of a point's run: the stored or else the last logged one; NaN without any, None before the end.

    Args:
        point: Point of a Bayesian search.
    """
    stored: dict[str, Any] | None = None
    if point.folder is not None:
        with suppress(UserError):  # damaged results, which `fit` reports
            stored = read_metrics(point.folder)
    if point.folder is None or stored is None:
        return None
    metric = point.sweep.metric
    values = [stored[metric]] if metric in stored else read_curve(point.folder, metric)
    return float(values[-1]) if values else math.nan


def read_curve(run: Path, metric: str) -> list[float]:
    """Return the values of a metric that a run logged while it trained, in order.

    Args:
        run: Folder of the run.
        metric: Name of the metric.
    """
    values = []
    for path in sorted(run.glob(f"{ROWS}/version_*/metrics.csv"), key=lambda path: path.stat().st_mtime_ns):
        with path.open(newline="") as file:
            values += [float(row[metric]) for row in csv.DictReader(file) if row.get(metric)]
    return values
