"""Numbers that sum up a method's curve, and what is missing for them."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

from cmu_lightning.report.comparing.summarise import Choice, Curve, Point, Spread, Summary, spread

ENOUGH = 0.9
"""Of the oracle's acc_corr."""


def smallest_fraction(curve: Curve, oracle: Spread | None) -> float | None:
    """The smallest identified fraction whose mean reaches `ENOUGH` of the oracle's (paper, section 2.2).

    Returns:
        None if no fraction does, or there is no oracle.
    """
    if oracle is None:
        return None
    return next((identified for identified, each in curve.items() if each.mean >= ENOUGH * oracle.mean), None)


def falls_back(curve: Curve, oracle: Spread | None) -> list[float]:
    """Larger fractions than the smallest one that reaches `ENOUGH` of the oracle's, which do not."""
    smallest = smallest_fraction(curve, oracle)
    if oracle is None or smallest is None:
        return []
    return [at for at, each in curve.items() if at > smallest and each.mean < ENOUGH * oracle.mean]


def area(curve: Curve, fractions: Sequence[float]) -> float | None:
    """Area under a curve by trapezoids, divided by the width of its base: a mean height.

    Args:
        curve: Means by identified fraction.
        fractions: Where it has to be known; nothing is filled in.

    Returns:
        None if it is not known everywhere, or at one fraction alone.
    """
    if len(fractions) < 2 or any(identified not in curve for identified in fractions):
        return None
    pieces = ((b - a) * (curve[a].mean + curve[b].mean) / 2 for a, b in pairwise(fractions))
    return sum(pieces) / (fractions[-1] - fractions[0])


def over_runs(chosen: Iterable[Choice], name: str) -> Spread | None:
    """Mean and standard deviation of a measurement over chosen runs that have it."""
    return spread(value for choice in chosen if (value := choice.value(name)) is not None)


def over_fractions(curve: Curve) -> Spread | None:
    """Mean and standard deviation over the identified fractions of the means over seeds (paper, Table 1)."""
    return spread(each.mean for each in curve.values())


def missing(summary: Summary) -> list[str]:
    """What other runs of the variant let one expect and is not there, and what there was no need to correct."""
    said = []
    without = {point.seeds[:2] for point in summary.points if point.original is None}
    if without or not summary.variant.originals:
        said.append(f"No original for seeds {_listed(sorted({seed for seed, _ in without}))}.")
    said += _without_harm(summary)
    if summary.oracle("acc_corr") is None:
        said.append("No oracle: there is no acc_corr of RewoD at identified 1.")
    for method in summary.methods:
        points = summary.points_of(method)
        said += _missing_points(summary, method, points)
        said += _missing_runs(method, points)
        if undecided := sum(point.choose(summary.rule) is None for point in points):
            said.append(f"{method}: {undecided} points without what the rule {summary.rule} needs.")
    return said


def _without_harm(summary: Summary) -> list[str]:
    """Originals that are no worse where S_m should do harm: a trigger may not have taken hold."""
    said = []
    for original in summary.variant.originals.values():
        inside, outside = (original.metrics.get(name) for name in ("acc_corr", "acc_retain"))
        if inside is not None and outside is not None and inside >= outside:
            said.append(
                f"Nothing to correct with seeds {original.seeds}: the original's acc_corr is {inside:.2f} and its "
                f"acc_retain {outside:.2f}, so S_m did no harm, and methods are not told apart there."
            )
    return sorted(said)


def _missing_points(summary: Summary, method: str, points: list[Point]) -> list[str]:
    """Identified fractions that another method has, by seeds that the method has."""
    there: dict[str, set[float]] = {}
    for point in points:
        there.setdefault(str(point.seeds), set()).add(point.identified)
    lacking: dict[str, list[str]] = {}
    for seeds, fractions in there.items():
        if gaps := [f"{fraction:g}" for fraction in summary.expected(method) if fraction not in fractions]:
            lacking.setdefault(_listed(gaps), []).append(seeds)
    said = [f"{method}: no run at identified {gaps} (seeds {_listed(seeds)})." for gaps, seeds in lacking.items()]
    everyone = {str(point.seeds) for point in summary.points}
    if others := sorted(everyone - set(there)):
        said.append(f"{method}: no run for seeds {_listed(others)}.")
    return said


def _missing_runs(method: str, points: list[Point]) -> list[str]:
    """Hyperparameters that were tried at another point."""
    grid = {_hyperparameters(run.metrics) for point in points for run in point.runs}
    short = [point for point in points if len(point.runs) < len(grid)]
    fewest = min((len(point.runs) for point in short), default=0)
    return [
        f"{method}: {len(short)} of {len(points)} points lack some of {len(grid)} runs, the worst has {fewest}."
    ] * bool(short)


def _hyperparameters(metrics: dict[str, object]) -> str:
    return str(metrics["hyperparameters"])


def _listed(values: Sequence[object]) -> str:
    return ", ".join(str(value) for value in values) or "none"
