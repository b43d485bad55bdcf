"""Lines, marks and steps over two axes, drawn by matplotlib."""

from math import log10
from textwrap import fill
from typing import TYPE_CHECKING, Any

from cmu_lightning.report.pictures.appearance import Style
from cmu_lightning.report.pictures.chart import Axis, Chart, Reference, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import XAxis, YAxis
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

MARKERS = {
    "circle": "o",
    "square": "s",
    "diamond": "D",
    "triangle": "^",
    "triangle-down": "v",
    "plus": "P",
    "cross": "X",
    "star": "*",
    "ring": "o",
    "none": "",
}
LEFT, ACROSS, BESIDE = 0.61, 4.49, 1.7
"""Inches: how wide are what stands left of the axes, the axes, and at least what stands right of them."""
PLOT, LINE, ENTRY, LETTER = 2.94, 0.14, 0.17, 0.062
"""Inches: the least height of the axes, that of a line of text and of one in the legend, the width of its letters."""


def figure_of(chart: Chart) -> "Figure":
    """The figure that shows a chart."""
    from matplotlib.figure import Figure

    title, note = fill(f"{chart.setting}: {chart.title}", 80), fill(chart.note, 118)
    above, below = 0.25 + LINE * _lines(title), 0.55 + LINE * _lines(note)
    named = "\n".join(_names(chart)).splitlines()
    plot, beside = max(PLOT, ENTRY * len(named)), max(BESIDE, 0.45 + LETTER * max(map(len, named)))
    width, height = LEFT + ACROSS + beside, above + plot + below
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((LEFT / width, below / height, ACROSS / width, plot / height))
    for reference in chart.references:
        _reference(axes, reference)
    for series in chart.series:
        {"lines": _line, "scatter": _marks, "histogram": _steps}[chart.kind](axes, series)
    _axis(axes, axes.xaxis, chart.x)
    _axis(axes, axes.yaxis, chart.y)
    axes.set(xlim=(chart.x.low, chart.x.high), ylim=(chart.y.low, chart.y.high))
    figure.text(0.01, 1 - 0.06 / height, title, fontsize=9.5, weight="bold", va="top")
    figure.text(0.01, 0.06 / height, note, fontsize=7.5, color="#555555")
    _legend(figure, axes, chart)
    return figure


def _axis(axes: "Axes", side: "XAxis | YAxis", axis: Axis) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    side.set_label_text(axis.label)
    if axis.log:
        (axes.set_xscale if side is axes.xaxis else axes.set_yscale)("log")
        side.set_minor_locator(NullLocator())
        side.set_major_formatter(FuncFormatter(lambda value, _: f"1e{round(log10(value))}"))
    elif (axis.low, axis.high) == (Axis.low, Axis.high):
        side.set_ticks([fifth / 5 for fifth in range(6)])


def _line(axes: "Axes", series: Series) -> None:
    x, y = [point.x for point in series.points], [point.y for point in series.points]
    style = series.style
    axes.plot(x, y, label=series.name, color=style.colour, marker=MARKERS[style.shape], linestyle=_dashes(style.dashes))
    low = [value - (point.spread or 0) for value, point in zip(y, series.points, strict=True)]
    high = [value + (point.spread or 0) for value, point in zip(y, series.points, strict=True)]
    axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)


def _marks(axes: "Axes", series: Series) -> None:
    ring = series.style.shape == "ring"
    axes.plot(
        [point.x for point in series.points],
        [point.y for point in series.points],
        linestyle="none",
        marker=MARKERS[series.style.shape],
        markersize=9 if ring else 5,
        markerfacecolor="none" if ring else series.style.colour,
        markeredgecolor=series.style.colour if ring else "#333333",
        markeredgewidth=1.2 if ring else 0.3,
        alpha=1 if ring else 0.8,
    )


def _steps(axes: "Axes", series: Series) -> None:
    edges, counts = [point.x for point in series.points], [point.y for point in series.points]
    style: dict[str, Any] = {"color": series.style.colour, "linestyle": _dashes(series.style.dashes)}
    axes.stairs(counts[:-1], edges, label=series.name, baseline=0.5, linewidth=1.5, **style)


def _reference(axes: "Axes", reference: Reference) -> None:
    style, level = reference.style, reference.level
    axes.axhline(level.mean, color=style.colour, linestyle=_dashes(style.dashes), label=reference.name, linewidth=1.2)
    if level.std:
        axes.axhspan(level.mean - level.std, level.mean + level.std, color=style.colour, alpha=0.1, linewidth=0)


def _dashes(lengths: tuple[float, ...]) -> Any:
    return (0, lengths) if lengths else "-"


def _names(chart: Chart) -> list[str]:
    """What the legend tells apart, in its order, each as wide as there is room."""
    named = [name for name, _ in chart.legend]
    named = named or [each.name for each in chart.references] + [each.name for each in chart.series]
    return [fill(name, 34, break_long_words=False) for name in dict.fromkeys(named)]  # a line with a gap is two series


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _legend(figure: "Figure", axes: "Axes", chart: Chart) -> None:
    drawn, named = axes.get_legend_handles_labels()
    first = dict(zip(reversed(named), reversed(drawn), strict=True))
    handles = [_handle(style) for _, style in chart.legend] or list(reversed(first.values()))
    place = (axes.get_position().x1 + 0.005, axes.get_position().y1 + 0.03)
    figure.legend(handles, _names(chart), loc="upper left", bbox_to_anchor=place, fontsize=7.5)


def _handle(style: Style) -> "Line2D":
    from matplotlib.lines import Line2D

    face = "none" if style.shape == "ring" else style.colour
    return Line2D(
        [], [], linestyle="none", marker=MARKERS[style.shape], markerfacecolor=face, markeredgecolor=style.colour
    )
