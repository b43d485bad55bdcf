"""Draw `figures/pure.png`: acc_corr against the known fraction of S_m, on digits, PURE and the other methods.

    python docs/figures.py [RUNS]

RUNS is a runs folder or a packed file; default `results/pure/runs.jsonl`. Bands are from the lowest to the highest
seed, lines are means.
"""

import sys
from pathlib import Path

import altair as alt
import pandas as pd

import cmu_lightning
from cmu_lightning.report.appearance import LEVELS, style

HERE = Path(__file__).parent
PANELS = {"Poison": "images with the trigger", "InterclassConfusion": "two confused classes"}
METHODS = ["PURE", "RewoD", "CF", "Scrub", "TunedSSD", "Potion"]
STEPS = 300
"""Steps of the originals as shipped."""


def points(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each panel, method and identified fraction: mean, lowest and highest acc_corr of the seeds.

    Args:
        runs: Finished runs, as `cmu_lightning.results` gives them.
    """
    drawn = runs["data.discovery"].isna()  # S_f without mistakes and detectors
    kept = runs[drawn & (runs["procedure.steps"] == STEPS) & runs.method.isin(METHODS) & runs.manipulation.isin(PANELS)]
    cells = kept.groupby(["manipulation", "method", "identified"]).acc_corr
    return cells.agg(["mean", "min", "max", "count"]).reset_index()


def panel(cells: pd.DataFrame, manipulation: str, original: float) -> alt.LayerChart:
    """Draw one manipulation.

    Args:
        cells: Result of `points`.
        manipulation: Which one.
        original: acc_corr of the originals, their mean.
    """
    own = cells[cells.manipulation == manipulation]
    methods = [method for method in METHODS if method in set(own.method)]
    colours = alt.Color(
        "method:N",
        sort=methods,
        scale=alt.Scale(domain=methods, range=[style(each).colour for each in methods]),
        legend=alt.Legend(symbolOpacity=1, symbolSize=120, title=None),
    )
    x = alt.X(
        "identified:Q",
        title="fraction of S_m known",
        scale=alt.Scale(type="sqrt", domain=[0, 1]),
        axis=alt.Axis(values=[0.03, 0.1, 0.5, 1], format="~g"),
    )
    base = alt.Chart(own, title=PANELS[manipulation]).encode(x=x, color=colours)
    band = base.mark_area(opacity=0.12).encode(y=alt.Y("min:Q", title=""), y2="max:Q")
    y = alt.Y("mean:Q", title="acc_corr", scale=alt.Scale(domain=[0, 1]))
    thick = alt.condition(alt.datum.method == "PURE", alt.value(3.5), alt.value(1.8))
    line = base.mark_line(point=alt.OverlayMarkDef(size=45)).encode(y=y, strokeWidth=thick)
    level = alt.Chart(pd.DataFrame({"original": [original]})).mark_rule(
        color=LEVELS["None (the original)"].colour, strokeDash=[6, 3]
    )
    return alt.layer(band, line, level.encode(y="original:Q")).properties(width=330, height=250)


def main() -> None:
    """Read the runs and draw."""
    runs = cmu_lightning.results(sys.argv[1] if len(sys.argv) > 1 else HERE / "results/pure/runs.jsonl")
    cells = points(runs)
    originals = runs[(runs.method == "Original") & (runs["procedure.steps"] == STEPS)]
    levels = originals.groupby("manipulation").acc_corr.mean()
    chart = alt.hconcat(*[panel(cells, each, levels[each]) for each in PANELS]).configure_view(stroke=None)
    chart.save(HERE / "figures/pure.png", scale_factor=2)
    print(cells.round(3).to_string())


if __name__ == "__main__":
    main()
