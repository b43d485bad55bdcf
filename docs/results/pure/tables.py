"""Write `tables.md`, every cell of the study of PURE, from `runs.jsonl`.

    python docs/results/pure/tables.py [RUNS]

RUNS is a runs folder or a packed file; default `runs.jsonl` next to this script.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

import cmu_lightning

HERE = Path(__file__).parent
SEEDS = range(100, 105)
REGIMES = {300: "Originals as shipped, 300 steps", 2000: "Memorised originals, 2,000 steps"}
MANIPULATIONS = {
    "Poison": "poison",
    "InterclassConfusion": "confusion",
    "RandomSwap": "random swap",
    "Blended": "blended trigger",
    "OneWayConfusion": "one-way confusion",
    "TaCT": "TaCT",
    "AllToAll": "all-to-all",
}
METHODS = ("PURE", "RewoD", "CF", "Scrub", "Potion", "TunedSSD")
SHARE, LOSS = 0.9, 0.01
"""The goal: this share of the oracle's acc_corr, and at most this much acc_retain lost."""


def known(run: pd.Series) -> str:
    """Return how S_f was found.

    Args:
        run: A row of `cmu_lightning.results`.
    """
    discovery = str(run.get("data.discovery"))
    if "PULearning" in discovery:
        return "0.1, then PULearning"
    mistakes = run.get("data.discovery.false_discovery_rate")
    return f"{run.identified:g}" + (", 30% mistakes" if isinstance(mistakes, float) and mistakes > 0 else "")


def cells(runs: pd.DataFrame, measure: str) -> Callable[..., list[float | None]]:
    """Return a function that looks up a measurement of every seed.

    Args:
        runs: Finished runs with the column `known`.
        measure: Name of the measurement.
    """
    keys = ["procedure.steps", "manipulation", "method", "known", "seed"]
    runs = runs.reindex(columns=[*runs.columns, *{measure} - {*runs.columns}])
    table = runs.dropna(subset=[measure]).groupby(keys)[measure].first().to_dict()
    return lambda *key: [table.get((*key, seed)) for seed in SEEDS]


def text(values: list[float | None]) -> str:
    """Return one number a seed; `-` where there is no run.

    Args:
        values: One for each seed.
    """
    return " ".join("-" if value is None else f"{value:.3f}" for value in values)


def verdict(pure: list[float | None], original: list[float | None], oracle: list[float | None]) -> str:
    """Return in how many runs PURE reaches the goal's share of the oracle, and in how many it is below the original.

    Args:
        pure: acc_corr of each seed.
        original: That of the original.
        oracle: That of the oracle.
    """
    pairs = [(mine, best) for mine, best in zip(pure, oracle, strict=True) if mine is not None and best is not None]
    below = [mine < first for mine, first in zip(pure, original, strict=True) if mine is not None and first is not None]
    reached = sum(mine >= SHARE * best for mine, best in pairs)
    return (
        f"{reached} of {len(pairs)} at {SHARE} of the oracle or more; {sum(below)} of {len(below)} below the original"
    )


def sections(runs: pd.DataFrame) -> list[str]:
    """Return the lines of the page: a table for each regime, manipulation and way to know S_f.

    Args:
        runs: Finished runs with the column `known`.
    """
    corr, retain = cells(runs, "acc_corr"), cells(runs, "acc_retain")
    precision, recall = cells(runs, "suspect_precision"), cells(runs, "suspect_recall")
    lines = []
    for steps, title in REGIMES.items():
        lines += [f"## {title}", ""]
        for name, called in MANIPULATIONS.items():
            place = (steps, name)
            original, oracle = corr(*place, "Original", "nan"), corr(*place, "RewoD", "1")
            of_place = runs[(runs["procedure.steps"] == steps) & (runs.manipulation == name)]
            ways = sorted(set(of_place.known) - {"nan"})
            if not ways:
                continue
            lines += [f"### {called}", "", "| known | method | `acc_corr` | `acc_retain` |", "|---|---|---|---|"]
            lines += [f"| | original | {text(original)} | {text(retain(*place, 'Original', 'nan'))} |"]
            for way in ways:
                for method in METHODS:
                    own = corr(*place, method, way)
                    if any(value is not None for value in own):
                        called_too = " (the oracle)" if (method, way) == ("RewoD", "1") else ""
                        kept = text(retain(*place, method, way))
                        lines += [f"| {way} | {method}{called_too} | {text(own)} | {kept} |"]
            lines += [""]
            for way in ways:
                own = corr(*place, "PURE", way)
                if any(value is not None for value in own):
                    found = text(precision(*place, "PURE", way)), text(recall(*place, "PURE", way))
                    lines += [f"PURE, {way} known: {verdict(own, original, oracle)}. Suspects: precision {found[0]};"]
                    lines[-1] += f" recall {found[1]}."
                    lines += [""]
    return lines


def main() -> None:
    """Read the runs and write the page."""
    runs = cmu_lightning.results(sys.argv[1] if len(sys.argv) > 1 else HERE / "runs.jsonl")
    runs = runs[runs.seed.isin(SEEDS)].copy()
    runs["known"] = [known(run) for _, run in runs.iterrows()]
    head = [
        "# Every cell of the study of PURE",
        "",
        f"Written by `python docs/results/pure/tables.py` from {len(runs)}",
    ]
    head[-1] += " runs. Cells list seeds 100, 101, 102, 103, 104; `-` is not run or not measured."
    (HERE / "tables.md").write_text("\n".join([*head, "", *sections(runs)]).rstrip() + "\n")


if __name__ == "__main__":
    main()
