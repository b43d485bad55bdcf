"""The figures: one function each, which returns Altair charts; `FIGURES` and `MAPS` list them.

A chart has no title and no theme. The page, PNG, SVG and PDF are made from the same specification: titles, notes and
colours of text are added where it is drawn. Its parameter `hidden`, which the page sets, names methods that are not
shown.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import altair as alt
import pandas as pd

from cmu_lightning.report.aggregate import Comparison, Spread
from cmu_lightning.report.appearance import (
    CHOSEN,
    LEVELS,
    LEVELS_AS_MARKS,
    LINE,
    SEQUENCE,
    SHAPES_OF_VALUES,
    Style,
    along,
    style,
)
from cmu_lightning.report.load import Runs, Skipped, read_ratios, rows_of
from cmu_lightning.report.regimes import HARM, REGULARITY, Regimes

MOST = 10
"""Number of values of a hyperparameter that a legend names."""

DODGE = 0.004
"""Horizontal distance between methods, so that their error bars do not hide each other."""

EMPTY = 0.7
"""Height of empty bins on a logarithmic axis."""

IDENTIFIED = "identified fraction of S_m"
HIDDEN = alt.param(name="hidden", value=[])
VISIBLE = "indexof(hidden, datum.method) < 0"
WIDTH, HEIGHT = 440, 290


class Figure(NamedTuple):
    """A chart with its name, title and note.

    Args:
        name: Name of its files, without suffix.
        title: What it shows.
        note: How to read it.
        chart: The chart.
    """

    name: str
    title: str
    note: str
    chart: alt.TopLevelMixin


def accuracies(comparison: Comparison, runs: Runs) -> Iterator[Figure]:
    """Yield acc_corr and acc_manipulated against the identified fraction (paper, Figures 2 and 4 to 6).

    Args:
        comparison: The variant.
        runs: Where its runs are from.
    """
    titles = {
        "acc_corr": "Unseen affected samples (as Figures 2, 4, 5a, 6a)",
        "acc_manipulated": "The manipulated training samples S_m (as Figures 5b, 6b)",
    }
    for name, title in titles.items():
        curves = _curves(comparison, name)
        if curves.empty:
            continue
        levels = _levels(comparison, name)
        bars = " Bars: standard deviation over seeds; methods are shifted sideways slightly." * bool(
            curves["low"].ne(curves["high"]).any()
        )
        note = f"Means over seeds.{bars} Oracle: RewoD at identified 1.{_destroyed(comparison)}"
        yield Figure(name, title, note, _line_chart(curves, levels, f"{name}: fraction correct"))


def _curves(comparison: Comparison, name: str) -> pd.DataFrame:
    """Return a row for each method and fraction, in parts separated by fractions that only others have."""
    rows = []
    for place, method in enumerate(comparison.methods):
        chosen = comparison.chosen_of(method)
        broken = Counter(chosen.loc[chosen["destroyed"].eq(True), "identified"])
        curve, part = comparison.curve(method, name), 0
        for at in comparison.expected(method):
            if at not in curve:
                part += 1
                continue
            found = curve[at]
            text = f"{method}, identified {at:g}: {found}" + f", {broken[at]} destroyed" * bool(broken[at])
            row = {"method": method, "identified": at, "part": part, "place": place, "text": text}
            rows.append(row | _interval(found) | {"destroyed": broken[at]})
    made = pd.DataFrame(
        rows, columns=["method", "identified", "part", "place", "text", "mean", "low", "high", "destroyed"]
    )
    # Without error bars no shift is needed.
    spread_out = bool(made["low"].ne(made["high"]).any())
    middle = (len(comparison.methods) - 1) / 2
    return made.assign(x=made["identified"] + DODGE * spread_out * (made["place"] - middle))


def _interval(found: Spread) -> dict[str, float]:
    return {"mean": found.mean, "low": found.mean - (found.std or 0), "high": found.mean + (found.std or 0)}


def _levels(comparison: Comparison, name: str) -> pd.DataFrame:
    """Return None and the oracle, as far as they are known."""
    known = zip(LEVELS, (comparison.original(name), comparison.oracle(name)), strict=True)
    rows = [{"method": level, "text": f"{level}: {found}"} | _interval(found) for level, found in known if found]
    return pd.DataFrame(rows, columns=["method", "text", "mean", "low", "high"])


def _line_chart(curves: pd.DataFrame, levels: pd.DataFrame, label: str) -> alt.LayerChart:
    look = _look([*levels["method"], *curves["method"].unique()])
    y = alt.Y("mean:Q", title=label, scale=alt.Scale(domain=[-0.02, 1.03], nice=False), axis=alt.Axis(values=_FIFTHS))
    x = alt.X("x:Q", title=IDENTIFIED, scale=alt.Scale(domain=[-0.02, 1.04], nice=False), axis=alt.Axis(values=_FIFTHS))
    level = alt.Chart(levels)
    shown = alt.Chart(curves).transform_filter(VISIBLE)
    return _finish(
        level.mark_rect(opacity=0.1).encode(alt.Y("low:Q"), alt.Y2("high:Q"), look["color"]),
        level.mark_rule(strokeWidth=1.3).encode(y, look["color"], look["dash"], tooltip="text:N"),
        shown.mark_rule(strokeWidth=1, opacity=0.55).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), look["color"]),
        shown.mark_line(strokeWidth=1.7).encode(x, y, look["color"], look["dash"], detail="part:N"),
        shown.transform_filter("!datum.destroyed")
        .mark_point(size=46, filled=True, opacity=1)
        .encode(x, y, look["color"], look["shape"], tooltip="text:N"),
        shown.transform_filter("datum.destroyed")
        .mark_point(size=46, filled=False, strokeWidth=1.4, opacity=1)
        .encode(x, y, look["color"], look["shape"], tooltip="text:N"),
    )


_FIFTHS = [fifth / 5 for fifth in range(6)]


def trade_off(comparison: Comparison, runs: Runs) -> Iterator[Figure]:
    """Yield acc_corr against acc_retain, one mark per method, at the fraction that most methods share.

    Args:
        comparison: The variant.
        runs: Where its runs are from.
    """
    names = ("acc_retain", "acc_corr")
    curves = {method: [comparison.curve(method, name) for name in names] for method in comparison.methods}
    shared = Counter(at for across, up in curves.values() for at in across if at in up)
    if not shared:
        return
    # If equally many methods share several fractions, take the one closest to 0.5.
    at = min(shared, key=lambda each: (-shared[each], abs(each - 0.5), each))
    found = {method: (across[at], up[at]) for method, (across, up) in curves.items() if at in across and at in up}
    levels = zip(LEVELS, (comparison.original, comparison.oracle), strict=True)
    known = {level: (of("acc_retain"), of("acc_corr")) for level, of in levels}
    found |= {level: (across, up) for level, (across, up) in known.items() if across and up}
    rows = []
    for method, (across, up) in found.items():
        text = f"{method}: acc_corr {up}; acc_retain {across}"
        row = {f"{end}_x": value for end, value in _interval(across).items()} | _interval(up)
        rows.append({"method": method, "text": text} | row)
    data = pd.DataFrame(rows)
    look = _look(list(found), LEVELS_AS_MARKS)
    shown = alt.Chart(data).transform_filter(VISIBLE)
    few = alt.Axis(tickCount=6)
    x = alt.X("mean_x:Q", title="acc_retain: fraction correct", scale=_around(data["low_x"], data["high_x"]), axis=few)
    y = alt.Y("mean:Q", title="acc_corr: fraction correct", scale=_around(data["low"], data["high"]), axis=few)
    chart = _finish(
        shown.mark_rule(strokeWidth=1, opacity=0.55).encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), look["color"]),
        shown.mark_rule(strokeWidth=1, opacity=0.55).encode(alt.X("low_x:Q"), alt.X2("high_x:Q"), y, look["color"]),
        shown.mark_point(size=100, filled=True, opacity=1).encode(x, y, look["color"], look["shape"], tooltip="text:N"),
    )
    lacking = sorted(set(comparison.methods) - found.keys())
    without = f" No mark: {', '.join(lacking)}, without runs there." if lacking else ""
    bars = " Bars: standard deviation over seeds." * bool((data["high"] > data["low"]).any())
    note = f"Means over seeds; up and right is better.{bars} Oracle: RewoD at identified 1.{without}"
    yield Figure("trade_off", f"acc_corr against acc_retain at identified {at:g}", note, chart)


def _around(low: pd.Series, high: pd.Series) -> alt.Scale:
    """Return a scale around values that is at least 0.1 wide, so that noise does not look like an effect."""
    least, most = (float(low.min()), float(high.max())) if len(low) else (0.0, 1.0)
    margin = max(0.06 * (most - least), (0.1 - (most - least)) / 2)
    return alt.Scale(domain=[least - margin, most + margin], nice=False, zero=False)


def importance_ratios(comparison: Comparison, runs: Runs) -> Iterator[Figure]:
    """Yield histograms of importance ratios, of all methods at the same identified fraction (paper, Figure 3).

    Args:
        comparison: The variant.
        runs: Where its runs are from; files that cannot be used are added to what is skipped.
    """
    found: dict[float, dict[str, tuple[dict[str, Any], str]]] = {}
    left = set()
    chosen = comparison.chosen.drop_duplicates(["method", "identified"])
    for method, at, seeds, folder in zip(
        *(chosen[name] for name in ("method", "identified", "seeds", "folder")), strict=True
    ):
        ratios = read_ratios(runs, folder)
        if isinstance(ratios, Skipped):
            runs.skipped.append(ratios)
        elif ratios is not None:
            left.add(method)
            found.setdefault(at, {})[method] = (ratios, seeds)
    if not found:
        return
    # The largest fraction at which all methods have a histogram, or else one at which most have.
    at = max(found, key=lambda each: (len(found[each]), each))
    rows = [_bins(method, ratios) for method, (ratios, _) in found[at].items()]
    data = pd.concat(rows, ignore_index=True)
    said = [f"{method}: seed {seeds}, {ratios['selected']:,} dampened" for method, (ratios, seeds) in found[at].items()]
    absent = f" No histogram there: {', '.join(sorted(left - found[at].keys()))}." if left - found[at].keys() else ""
    look = _look(list(data["method"].unique()))
    shown = alt.Chart(data).transform_filter(VISIBLE)
    there = data[data["count"] > EMPTY]
    wide = alt.Scale(domain=[float(there["left"].min()), float(there["right"].max())], nice=False)
    high = alt.Scale(type="log", domain=[EMPTY, 1.6 * float(there["count"].max())], nice=False)
    powers = alt.Axis(labelExpr="'1e' + datum.value", format="d", tickMinStep=1, tickCount=8)
    tens = alt.Axis(values=[10**power for power in range(12)], format="~s")
    x = alt.X("left:Q", title="importance on S_f / on retain", axis=powers, scale=wide)
    y = alt.Y("count:Q", title="parameters in a bin", scale=high, axis=tens)
    chart = _finish(
        shown.mark_bar(opacity=0.08, clip=True).encode(
            x, alt.X2("right:Q"), y, alt.Y2(datum=EMPTY), look["lined color"], tooltip="text:N"
        ),
        shown.mark_line(interpolate="step-after", strokeWidth=1.7, clip=True).encode(
            x, y, look["lined color"], look["dash"], order="left:Q"
        ),
    )
    note = f"At identified {at:g}. {'; '.join(said)}.{absent}"
    yield Figure("importance_ratios", "Importance of parameters for S_f against retain (as Figure 3)", note, chart)


def _bins(method: str, ratios: dict[str, Any]) -> pd.DataFrame:
    """Return a row per bin; the last edge ends the steps. Empty bins are below the axis."""
    edges, counts = ratios["log10_edges"], ratios["counts"]
    rows = [
        {"left": left, "right": right, "count": max(count, EMPTY)}
        | {"text": f"{method}: {count:,} parameters from {10**left:.3g} to {10**right:.3g}"}
        for left, right, count in zip(edges, edges[1:], counts, strict=False)
    ]
    rows.append({"left": edges[-1], "right": edges[-1], "count": EMPTY, "text": ""})
    return pd.DataFrame(rows).assign(method=method)


def every_run(comparison: Comparison, runs: Runs) -> Iterator[Figure]:
    """Yield every run of a tuned method: across fractions (paper, Figures 7 to 10), and at one (Figures 11 to 14).

    Args:
        comparison: The variant.
        runs: Where its runs are from.
    """
    for method in comparison.tuned:
        points = comparison.points_of(method)
        yield _scatter(
            comparison,
            points,
            f"{method}_across_fractions",
            f"Every run of {method} (as Figures 7 to 10)",
            "identified",
        )
        middle = min(points["identified"].unique(), key=lambda at: (abs(at - 0.5), at))
        title = f"Every run of {method} at identified {middle:g} (as Figures 11 to 14)"
        yield _scatter(comparison, points[points["identified"] == middle], f"{method}_trade_off", title, "acc_retain")


def _scatter(comparison: Comparison, points: pd.DataFrame, name: str, title: str, across: str) -> Figure:
    """Return acc_corr of every run: a colour for each value of one hyperparameter, a shape for each of the next."""
    chosen = set(comparison.chosen["folder"])
    names = {(run.method, run.hash): run.folder for run in rows_of(comparison.runs)}
    rows = []
    for point in points.to_dict("records"):
        for run in point["runs"]:
            if {"acc_corr", "acc_retain" if across == "acc_retain" else "acc_corr"} <= run.keys():
                own = run["hyperparameters"]
                said = ", ".join(f"{key}={value}" for key, value in sorted(own.items()))
                text = f"{said}; identified {round(run['identified'], 6):g}, seed {point['seeds']}: "
                text += f"acc_corr {run['acc_corr']:.3f}, acc_retain {run.get('acc_retain', float('nan')):.3f}"
                values = {f"value_{key}": _comparable(value) for key, value in own.items()}
                row = {"x": round(run["identified"], 6) if across == "identified" else run["acc_retain"]}
                ring = f"chosen ({comparison.rule})" if names[run["method"], run["hash"]] in chosen else None
                rows.append(row | {"y": run["acc_corr"], "text": text, "ring": ring} | values)
    data = pd.DataFrame(rows, columns=None if rows else ["x", "y", "text", "ring"]).assign(
        method=points["method"].iloc[0]
    )
    return Figure(
        name,
        title,
        f"One mark a run, all seeds. Circled: chosen by the rule {comparison.rule}.",
        _scatter_chart(data, across),
    )


def _scatter_chart(data: pd.DataFrame, across: str) -> alt.LayerChart:
    looks = _varied(data)
    plain: dict[str, Any] = {"color": alt.value("#7A7A7A"), "shape": alt.value(SHAPES_OF_VALUES[0])}
    for channel, (key, values) in zip(("color", "shape"), looks.items(), strict=False):
        kinds = along(len(values)) if channel == "color" else [SHAPES_OF_VALUES[at % 7] for at in range(len(values))]
        step = max(len(values) - 1, 1) / min(MOST - 1, max(len(values) - 1, 1))
        named = [values[round(place * step)] for place in range(min(MOST, len(values)))]
        scale = alt.Scale(domain=[_said(value) for value in values], range=kinds)
        data[channel] = data[f"value_{key}"].map(_said)
        make: Any = alt.Color if channel == "color" else alt.Shape
        plain[channel] = make(
            f"{channel}:N", scale=scale, sort=None, legend=alt.Legend(title=key, values=[_said(each) for each in named])
        )
    data = data[["x", "y", "text", "ring", "method", *(name for name in ("color", "shape") if name in data)]]
    scale = alt.Scale(domain=[-0.02, 1.04], nice=False) if across == "identified" else _around(data["x"], data["x"])
    axis = alt.Axis(values=_FIFTHS) if across == "identified" else alt.Axis()
    x = alt.X(
        "x:Q", title=IDENTIFIED if across == "identified" else "acc_retain: fraction correct", scale=scale, axis=axis
    )
    y = alt.Y(
        "y:Q",
        title="acc_corr: fraction correct",
        scale=alt.Scale(domain=[-0.02, 1.03], nice=False),
        axis=alt.Axis(values=_FIFTHS),
    )
    shown = alt.Chart(data).transform_filter(VISIBLE)
    ring = alt.Stroke(
        "ring:N",
        scale=alt.Scale(range=[CHOSEN]),
        legend=alt.Legend(title=None, symbolSize=130, symbolStrokeWidth=1.4),
    )
    return _finish(
        shown.mark_point(size=38, filled=True, opacity=0.85, stroke="#888888", strokeWidth=0.5).encode(
            x, y, tooltip="text:N", **plain
        ),
        shown.transform_filter("datum.ring")
        .mark_point(size=150, filled=False, strokeWidth=1.4, shape="circle", tooltip=None)
        .encode(x, y, ring),
        resolve=alt.Resolve(scale=alt.ScaleResolveMap(color="independent", shape="independent", stroke="independent")),
    )


def _varied(data: pd.DataFrame) -> dict[str, list[float | str]]:
    """Return the two hyperparameters with the most values, and those in order."""
    keys = {
        name.removeprefix("value_"): list(data[name].dropna().unique())
        for name in map(str, data)
        if name.startswith("value_")
    }
    several = sorted((key for key in keys if len(keys[key]) > 1), key=lambda key: (-len(keys[key]), key))
    return {key: sorted(keys[key], key=lambda value: (isinstance(value, str), value)) for key in several[:2]}


def _comparable(value: Any) -> float | str:
    return value if isinstance(value, int | float) else str(value)


def _said(value: float | str) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


def regime_map(regimes: Regimes) -> Figure:
    """Return a panel for each method: manipulations by regularity, identified fractions across, recovery as colour.

    Args:
        regimes: The manipulations.
    """
    what = "recovery" if regimes.is_recovery else "acc_corr"
    data = pd.DataFrame(_cells(regimes, what))
    names = [row.name for row in reversed(regimes.shown)]
    wide, high = 46 * len(regimes.columns), 24 * len(names)
    x = alt.X("column:N", sort=regimes.columns, title=None, axis=alt.Axis(labelAngle=0, domain=False, ticks=False))
    y = alt.Y("row:N", sort=names, title=None, axis=alt.Axis(domain=False, ticks=False, labelLimit=0))
    scale = alt.Scale(type="threshold", domain=[tenth / 10 for tenth in range(1, 10)], range=list(SEQUENCE))
    colour = alt.Color("value:Q", scale=scale, legend=alt.Legend(title=what, orient="bottom", gradientLength=420))
    ink = alt.when("datum.value < 0.4").then(alt.value("#ffffff")).otherwise(alt.value("#000000"))
    panels = alt.Chart(data).transform_filter(VISIBLE)
    full, gap = "isValid(datum.value)", "!isValid(datum.value)"
    layers = alt.layer(
        panels.transform_filter(gap)
        .mark_rect(fillOpacity=0, stroke="#999999", strokeDash=[2, 2], strokeWidth=0.8)
        .encode(x, y, tooltip="text:N"),
        panels.transform_filter(full).mark_rect(stroke="#ffffff", strokeWidth=1).encode(x, y, colour, tooltip="text:N"),
        panels.transform_filter(full).mark_text(fontSize=11).encode(x, y, text="label:N", color=ink, tooltip="text:N"),
    ).properties(width=wide, height=high)
    columns = max(1, min(len(regimes.methods), (1000 - 8 * max(map(len, names))) // (wide + 24)))
    chart = (
        layers.facet(facet=alt.Facet("method:N", title=None), columns=columns, spacing=18)
        .add_params(HIDDEN)
        .resolve_axis(x="independent")
    )
    empty = int(data["value"].isna().sum())
    title = (
        f"{'Recovery' if regimes.is_recovery else 'acc_corr'} by regularity of the manipulation and identified fraction"
    )
    return Figure(
        f"regime_map_{regimes.way}".rstrip("_"),
        title + (regimes.way and f" ({regimes.way})"),
        f"{_regime_note(regimes)} Identified fraction along each panel; the more regular, the higher. {empty} of "
        f"{len(data)} cells are empty.",
        chart,
    )


def _cells(regimes: Regimes, what: str) -> Iterable[dict[str, Any]]:
    """Yield every cell of a map, gaps included."""
    for row in reversed(regimes.shown):
        levels = [f"{name} {level.mean:.3f}" for name, level in (("None", row.none), ("oracle", row.oracle)) if level]
        for method in regimes.methods:
            for column in regimes.columns:
                value, measured = regimes.value(row, method, column), row.acc_corr.get((method, column))
                where = f"{method}, {row.name}, identified {column}"
                shown = f"recovery {value:.3f}; " if value is not None and what == "recovery" else ""
                said = "; ".join([f"{shown}acc_corr {measured}", *levels]) if measured else "nothing was run"
                label = "" if value is None else f"{value:.2f}"
                cell = {"method": method, "row": row.name, "column": column, "value": value, "label": label}
                yield cell | {"text": f"{where}: {said}"}


def _regime_note(regimes: Regimes) -> str:
    """Return how the numbers are computed, and why some are missing."""
    if not regimes.is_recovery:
        return (
            "acc_corr, mean over seeds; no recovery, because fewer than two harmful manipulations have an oracle "
            "(RewoD at identified 1)."
        )
    said = [
        "Recovery: (acc_corr - that of None) / (that of the oracle - that of None), of means over seeds; colours end "
        "at 0 and 1, numbers do not. Oracle: RewoD at identified 1."
    ]
    if lacking := [row.name for row in regimes.rows if row.harm is None]:
        said.append(f"Left out, because there is no oracle or no original: {', '.join(lacking)}.")
    if unhurt := [row.name for row in regimes.rows if row.harm is not None and not row.is_hurt]:
        said.append(f"Left out, because the oracle is less than {HARM} above None: {', '.join(unhurt)}.")
    if own := [row.name for row in regimes.shown if row.comparison.about["manipulation"] not in REGULARITY]:
        said.append(f"Of unknown regularity: {', '.join(own)}.")
    return " ".join(said)


FIGURES: tuple[Callable[[Comparison, Runs], Iterator[Figure]], ...] = (
    accuracies,
    trade_off,
    importance_ratios,
    every_run,
)
"""The figures of a variant, in the order of the page. To add one, write such a function and list it here."""


def figures(comparison: Comparison, runs: Runs) -> list[Figure]:
    """Return all figures of a variant that have something to show.

    Args:
        comparison: The variant.
        runs: Where its runs are from; files that cannot be used are added to what is skipped.
    """
    return [figure for make in FIGURES for figure in make(comparison, runs)]


def _look(methods: Sequence[str], levels: dict[str, Style] = LEVELS) -> dict[str, Any]:
    """Return the channels that distinguish methods, by colour, shape and dashes."""
    names = list(dict.fromkeys(methods))
    own = [levels.get(name) or style(name) for name in names]
    # Without markers, the legend distinguishes dashes.
    lines = alt.Legend(symbolType=LINE, symbolStrokeWidth=2, symbolSize=200)
    dashes = alt.Scale(domain=names, range=[list(each.dash) for each in own])
    colours = alt.Scale(domain=names, range=[each.colour for each in own])
    return {
        "color": alt.Color("method:N", title=None, scale=colours),
        "lined color": alt.Color("method:N", title=None, scale=colours, legend=lines),
        "shape": alt.Shape("method:N", title=None, scale=alt.Scale(domain=names, range=[each.shape for each in own])),
        "dash": alt.StrokeDash("method:N", title=None, scale=dashes),
    }


def _finish(*layers: alt.Chart, **more: Any) -> alt.LayerChart:
    """Return layers as one chart of the usual size, with the parameter `hidden`."""
    # In one call, because each further call would copy the whole chart.
    chart: alt.LayerChart = alt.layer(*layers, width=WIDTH, height=HEIGHT, params=[HIDDEN.param], **more)  # type: ignore[assignment]
    return chart


def _destroyed(comparison: Comparison) -> str:
    """Return a sentence on choices whose model is destroyed."""
    said = []
    for method, chosen in comparison.chosen.groupby("method"):
        marks = (chosen["destroyed"] == True).groupby(chosen["identified"])  # noqa: E712  # None is not True
        of = pd.DataFrame({"all": marks.size(), "broken": marks.sum()})
        named = [
            f"{at:g}" + f" ({broken} of {all_})" * (all_ > 1) for at, all_, broken in of.itertuples(name=None) if broken
        ]
        said += [f"{method} at {', '.join(named)}"] * bool(named)
    end = f" Hollow: destroyed models (under half of the original's validation accuracy): {'; '.join(said)}."
    return end if said else ""
