"""The field's tables: healed, utility and their product, averaged over manipulations, and published numbers.

A *cell* is a manipulation, an identified fraction and the seeds; one chosen run counts for it. Numbers are in percent.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from cmu_lightning.report.aggregate import spread, utility
from cmu_lightning.report.load import rows_of, seeds_text
from cmu_lightning.report.regimes import Regimes, Row
from cmu_lightning.report.table import Table, table

MEASURES = {
    "healed": "acc_manipulated",
    "utility": "utility",
    "utility x healed": "utility_x_healed",
    "change of utility": "retain_change",
}
"""The field's names of a run's measurements."""

SHOWN = ("healed", "utility", "utility x healed")
NONE = "None"
"""The unchanged original, as a method and as an identified fraction."""

DIFFERS = "ours differ in"
ABOUT_UTILITY = (
    "Healed: accuracy on S_m by true labels (acc_manipulated). Utility: acc_retain or, if everything is affected and "
    "there is none, acc_corr, the accuracy on all clean test images."
)

Place = tuple[str, str]
"""The name of a manipulation among the others, and an identified fraction."""


class Average(NamedTuple):
    """A mean over cells, with two different kinds of spread.

    Args:
        mean: Mean of all cells.
        standard_error: Over all cells pooled, deviation / sqrt(cells): it mostly reflects how the measurement varies
            with the manipulation and the identified fraction. None for one cell.
        deviation: Standard deviation, over seeds, of each seed's mean over its cells: the effect of another seed.
            None for one seed.
        cells: Number of cells.
        seeds: Number of seeds.
    """

    mean: float
    standard_error: float | None
    deviation: float | None
    cells: int
    seeds: int


def average(values: Mapping[str, Mapping[Place, float]], expected: set[Place]) -> Average | None:
    """Return the average over the seeds that have all cells, so that all methods are averaged over the same ones.

    Args:
        values: Measurements by seeds and place.
        expected: Places that a seed must have; if no seed has them all, there is no average: nothing is filled in.
    """
    whole = [[own[place] for place in sorted(expected)] for own in values.values() if expected <= own.keys()]
    pooled = spread(value for own in whole for value in own)
    if pooled is None:
        return None
    over_seeds = spread(fmean(own) for own in whole)
    error = None if pooled.std is None else pooled.std / sqrt(pooled.n)
    return Average(pooled.mean, error, over_seeds and over_seeds.std, pooled.n, len(whole))


def measured(rows: Sequence[Row], method: str, names: Sequence[str]) -> dict[str, dict[str, dict[Place, float]]]:
    """Return measurements of a method in percent, by name, seeds and place, for cells that have all of them.

    Args:
        rows: Manipulations.
        method: Class name of the method, or `NONE`.
        names: Keys of `MEASURES`.
    """
    columns = [MEASURES[name] for name in names]
    found: dict[str, dict[str, dict[Place, float]]] = {name: defaultdict(dict) for name in names}
    for row in rows:
        own = _originals(row) if method == NONE else row.chosen[row.chosen["kind"] == method]
        for run in own.dropna(subset=columns).to_dict("records"):
            for name, column in zip(names, columns, strict=True):
                found[name][str(run["seeds"])][row.name, str(run["column"])] = 100 * run[column]
    return found


def _originals(row: Row) -> pd.DataFrame:
    """Return the originals of a manipulation in the form of chosen runs; they change nothing."""
    lines = []
    for run in rows_of(row.comparison.originals):
        values = utility(run.acc_retain, run.acc_corr), run.acc_manipulated
        product = None if any(pd.isna(value) for value in values) else values[0] * values[1]
        lines.append([seeds_text(run._asdict()), NONE, values[1], values[0], product, 0.0])
    return pd.DataFrame(lines, columns=["seeds", "column", *MEASURES.values()])


def places(rows: Sequence[Row], method: str) -> set[Place]:
    """Return the places where a method should have runs because some method has; gaps must not shrink the average.

    Args:
        rows: Manipulations.
        method: Class name of the method, or `NONE`.
    """
    if method == NONE:
        return {(row.name, NONE) for row in rows}
    return {(row.name, str(column)) for row in rows for column in row.chosen["column"].unique()}


def field_table(families: Sequence[Regimes]) -> Table:
    """Return healed, utility and their product of every method, for each manipulation and averaged over all.

    Args:
        families: All data sets and networks, at least one.
    """
    lines = []
    for each in families:
        groups = [(row.name, [row]) for row in each.rows]
        kinds = _one_of_each(each.rows)
        if len(kinds) > 1:
            groups.append((f"all: {', '.join(row.name for row in kinds)}", kinds))
        for name, rows in groups:
            for method in (NONE, *each.methods):
                found = measured(rows, method, SHOWN)
                own = [average(found[measure], places(rows, method)) for measure in SHOWN]
                counts = (own[0].cells, own[0].seeds) if own[0] else (0, 0)
                means = [one and one.mean for one in own]
                spreads = [
                    part for one in own for part in ((one.standard_error, one.deviation) if one else (None,) * 2)
                ]
                lines.append([each.data, each.way or "as usual", name, method, *counts, *means, *spreads])
    kinds_of_spread = [f"{measure}: {kind}" for measure in SHOWN for kind in ("SE over cells", "SD over seeds")]
    return table(
        "field",
        "Healed, utility and their product (as in the field)",
        f"In percent. {ABOUT_UTILITY} A cell is a manipulation, an identified fraction and the seeds; means are over "
        "all cells of the seeds that have every manipulation and fraction; without such a seed there is a gap. SE "
        "over cells: standard error of all cells pooled, as in REM, which mostly shows how the curve varies. SD over "
        "seeds: standard deviation of the means of each seed. None: the originals. If a manipulation has several "
        "variants, the one with most runs is averaged.",
        ["data", "runs", "manipulation", "method", "cells", "seeds", *SHOWN, *kinds_of_spread],
        lines,
        digits=2,
        rule=families[0].rows[0].comparison.rule,
    )


def _one_of_each(rows: Sequence[Row]) -> list[Row]:
    """Return for each manipulation its variant with most runs, in the order of the map."""
    best: dict[str, Row] = {}
    for row in rows:
        kind = row.comparison.about["manipulation"]
        if kind not in best or len(row.comparison.runs) > len(best[kind].comparison.runs):
            best[kind] = row
    return list(best.values())


@cache
def published() -> dict[str, Any]:
    """Return published numbers, with their settings and caveats."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("published_field.json").read_text())
    return content


def published_tables(families: Sequence[Regimes]) -> list[Table]:
    """Return published rows next to ours, one table for each source with a data set of ours; they are never averaged.

    Args:
        families: All data sets and networks.
    """
    usual = [each for each in families if not each.way]
    made = []
    for name, theirs in published().items():
        own = [each for each in usual if each.rows[0].comparison.about["dataset"] in theirs["datasets"]]
        if own:
            made.append(_published_table(name, theirs, own))
    return made


def _published_table(name: str, theirs: dict[str, Any], own: Sequence[Regimes]) -> Table:
    """Return the rows of one source for each network of ours."""
    measures: list[str] = theirs["measures"]
    has_error = any(row.get(measure, [0, None])[1] is not None for row in theirs["rows"] for measure in measures)
    lines = []
    for each in own:
        rows = _like(theirs, each)
        differs = _differences(theirs, each, rows)
        for row in theirs["rows"]:
            line: list[Any] = [each.data, row["method"]]
            method, cells = row.get("ours"), 0
            for measure in measures:
                value, error = row.get(measure, (None, None))
                found = None
                if method and rows is not None:
                    found = average(measured(rows, method, [measure])[measure], places(rows, method))
                line += [value, *([error] if has_error else []), found and found.mean, found and found.standard_error]
                cells = max(cells, found.cells if found else 0)
            lines.append([*line, cells, differs if method else "none of our methods is run that way"])
    parts = ["published", *(["published SE"] if has_error else []), "ours", "ours, SE over cells"]
    headings = [f"{measure}: {part}" for measure in measures for part in parts]
    caveats = "; ".join(theirs["caveats"])
    return table(
        f"published_{name}",
        f"{theirs['title']} next to ours",
        f"In percent. Published: {theirs['source']}; {theirs['setting']}. Note: {caveats}. Ours: means over the "
        f"cells as in the field's table, if all of their manipulations were run. {ABOUT_UTILITY} Change of "
        "utility: acc_retain minus that of the original of the same seed.",
        ["data", "method", *headings, "our cells", DIFFERS],
        lines,
        digits=2,
        rule=own[0].rows[0].comparison.rule,
    )


def _like(theirs: dict[str, Any], each: Regimes) -> list[Row] | None:
    """Return our runs of their manipulations; None if one is missing."""
    ours = {row.comparison.about["manipulation"]: row for row in _one_of_each(each.rows)}
    found = [next((ours[kind] for kind in kinds if kind in ours), None) for kinds in theirs["manipulations"]]
    return None if None in found else [row for row in found if row]


def _differences(theirs: dict[str, Any], each: Regimes, rows: Sequence[Row] | None) -> str | None:
    """Return how our setting differs from a published one; None if nothing comparable differs."""
    ours = {row.comparison.about["manipulation"] for row in each.rows}
    said = [f"no runs of {' or '.join(kinds)}" for kinds in theirs["manipulations"] if not ours & {*kinds}]
    for key, value in theirs["compared"].get(each.rows[0].comparison.about["dataset"], {}).items():
        own = sorted({str(row.comparison.about.get(key)) for row in rows or each.rows})
        if own != [value]:
            said.append(f"{'|S_m|' if key == 'manipulated' else key} {', '.join(own)}, not {value}")
    columns, expected = sorted({column for _, column in places(rows or each.rows, "")}), theirs.get("identified")
    if expected and columns != expected:
        said.append(f"identified {', '.join(columns)}, not {expected[0]} to {expected[-1]} ({len(expected)})")
    return "; ".join(said) or None
