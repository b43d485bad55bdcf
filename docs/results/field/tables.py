"""Write `tables.md` and `field.png`, all methods on all cells of a study, from its `runs.jsonl`.

    python docs/results/field/tables.py [FOLDER]

FOLDER holds `runs.jsonl`; default the one of this script, the study on digits. Where hyperparameters were tried, the
run with the largest `balanced_score` counts, which reads no label of the test split.
"""

import sys
from pathlib import Path

import altair as alt
import pandas as pd

import cmu_lightning
from cmu_lightning.selection import balanced_score

HERE = Path(__file__).parent
MANIPULATIONS = {"Poison": "poison", "InterclassConfusion": "confusion", "RandomSwap": "random swap"}
CELL = ["method", "manipulation", "identified", "seed"]


def chosen(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one run for each method, manipulation, fraction and seed, with its original's accuracies.

    Args:
        runs: Finished runs, as `cmu_lightning.results` gives them.
    """
    unlearners = runs[runs.identified.notna()].copy()
    unlearners["score"] = [balanced_score(dict(run)) for _, run in unlearners.iterrows()]
    unlearners["tried"] = unlearners.groupby(CELL).score.transform("size")
    best = unlearners.loc[unlearners.groupby(CELL).score.idxmax()].copy()
    best["useful"] = best.acc_retain.fillna(best.acc_corr)  # where everything is affected, as in the field
    best["product"] = best.useful * best.acc_manipulated
    return best


def fractions_of(best: pd.DataFrame) -> list[float]:
    """Return the fractions of S_m that were known, in ascending order."""
    return sorted(best.identified.unique())


def grid(best: pd.DataFrame, originals: pd.DataFrame, measure: str, names: list[str]) -> list[str]:
    """Return the lines of a table of means over seeds.

    Args:
        best: Result of `chosen`.
        originals: The originals.
        measure: Column that is shown.
        names: Methods, in the order of the rows.
    """
    affected = [name for name in MANIPULATIONS if best[best.manipulation == name][measure].notna().any()]
    fractions = fractions_of(best)
    heads = [f"{MANIPULATIONS[name]}, {at:g}" for name in affected for at in fractions]
    means = best.groupby(["method", "manipulation", "identified"])[measure].mean()
    of_originals = originals.groupby("manipulation")[measure].mean()
    lines = [f"| | {' | '.join(heads)} |", f"|---|{'---:|' * len(heads)}"]
    cells = [f"{of_originals[name]:.2f}" for name in affected for _ in fractions]
    lines.append(f"| original | {' | '.join(cells)} |")
    for method in names:
        found = [means.get((method, name, at)) for name in affected for at in fractions]
        shown = ["-" if value is None or pd.isna(value) else f"{value:.2f}" for value in found]
        lines.append(f"| `{method}` | {' | '.join(shown)} |")
    return lines


def summary(best: pd.DataFrame) -> pd.DataFrame:
    """Return a row for each method that has all cells: means over them, spread over seeds, and numbers of runs.

    Args:
        best: Result of `chosen`.
    """
    by_seed = best.groupby(["method", "seed"])[["acc_manipulated", "useful", "product"]].mean()
    mean, spread = by_seed.groupby("method").mean(), by_seed.groupby("method").std()
    own = best.groupby("method")
    rows = pd.DataFrame(
        {
            "product": mean["product"],
            "product_sd": spread["product"],
            "healed": mean.acc_manipulated,
            "useful": mean.useful,
            "tried": own.tried.max(),
            "cells": own.size(),
            "forward": own.samples_forward.mean(),
            "seconds": own.seconds.mean(),
        }
    )
    # Means over other cells are not comparable.
    return rows[rows.cells == rows.cells.max()].sort_values("product", ascending=False)


def picture(best: pd.DataFrame, originals: pd.DataFrame, names: list[str]) -> alt.HConcatChart:
    """Draw acc_corr and acc_retain of every method and cell as a grid of coloured numbers.

    Args:
        best: Result of `chosen`.
        originals: The originals.
        names: Methods, in the order of the rows.
    """
    fractions = fractions_of(best)
    same = pd.concat([originals.assign(method="the original", identified=at) for at in fractions])
    every = pd.concat([same, best])
    every["cell"] = [
        f"{MANIPULATIONS[each]}, {at:g}" for each, at in zip(every.manipulation, every.identified, strict=True)
    ]
    order = [f"{name}, {at:g}" for name in MANIPULATIONS.values() for at in fractions]
    panels = []
    for measure, scheme in (("acc_corr", "viridis"), ("acc_retain", "viridis")):
        means = every.dropna(subset=[measure]).groupby(["method", "cell"])[measure].mean().reset_index()
        cells = [cell for cell in order if cell in set(means.cell)]
        base = alt.Chart(means, title=measure).encode(
            x=alt.X("cell:N", sort=cells, title=None, axis=alt.Axis(labelAngle=-40)),
            y=alt.Y("method:N", sort=["the original", *names], title=None),
        )
        colour = alt.Color(f"{measure}:Q", scale=alt.Scale(scheme=scheme, domain=[0, 1]), legend=None)
        dark = alt.condition(f"datum.{measure} < 0.6", alt.value("white"), alt.value("black"))
        numbers = base.mark_text(fontSize=10).encode(text=alt.Text(f"{measure}:Q", format=".2f"), color=dark)
        panels.append((base.mark_rect().encode(color=colour) + numbers).properties(width=38 * len(cells)))
    return alt.hconcat(*panels)


def main() -> None:
    """Read the runs, write the page and draw the picture."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else HERE
    runs = cmu_lightning.results(folder / "runs.jsonl")
    originals, best = runs[runs.identified.isna()], chosen(runs)
    ranked = summary(best)
    lines = [
        "# Every method on every cell",
        "",
        f"Written by `python docs/results/field/tables.py docs/results/{folder.name}` from {len(runs)} runs: means "
        f"over seeds {', '.join(str(seed) for seed in sorted(runs.seed.unique()))}.",
        "",
        "## Summary",
        "",
        "Healed is accuracy on S_m by true labels, utility is `acc_retain` or, with random swaps, `acc_corr`. Both "
        "and their product are means over all cells in percent, ± the standard deviation over seeds. Tried: runs of a "
        "cell, of which one was chosen. A cell is a manipulation, a fraction and a seed. Samples and seconds are means "
        "of the chosen runs. Methods that lack cells are only in the tables below.",
        "",
        "| method | utility x healed | healed | utility | tried | cells | samples forward | seconds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for method, row in ranked.iterrows():
        lines.append(
            f"| `{method}` | {100 * row['product']:.1f} ± {100 * row.product_sd:.1f} | {100 * row.healed:.1f} | "
            f"{100 * row.useful:.1f} | {row.tried:.0f} | {row.cells:.0f} | {row.forward:,.0f} | {row.seconds:.1f} |"
        )
    names = [*ranked.index, *sorted(set(best.method) - set(ranked.index))]
    for title, measure in (
        ("acc_corr: unseen affected samples", "acc_corr"),
        ("acc_retain: unseen unaffected samples", "acc_retain"),
        ("acc_manipulated: S_m by true labels", "acc_manipulated"),
        ("acc_pair: choice between the two confused classes, unseen samples", "acc_pair"),
    ):
        lines += ["", f"## {title}", "", *grid(best, originals, measure, names)]
    picture(best, originals, names).save(folder / "field.png", scale_factor=2)
    (folder / "tables.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
