"""The candidates of a repair as charts: a line for each, with its value and its interval."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from cmu_lightning.deploy.choice import Outcome
from cmu_lightning.deploy.findings import wilson
from cmu_lightning.deploy.repair_story import percent

ORIGINAL = "None (the original)"
"""Name under which reports draw the original."""
LINE_HEIGHT = 38
"""Pixels from one candidate to the next."""
MARGIN = 0.02
"""Room on both sides of the intervals."""


class CandidateChart(NamedTuple):
    """A chart: its title, and its specification in Vega-Lite."""

    title: str
    spec: dict[str, Any]


def candidate_charts(outcome: Outcome, validation: int) -> list[CandidateChart]:
    """Return the charts of validation accuracy and of agreement with the flagged labels, as far as they are known.

    Args:
        outcome: What was tried and chosen.
        validation: Number of validation samples.
    """
    flagged = int(outcome.original.metrics["deleted"])
    measures = (
        ("val_acc", validation, "validation accuracy", "Validation accuracy: right is better"),
        (
            "fit_identified",
            flagged,
            "flagged images that get their flagged label",
            "Flagged labels: left is better if flags are right",
        ),
    )
    runs = (outcome.original, *outcome.candidates)
    return [
        CandidateChart(title, _chart(list(_dots(outcome, name, total, label)), label))
        for name, total, label, title in measures
        if total and all(name in run.metrics for run in runs)
    ]


def _dots(outcome: Outcome, name: str, total: int, label: str) -> Iterator[dict[str, Any]]:
    """Yield a row of a chart's data for the original and each candidate."""
    for run in (outcome.original, *outcome.candidates):
        value = float(run.metrics[name])
        low, high = wilson(round(value * total), total)
        yield {
            "name": run.name,
            "method": ORIGINAL if run is outcome.original else run.metrics["method"],
            "value": value,
            "low": low,
            "high": high,
            "title": f"{run.name}: {percent(value)}",
            "chosen": run is outcome.chosen,
            "text": f"{run.name}: {label} {percent(value)} ({100 * low:.1f} to {100 * high:.1f})",
        }


def _chart(rows: list[dict[str, Any]], label: str) -> dict[str, Any]:
    """Return the specification of a chart.

    Args:
        rows: Its data, a line each.
        label: What the axis shows.
    """
    import altair as alt
    import pandas as pd

    from cmu_lightning.report.appearance import CHOSEN, LEVELS_AS_MARKS, style
    from cmu_lightning.report.figures import HIDDEN

    looks = {row["method"]: LEVELS_AS_MARKS.get(row["method"]) or style(row["method"]) for row in rows}
    least, most = min(row["low"] for row in rows), max(row["high"] for row in rows)
    scale = alt.Scale(domain=[max(0.0, least - MARGIN), min(1.0, most + MARGIN)], nice=False, zero=False)
    x = alt.X("value:Q", title=label, scale=scale, axis=alt.Axis(format="%", tickCount=5))
    methods = list(looks)
    colour = alt.Color("method:N", scale=alt.Scale(domain=methods, range=[look.colour for look in looks.values()]))
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods, range=[look.shape for look in looks.values()]))
    # Names stand above their lines, where they have room on a telephone too.
    weight = {"expr": "datum.chosen ? 'bold' : 'normal'"}
    source = alt.Chart(pd.DataFrame(rows))
    lines = source.encode(alt.Y("name:N", sort=None, axis=None))
    chart = alt.layer(
        source.transform_filter(f"datum.method === '{ORIGINAL}'")
        .mark_rule(strokeDash=[3, 3], opacity=0.6)
        .encode(x, colour),
        lines.mark_rule(strokeWidth=1.5, opacity=0.6).encode(alt.X("low:Q"), alt.X2("high:Q"), colour),
        lines.mark_point(size=80, filled=True, opacity=1).encode(x, colour, shape, tooltip="text:N"),
        lines.transform_filter("datum.chosen").mark_point(size=260, stroke=CHOSEN, strokeWidth=2).encode(x),
        lines.mark_text(align="left", dy=-15, fontSize=12, fontWeight=weight).encode(text="title:N", x=alt.value(0)),
        height=LINE_HEIGHT * len(rows),
        params=[HIDDEN.param],
    )
    spec: dict[str, Any] = chart.to_dict(validate=False)
    return spec
