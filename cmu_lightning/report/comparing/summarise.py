"""From the runs of a variant to one run a point, and to means over seeds."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, NamedTuple

from cmu_lightning.report.comparing.select import RULES, destroyed, in_grid_order, regret
from cmu_lightning.report.comparing.variants import Variant
from cmu_lightning.report.reading.collect import Result, Seeds

Curve = dict[float, "Spread"]
"""Means over seeds by identified fraction."""


class Spread(NamedTuple):
    """Mean and sample standard deviation of n values; of one value there is none."""

    mean: float
    std: float | None
    n: int

    @property
    def said(self) -> str:
        """As a sentence has it."""
        std = "" if self.std is None else f" ± {self.std:.3f}"
        return f"{self.mean:.3f}{std}, {self.n} seed{'s' * (self.n != 1)}"


def spread(values: Iterable[float]) -> Spread | None:
    """Of values; None if there are none."""
    values = list(values)
    return Spread(fmean(values), stdev(values) if len(values) > 1 else None, len(values)) if values else None


def is_told_a_number(result: Result) -> bool:
    """Whether S_f is as large as its discovery was told: which fraction of S_m is in it, differs from seed to seed."""
    own = result.configuration.of(result.metrics["method"]) if result.configuration else {}
    return any(own.get(f"data.discovery.{name}", "None") != "None" for name in ("count", "fraction"))


@dataclass(frozen=True)
class Point:
    """What a method did for one identified fraction and one set of seeds.

    Args:
        method: By its name within the variant.
        identified: Fraction; of a discovery that is told a number, the mean over seeds of what it found.
        seeds: Which repetition.
        runs: In grid order, without duplicates; of one that was not tuned there is one.
        original: What they started from; None if it is not among the runs.
    """

    method: str
    identified: float
    seeds: Seeds
    runs: list[Result]
    original: Result | None

    def choose(self, rule: str) -> "Choice | None":
        """The run that counts; None if the rule lacks what it needs, and there is a choice."""
        metrics = [run.metrics for run in self.runs]
        chosen = metrics[0] if len(metrics) == 1 else RULES[rule](metrics)
        if chosen is None:
            return None
        original = None if self.original is None else self.original.metrics
        result = next(run for run in self.runs if run.metrics is chosen)
        return Choice(self, result, regret(metrics, chosen), destroyed(chosen, original))


@dataclass(frozen=True)
class Choice:
    """The run that counts for a point.

    Args:
        point: Where from.
        result: The run.
        regret: acc_corr that another run of the point has more; None if it was not measured.
        destroyed: Whether less than half of the original's validation accuracy is left; None if nobody can tell.
    """

    point: Point
    result: Result
    regret: float | None
    destroyed: bool | None

    def value(self, name: str) -> float | None:
        """A measurement, `utility_x_healed`, or `retain_change` from the original; None if it was not measured."""
        metrics = self.result.metrics
        original = {} if self.point.original is None else self.point.original.metrics
        if name == "retain_change":
            return _combined(metrics.get("acc_retain"), original.get("acc_retain"), lambda a, b: a - b)
        if name == "utility_x_healed":
            return _combined(metrics.get("acc_retain"), metrics.get("acc_manipulated"), lambda a, b: a * b)
        value: float | None = metrics.get(name)
        return value


def _combined(first: float | None, second: float | None, how: Any) -> float | None:
    return None if first is None or second is None else how(first, second)


@dataclass(frozen=True)
class Summary:
    """A variant with one run a point.

    Args:
        variant: Where from.
        rule: How the runs were chosen.
    """

    variant: Variant
    rule: str

    @cached_property
    def points(self) -> list[Point]:
        """All points, by method, identified fraction and seeds."""
        grouped: dict[tuple[str, float, Seeds], list[Result]] = defaultdict(list)
        for method, results in self.variant.methods.items():
            found = round(fmean(result.identified for result in results), 6)
            for result in results:
                at = found if is_told_a_number(result) else result.identified
                grouped[method, at, result.seeds].append(result)
        return [
            Point(*key, in_grid_order(results), self.variant.original_of(results[0]))
            for key, results in sorted(grouped.items(), key=lambda item: (*item[0][:2], str(item[0][2])))
        ]

    @cached_property
    def choices(self) -> list[Choice]:
        """The run that counts for each point, where one can be chosen."""
        return [choice for point in self.points if (choice := point.choose(self.rule))]

    @property
    def methods(self) -> list[str]:
        """Names of the unlearners."""
        return list(self.variant.methods)

    @cached_property
    def fractions(self) -> list[float]:
        """Identified fractions that any method was asked to be run at."""
        return sorted({point.identified for point in self.points if not is_told_a_number(point.runs[0])})

    def expected(self, method: str) -> list[float]:
        """Fractions at which there should be runs of a method, for others have some or it has."""
        own = self.points_of(method)
        told = bool(own) and is_told_a_number(own[0].runs[0])
        return sorted({point.identified for point in own}) if told else self.fractions

    @property
    def tuned(self) -> list[str]:
        """Methods whose hyperparameters were searched."""
        return [method for method in self.methods if any(len(point.runs) > 1 for point in self.points_of(method))]

    def points_of(self, method: str) -> list[Point]:
        """The points of a method."""
        return [point for point in self.points if point.method == method]

    def of(self, method: str) -> list[Choice]:
        """The choices of a method."""
        return [choice for choice in self.choices if choice.point.method == method]

    def curve(self, method: str, name: str) -> Curve:
        """A measurement against the identified fraction, over seeds; a fraction without runs is absent."""
        values: dict[float, list[float]] = defaultdict(list)
        for choice in self.of(method):
            value = choice.value(name)
            if value is not None:
                values[choice.point.identified].append(value)
        return {identified: found for identified in sorted(values) if (found := spread(values[identified]))}

    def original(self, name: str) -> Spread | None:
        """A measurement of the originals, over seeds."""
        metrics = [result.metrics for result in self.variant.originals.values()]
        return spread(each[name] for each in metrics if name in each)

    def oracle(self, name: str) -> Spread | None:
        """The same of RewoD with everything identified and nothing else, trained without any of S_m."""
        retrained = [way for way, runs in self.variant.methods.items() if runs[0].metrics["method"] == "RewoD"]
        exact = [found for way in retrained if self._finds_all(way) and (found := self.curve(way, name).get(1.0))]
        return max(exact, key=lambda found: found.n, default=None)

    def _finds_all(self, way: str) -> bool:
        """Whether S_f is S_m where everything is identified."""
        found = [run.metrics for run in self.variant.methods[way] if run.identified == 1.0]
        return not any("false_positives" in each or each.get("discovery_recall", 1.0) < 1 for each in found)
