"""The numbers of a variant: the run that counts for each point, means over seeds, measures of curves, and gaps.

A *point* is a variant, a method, an identified fraction and the seeds; one run counts for it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, stdev
from typing import Any, NamedTuple

import pandas as pd

from cmu_lightning.experiment.run import COST, MEASURED
from cmu_lightning.report.load import SEEDS, rows_of, seeds_text, settings_of
from cmu_lightning.selection import RULES, Metrics, destroyed, in_grid_order, regret

ENOUGH = 0.9
"""The share of the oracle's acc_corr that counts as corrected."""

DISCOVERY, OF_PAPER = "data.discovery", (None, "None", "Uniform")
"""The discovery of S_f, and the name of the paper's uniform draw."""

DERIVED = ("retain_change", "utility", "utility_x_healed")
"""Measurements that the report adds: acc_retain minus the original's, `utility`, and utility x acc_manipulated."""


class Spread(NamedTuple):
    """Mean and sample standard deviation of n values; a single value has no deviation."""

    mean: float
    std: float | None
    n: int

    def __str__(self) -> str:
        """Return the spread as text for a sentence."""
        std = "" if self.std is None else f" ± {self.std:.3f}"
        return f"{self.mean:.3f}{std}, {self.n} seed{'s' * (self.n != 1)}"


def spread(values: Iterable[float]) -> Spread | None:
    """Return the spread of values, in exact arithmetic; None if there are none.

    Args:
        values: Any numbers; missing ones (NaN) do not count.
    """
    known = [float(value) for value in values if not pd.isna(value)]
    return Spread(fmean(known), stdev(known) if len(known) > 1 else None, len(known)) if known else None


def utility(acc_retain: float | None, acc_corr: float | None) -> float | None:
    """Return the utility, as the field defines it: the accuracy on unaffected, clean test images.

    If everything is affected there is no acc_retain, and acc_corr is the accuracy on all clean test images, which
    REM uses.

    Args:
        acc_retain: None or NaN if it was not measured.
        acc_corr: Likewise.
    """
    return acc_corr if pd.isna(acc_retain) else acc_retain


@dataclass
class Comparison:
    """The methods of one variant, with one chosen run per point.

    Args:
        name: The setting's name, and the differences from its most common variant.
        about: Values that all runs share, by dotted names.
        originals: One row per original.
        runs: One row per run of an unlearner, with `label` (the method's name within the variant), `at` (the identified
            fraction, or the mean over seeds of what a discovery found by itself) and `takes_number` (whether it did).
        rule: The rule by which hyperparameters are chosen.
    """

    name: str
    about: dict[str, Any]
    originals: pd.DataFrame
    runs: pd.DataFrame
    rule: str

    @property
    def methods(self) -> list[str]:
        """Names of the unlearners within the variant, sorted."""
        return sorted(self.runs["label"].unique())

    @property
    def found(self) -> list[str]:
        """The discoveries of S_f other than the paper's uniform draw."""
        kinds = {settings_of(run).get(DISCOVERY) for run in rows_of(self.runs) if run.settings}
        return sorted(str(kind) for kind in kinds if kind not in OF_PAPER)

    @cached_property
    def points(self) -> pd.DataFrame:
        """Return a row per point: `method`, `identified`, `seeds`, `takes_number`, `runs` in grid order, `original`."""
        originals = {run.hash: run.metrics for run in rows_of(self.originals)}
        rows = []
        groups = self.runs.groupby(["label", "at", *SEEDS], dropna=False, sort=False)
        key: Any
        for key, own in groups[["takes_number", "metrics"]]:
            label, at, *seeds = key
            takes_number, first = own["takes_number"].iloc[0], own["metrics"].iloc[0]
            rows.append(
                {
                    "method": label,
                    "identified": float(at),
                    "seeds": seeds_text(dict(zip(SEEDS, seeds, strict=True))),
                    "takes_number": bool(takes_number),
                    "runs": in_grid_order(own["metrics"]),
                    "original": originals.get(first["original"]),
                }
            )
        columns = ["method", "identified", "seeds", "takes_number", "runs", "original"]
        return pd.DataFrame(rows, columns=columns).sort_values(columns[:3], kind="stable", ignore_index=True)

    def choose(self, rule: str) -> pd.DataFrame:
        """Return the run that a rule chooses for each point, if it can choose one: one row per point.

        In addition to the columns of `points`, a row has `folder`, `metrics`, all measurements, those in `DERIVED`,
        `regret` and `destroyed` (None if unknown).

        Args:
            rule: Name of the rule.
        """
        folders = dict(zip(map(id, self.runs["metrics"]), self.runs["folder"], strict=True))
        rows = []
        for point in self.points.to_dict("records"):
            tried: list[Metrics] = point["runs"]
            # A method that was not tuned has one run, which counts even if the rule lacks measurements.
            metrics = tried[0] if len(tried) == 1 else RULES[rule](tried)
            if metrics is None:
                continue
            original = point["original"] or {}
            values: dict[str, Any] = {name: metrics.get(name) for name in (*MEASURED, *COST)}
            retain, healed, before = values["acc_retain"], values["acc_manipulated"], original.get("acc_retain")
            values["retain_change"] = None if None in (retain, before) else retain - before
            values["utility"] = useful = utility(retain, values["acc_corr"])
            values["utility_x_healed"] = None if useful is None or healed is None else useful * healed
            own = {"folder": folders[id(metrics)], "metrics": metrics, "regret": regret(tried, metrics)}
            rows.append(point | values | own | {"destroyed": destroyed(metrics, point["original"])})
        measured = [*MEASURED, *COST, *DERIVED]
        columns = [*self.points.columns, *measured, "folder", "metrics", "regret", "destroyed"]
        chosen = pd.DataFrame(rows, columns=columns)
        chosen["destroyed"] = pd.Series([row["destroyed"] for row in rows], dtype=object)
        return chosen.astype(dict.fromkeys([*measured, "regret"], float))

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The runs that count, by the comparison's rule; see `choose`."""
        return self.choose(self.rule)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """Mean, std and n over seeds of every measurement, indexed by method, measurement and identified fraction."""
        names = [name for name in (*MEASURED, *DERIVED) if self.chosen[name].notna().any()]
        long = self.chosen.melt(["method", "identified"], names, "measurement").dropna(subset="value")
        grouped = long.groupby(["method", "measurement", "identified"])["value"]
        rows = [(*key, *found) for key, values in grouped if (found := spread(values))]
        names = ["method", "measurement", "identified"]
        return pd.DataFrame(rows, columns=[*names, "mean", "std", "n"]).set_index(names)

    def curve(self, method: str, name: str) -> dict[float, Spread]:
        """Return a measurement against the identified fraction, ascending; a fraction without runs is absent.

        Args:
            method: Name of the method within the variant.
            name: Name of the measurement.
        """
        return self._curves.get((method, name), {})

    @cached_property
    def _curves(self) -> dict[tuple[str, str], dict[float, Spread]]:
        made: dict[tuple[str, str], dict[float, Spread]] = {}
        for (method, name, at), mean, std, n in self.curves.itertuples(name=None):
            made.setdefault((method, name), {})[at] = Spread(mean, None if pd.isna(std) else std, int(n))
        return made

    @cached_property
    def fractions(self) -> list[float]:
        """Identified fractions at which any method was run on purpose."""
        return sorted(self.points.loc[~self.points["takes_number"].astype(bool), "identified"].unique())

    def expected(self, method: str) -> list[float]:
        """Return the fractions at which a method should have runs, because another method or it has some there.

        Args:
            method: Name of the method within the variant.
        """
        own = self.points_of(method)
        return sorted(own["identified"].unique()) if own["takes_number"].iloc[0] else self.fractions

    @cached_property
    def tuned(self) -> list[str]:
        """Methods whose hyperparameters were searched."""
        several = self.points[self.points["runs"].map(len) > 1]
        return sorted(several["method"].unique())

    def points_of(self, method: str) -> pd.DataFrame:
        """Return the points of a method.

        Args:
            method: Name of the method within the variant.
        """
        return self._points_by_method[method]

    @cached_property
    def _points_by_method(self) -> dict[str, pd.DataFrame]:
        return {str(method): own for method, own in self.points.groupby("method")}

    def chosen_of(self, method: str) -> pd.DataFrame:
        """Return the chosen runs of a method.

        Args:
            method: Name of the method within the variant.
        """
        return self._chosen_by_method.get(method, self.chosen.iloc[:0])

    @cached_property
    def _chosen_by_method(self) -> dict[str, pd.DataFrame]:
        return {str(method): own for method, own in self.chosen.groupby("method")}

    def original(self, name: str) -> Spread | None:
        """Return a measurement of the originals, over seeds.

        Args:
            name: Name of the measurement.
        """
        return spread(self.originals[name])

    def oracle(self, name: str) -> Spread | None:
        """Return a measurement of RewoD with S_f = S_m: trained without any of S_m, in the way with most seeds.

        Args:
            name: Name of the measurement.
        """
        exact = []
        for label, runs in self.runs[self.runs["method"] == "RewoD"].groupby("label"):
            whole = [run for run, at in zip(runs["metrics"], runs["identified"], strict=True) if at == 1.0]
            if not any("false_positives" in run or run.get("discovery_recall", 1.0) < 1 for run in whole):
                exact.append(self.curve(str(label), name).get(1.0))
        return max((each for each in exact if each), key=lambda each: each.n, default=None)


def smallest_fraction(curve: Mapping[float, Spread], oracle: Spread | None) -> float | None:
    """Return the smallest identified fraction whose mean reaches `ENOUGH` of the oracle's (paper, section 2.2).

    Args:
        curve: acc_corr by identified fraction, ascending.
        oracle: acc_corr of the oracle; without one nothing is reached.
    """
    if oracle is None:
        return None
    return next((at for at, each in curve.items() if each.mean >= ENOUGH * oracle.mean), None)


def falls_back(curve: Mapping[float, Spread], oracle: Spread | None) -> list[float]:
    """Return the fractions above the smallest sufficient one that do not suffice.

    Args:
        curve: acc_corr by identified fraction, ascending.
        oracle: acc_corr of the oracle.
    """
    smallest = smallest_fraction(curve, oracle)
    if oracle is None or smallest is None:
        return []
    return [at for at, each in curve.items() if at > smallest and each.mean < ENOUGH * oracle.mean]


def area(curve: Mapping[float, float], fractions: Sequence[float]) -> float | None:
    """Return the area under a curve by trapezoids, divided by the width of its base: a mean height.

    Args:
        curve: Values by identified fraction.
        fractions: Fractions at which it must be known. If one is missing, or there are fewer than two, there is no
            area: nothing is filled in.
    """
    if len(fractions) < 2 or any(at not in curve for at in fractions):
        return None
    pieces = ((b - a) * (curve[a] + curve[b]) / 2 for a, b in pairwise(fractions))
    return sum(pieces) / (fractions[-1] - fractions[0])


def areas(comparison: Comparison, method: str) -> Spread | None:
    """Return the area under acc_corr against the identified fraction, over the seeds that have all fractions.

    Args:
        comparison: The variant.
        method: Name of the method within it.
    """
    measured = comparison.chosen_of(method).dropna(subset="acc_corr")
    expected = comparison.expected(method)
    by_seeds = [dict(zip(own["identified"], own["acc_corr"], strict=True)) for _, own in measured.groupby("seeds")]
    return spread(sorted(found for curve in by_seeds if (found := area(curve, expected)) is not None))


def missing(comparison: Comparison) -> list[str]:
    """Return sentences on missing runs that others of the variant suggest, and on an S_m that was not harmful.

    Args:
        comparison: The variant.
    """
    said = []
    runs = comparison.runs
    without = runs[~runs["original"].isin(comparison.originals["hash"])]
    if len(without) or comparison.originals.empty:
        said.append(f"No original for seeds {_listed(sorted(without['original_seed'].unique()))}.")
    said += sorted(
        f"Nothing to correct with seeds {seeds_text(original._asdict())}: the original's acc_corr is "
        f"{original.acc_corr:.2f} and its acc_retain {original.acc_retain:.2f}, so S_m was not harmful, and "
        "methods cannot be compared there."
        for original in rows_of(comparison.originals)
        if original.acc_corr >= original.acc_retain
    )
    if comparison.oracle("acc_corr") is None:
        said.append("No oracle: there is no acc_corr of RewoD at identified 1.")
    for method in comparison.methods:
        points = comparison.points_of(method)
        said += _missing_points(comparison, method, points) + _missing_runs(method, points)
        if undecided := len(points) - len(comparison.chosen_of(method)):
            said.append(f"{method}: {undecided} points without what the rule {comparison.rule} needs.")
    return said


def _missing_points(comparison: Comparison, method: str, points: pd.DataFrame) -> list[str]:
    """Return identified fractions that another method has, by seeds that this method has."""
    lacking: dict[str, list[str]] = {}
    for seeds, own in points.groupby("seeds", sort=False):
        gaps = [f"{at:g}" for at in comparison.expected(method) if at not in set(own["identified"])]
        if gaps:
            lacking.setdefault(_listed(gaps), []).append(str(seeds))
    said = [f"{method}: no run at identified {gaps} (seeds {_listed(seeds)})." for gaps, seeds in lacking.items()]
    if others := sorted(set(comparison.points["seeds"]) - set(points["seeds"])):
        said.append(f"{method}: no run for seeds {_listed(others)}.")
    return said


def _missing_runs(method: str, points: pd.DataFrame) -> list[str]:
    """Return whether hyperparameters are absent that were tried at another point."""
    grid = {str(run["hyperparameters"]) for runs in points["runs"] for run in runs}
    tried = [len(runs) for runs in points["runs"]]
    short = [count for count in tried if count < len(grid)]
    if not short:
        return []
    return [f"{method}: {len(short)} of {len(tried)} points lack some of {len(grid)} runs, the worst has {min(short)}."]


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values) or "none"
