"""What each choice of hyperparameters leads to (paper, Figures 7 to 14)."""

from collections import defaultdict
from typing import Any

from cmu_lightning.report.comparing.summarise import Point, Summary
from cmu_lightning.report.pictures.appearance import CHOSEN, SHAPES, Style, along
from cmu_lightning.report.pictures.chart import Axis, Chart, Mark, Series
from cmu_lightning.report.reading.collect import Result

MOST = 10
"""Values of a hyperparameter that the legend names; of more, as many over the whole range."""

Marks = list[Mark]


def across_fractions(summary: Summary, method: str) -> Chart:
    """acc_corr of every run against the identified fraction (Figures 7 to 10)."""
    points = summary.points_of(method)
    return _scatter(
        summary,
        points,
        name=f"{method}_across_fractions",
        title=f"Every run of {method} (as Figures 7 to 10)",
        x="identified",
        axis=Axis("identified fraction of the manipulated samples"),
    )


def trade_off(summary: Summary, method: str) -> Chart:
    """acc_corr against acc_retain at identified 0.5, or at the fraction closest to it (Figures 11 to 14)."""
    points = summary.points_of(method)
    middle = min({point.identified for point in points}, key=lambda identified: (abs(identified - 0.5), identified))
    points = [point for point in points if point.identified == middle]
    return _scatter(
        summary,
        points,
        name=f"{method}_trade_off",
        title=f"Every run of {method} at identified {middle:g} (as Figures 11 to 14)",
        x="acc_retain",
        axis=Axis("acc_retain: fraction correct", *_around(points)),
    )


def _around(points: list[Point]) -> tuple[float, float]:
    """Limits of acc_retain, at least 0.1 apart, so that noise does not look like more."""
    values = [run.metrics["acc_retain"] for point in points for run in point.runs if "acc_retain" in run.metrics]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    margin = max(0.05 * (high - low), (0.1 - (high - low)) / 2)
    return low - margin, high + margin


def _scatter(summary: Summary, points: list[Point], name: str, title: str, x: str, axis: Axis) -> Chart:
    """A colour for each value of the hyperparameter with most values, a shape for each of the next one."""
    method = points[0].method
    runs = [run for point in points for run in point.runs if x in run.metrics and "acc_corr" in run.metrics]
    looks = _looks(runs)
    marks: dict[Style, Marks] = defaultdict(list)
    for run in runs:
        marks[_style(run, looks)].append(_mark(run, x))
    chosen = [choice.result for point in points if (choice := point.choose(summary.rule))]
    rings = [_mark(run, x) for run in chosen if x in run.metrics and "acc_corr" in run.metrics]
    series = [Series(method, method, style, marks[style]) for style in sorted(marks)]
    series += [Series(f"chosen ({summary.rule})", method, CHOSEN, rings)] if rings else []
    return Chart(
        name=name,
        setting=summary.variant.name,
        kind="scatter",
        title=title,
        note=f"One mark a run, all seeds. Circled: chosen by the rule {summary.rule}.",
        x=axis,
        y=Axis("acc_corr: fraction correct"),
        series=series,
        legend=[*_legend(looks), (f"chosen ({summary.rule})", CHOSEN)],
    )


def _looks(runs: list[Result]) -> dict[str, dict[float | str, str]]:
    """Colours by the values of the first hyperparameter, shapes by those of the second."""
    values: dict[str, set[float | str]] = defaultdict(set)
    for run in runs:
        for name, value in run.metrics["hyperparameters"].items():
            values[name].add(_comparable(value))
    names = sorted((name for name in values if len(values[name]) > 1), key=lambda name: (-len(values[name]), name))
    looks: dict[str, dict[float | str, str]] = {}
    for name in names[:2]:
        ordered = sorted(values[name], key=lambda value: (isinstance(value, str), value))
        shown = [SHAPES[1 + at % 7] for at in range(len(ordered))] if looks else along(len(ordered))
        looks[name] = dict(zip(ordered, shown, strict=True))
    return looks


def _comparable(value: Any) -> float | str:
    return value if isinstance(value, int | float) else str(value)


def _style(run: Result, looks: dict[str, dict[float | str, str]]) -> Style:
    own = run.metrics["hyperparameters"]
    shown = ["#4D4D4D", "circle"]
    for at, (name, look) in enumerate(looks.items()):
        shown[at] = look.get(_comparable(own.get(name)), shown[at])
    return Style(shown[0], shown[1])


def _mark(run: Result, x: str) -> Mark:
    own = ", ".join(f"{name}={value}" for name, value in sorted(run.metrics["hyperparameters"].items()))
    at = run.identified if x == "identified" else float(run.metrics[x])
    measured = f"acc_corr {run.metrics['acc_corr']:.3f}, acc_retain {run.metrics.get('acc_retain', float('nan')):.3f}"
    return Mark(
        at,
        float(run.metrics["acc_corr"]),
        None,
        f"{own}; identified {run.identified:g}, seed {run.seeds}: {measured}",
    )


def _legend(looks: dict[str, dict[float | str, str]]) -> list[tuple[str, Style]]:
    entries = []
    for at, (name, look) in enumerate(looks.items()):
        values = list(look)
        step = max(len(values) - 1, 1) / min(MOST - 1, max(len(values) - 1, 1))
        for value in [values[round(place * step)] for place in range(min(MOST, len(values)))]:
            shown = look[value]
            style = Style("#4D4D4D", shown) if at else Style(shown, "circle")
            entries.append((f"{name} {value:g}" if isinstance(value, int | float) else f"{name} {value}", style))
    return entries
