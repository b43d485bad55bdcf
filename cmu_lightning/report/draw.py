"""Charts as PNG and SVG files, drawn by matplotlib, and only when what they show has changed."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmu_lightning.report.chart import Axis, Chart, Reference, Series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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
LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "cmu_lightning",
}
ENDINGS = ("png", "svg")
MARK = "cmu_lightning picture of "
"""Begins the description inside each file, which goes on with the digest of what is shown."""


def draw(chart: Chart, path: Path) -> bool:
    """Write a chart's PNG and SVG files.

    Args:
        chart: What to show.
        path: Of the files, without ending.

    Returns:
        Whether they had to be drawn.
    """
    description = MARK + digest(chart)
    files = [path.with_name(f"{path.name}.{ending}") for ending in ENDINGS]
    if all(description.encode() in file.read_bytes() if file.exists() else False for file in files):
        return False
    import matplotlib as mpl

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(LOOK):
        figure = _figure(chart)
        for file in files:
            part = file.with_name(f".{file.name}.part")
            undated = {"Date": None} if file.suffix == ".svg" else {}
            figure.savefig(part, format=file.suffix[1:], dpi=150, metadata={"Description": description, **undated})
            part.replace(file)
    return True


def digest(chart: Chart) -> str:
    """Of what a chart shows, and of how this module draws it."""
    shown = json.dumps(asdict(chart), sort_keys=True).encode()
    return hashlib.sha256(shown + Path(__file__).read_bytes()).hexdigest()[:16]


def remove_stale(folder: Path, current: set[Path]) -> None:
    """Delete pictures of earlier reports whose runs are no more; files of others stay.

    Args:
        folder: With all pictures.
        current: Those that are wanted, without endings.
    """
    for ending in ENDINGS:
        for file in folder.rglob(f"*.{ending}"):
            if file.with_suffix("") not in current and MARK.encode() in file.read_bytes():
                file.unlink()


def _figure(chart: Chart) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for reference in chart.references:
        _reference(axes, reference)
    for series in chart.series:
        {"lines": _line, "scatter": _marks, "histogram": _steps}[chart.kind](axes, series)
    for axis, side in ((chart.x, "x"), (chart.y, "y")):
        _axis(axes, axis, side, chart.kind)
    axes.set_title(chart.title, loc="left", fontsize=9)
    figure.supxlabel(chart.note, fontsize=7, color="#555555", x=0.01, ha="left", wrap=True)
    _legend(figure, axes, chart)
    return figure


def _axis(axes: "Axes", axis: Axis, side: str, kind: str) -> None:
    name = {"label": axis.label}
    getattr(axes, f"set_{side}label")(**{f"{side}label": name["label"]})
    if axis.log:
        getattr(axes, f"set_{side}scale")("log")
    if axis.whole:
        getattr(axes, f"set_{side}lim")(-0.02, 1.03)
        getattr(axes, f"set_{side}ticks")([tenth / 10 for tenth in range(0, 11, 2 if side == "y" else 1)])
    if kind == "histogram" and side == "y":
        axes.set_ylim(bottom=0.8)


def _line(axes: "Axes", series: Series) -> None:
    x, y = [point[0] for point in series.points], [point[1] for point in series.points]
    style = series.style
    axes.plot(x, y, label=series.name, color=style.colour, marker=MARKERS[style.shape], linestyle=_dashes(style.dashes))
    low = [value - (point[2] or 0) for value, point in zip(y, series.points, strict=True)]
    high = [value + (point[2] or 0) for value, point in zip(y, series.points, strict=True)]
    axes.fill_between(x, low, high, color=style.colour, alpha=0.15, linewidth=0)


def _marks(axes: "Axes", series: Series) -> None:
    ring = series.style.shape == "ring"
    axes.plot(
        [point[0] for point in series.points],
        [point[1] for point in series.points],
        linestyle="none",
        marker=MARKERS[series.style.shape],
        markersize=9 if ring else 5,
        markerfacecolor="none" if ring else series.style.colour,
        markeredgecolor=series.style.colour if ring else "#333333",
        markeredgewidth=1.2 if ring else 0.3,
        alpha=1 if ring else 0.8,
    )


def _steps(axes: "Axes", series: Series) -> None:
    edges, counts = [point[0] for point in series.points], [point[1] for point in series.points]
    style: dict[str, Any] = {"color": series.style.colour, "linestyle": _dashes(series.style.dashes)}
    axes.stairs(counts[:-1], edges, label=series.name, baseline=0.5, linewidth=1.5, **style)


def _reference(axes: "Axes", reference: Reference) -> None:
    style, level = reference.style, reference.level
    axes.axhline(level.mean, color=style.colour, linestyle=_dashes(style.dashes), label=reference.name, linewidth=1.2)
    if level.std:
        axes.axhspan(level.mean - level.std, level.mean + level.std, color=style.colour, alpha=0.1, linewidth=0)


def _dashes(lengths: tuple[float, ...]) -> Any:
    return (0, lengths) if lengths else "-"


def _legend(figure: "Figure", axes: "Axes", chart: Chart) -> None:
    from matplotlib.lines import Line2D

    handles, names = axes.get_legend_handles_labels()
    if chart.legend:
        names = [name for name, _ in chart.legend]
        handles = [
            Line2D(
                [],
                [],
                linestyle="none",
                marker=MARKERS[style.shape],
                markerfacecolor="none" if style.shape == "ring" else style.colour,
                markeredgecolor=style.colour,
            )
            for _, style in chart.legend
        ]
    figure.legend(handles, names, loc="outside right upper", fontsize=7.5)
