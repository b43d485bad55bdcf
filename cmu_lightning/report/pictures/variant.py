"""The pictures of a variant."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from cmu_lightning.report.comparing.summarise import Summary
from cmu_lightning.report.pictures.appearance import LEVELS, Style
from cmu_lightning.report.pictures.chart import Axis, Chart, Mark, Reference, Series
from cmu_lightning.report.pictures.scatter import across_fractions, trade_off
from cmu_lightning.report.reading.collect import Skipped
from cmu_lightning.report.reading.ratios import Ratios, read_ratios

IDENTIFIED = Axis("identified fraction of the manipulated samples")

CURVES = {
    "acc_corr": ("Unseen affected samples (as Figures 2, 4, 5a, 6a)", "acc_corr: fraction correct"),
    "acc_manipulated": (
        "The manipulated training samples S_m (as Figures 5b, 6b)",
        "acc_manipulated: fraction correct",
    ),
}


def pictures(summary: Summary, runs_dir: Path, styles: Mapping[str, Style], skipped: list[Skipped]) -> list[Chart]:
    """All that have something to show.

    Args:
        summary: Summary of the variant.
        runs_dir: Where the runs lie.
        styles: Styles of the methods.
        skipped: Gets the files that could not be used.
    """
    charts = [_curves(summary, name, styles) for name in CURVES]
    charts.append(_histogram(summary, runs_dir, styles, skipped))
    for method in summary.tuned:
        charts += [across_fractions(summary, method), trade_off(summary, method)]
    return [chart for chart in charts if chart.series]


def _curves(summary: Summary, name: str, styles: Mapping[str, Style]) -> Chart:
    title, label = CURVES[name]
    series = []
    for method in summary.methods:
        broken = Counter(choice.point.identified for choice in summary.of(method) if choice.destroyed)
        points = {
            x: Mark(x, y.mean, y.std, f"{method}, identified {x:g}: {y.said}")
            for x, y in summary.curve(method, name).items()
        }
        for x in points.keys() & broken.keys():
            points[x] = points[x]._replace(text=f"{points[x].text}, {broken[x]} destroyed")
        series += [Series(method, method, styles[method], part) for part in _unbroken(points, summary.expected(method))]
    levels = zip(LEVELS.items(), (summary.original(name), summary.oracle(name)), strict=True)
    return Chart(
        name=name,
        setting=summary.variant.name,
        kind="lines",
        title=title,
        note=f"Lines: means over seeds{_bands(series)}. Oracle: RewoD at identified 1.{_destroyed(summary)}",
        x=IDENTIFIED,
        y=Axis(label),
        series=series,
        references=[Reference(each, style, level) for (each, style), level in levels if level],
    )


def _unbroken(points: Mapping[float, Mark], fractions: Iterable[float]) -> list[list[Mark]]:
    """A line's points in parts, between which fractions are missing that others have."""
    parts: list[list[Mark]] = [[]]
    for fraction in sorted(fractions):
        if fraction in points:
            parts[-1].append(points[fraction])
        elif parts[-1]:
            parts.append([])
    return [part for part in parts if part]


def _bands(series: list[Series]) -> str:
    """What the bands are, if there are any."""
    spread = any(point.spread is not None for each in series for point in each.points)
    return "; bands: standard deviation over seeds" if spread else ""


def _destroyed(summary: Summary) -> str:
    """Names the choices that one must not be glad about."""
    said = []
    for method in summary.methods:
        of = Counter(choice.point.identified for choice in summary.of(method))
        destroyed = Counter(choice.point.identified for choice in summary.of(method) if choice.destroyed)
        if destroyed:
            named = (f"{at:g}" + f" ({destroyed[at]} of {of[at]})" * (of[at] > 1) for at in sorted(destroyed))
            said.append(f"{method} at {', '.join(named)}")
    return f" Destroyed models (under half of the original's validation accuracy): {'; '.join(said)}." if said else ""


def _histogram(summary: Summary, runs_dir: Path, styles: Mapping[str, Style], skipped: list[Skipped]) -> Chart:
    series, notes = [], []
    for method in summary.methods:
        choices = sorted(summary.of(method), key=lambda choice: -choice.point.identified)
        for choice in choices[:1]:
            read = read_ratios(runs_dir, choice.result.folder)
            if isinstance(read, Skipped):
                skipped.append(read)
            elif read is not None:
                series.append(Series(method, method, styles[method], _steps(method, read)))
                notes.append(
                    f"{method}: identified {choice.point.identified:g}, seed {choice.point.seeds}, "
                    f"{read.selected:,} parameters dampened"
                )
    edges = sorted(point.x for each in series for point in each.points) or [1.0, 10.0]
    most = max((point.y for each in series for point in each.points), default=1)
    return Chart(
        name="importance_ratios",
        setting=summary.variant.name,
        kind="histogram",
        title="Importance of parameters for S_f against retain (as Figure 3)",
        note="; ".join(notes) + ".",
        x=Axis("importance on S_f / importance on retain", edges[0], edges[-1], log=True),
        y=Axis("parameters in a bin", 0.8, 1.5 * most, log=True),
        series=series,
    )


def _steps(method: str, ratios: Ratios) -> list[Mark]:
    """Left edges and counts; the last right edge has none."""
    edges = [10**edge for edge in ratios.log10_edges]
    said = [
        f"{method}: {count:,} parameters from {left:.3g} to {right:.3g}"
        for left, right, count in zip(edges, edges[1:], ratios.counts, strict=False)
    ]
    return [Mark(x, y, None, text) for x, y, text in zip(edges, [*ratios.counts, 0], [*said, ""], strict=True)]
