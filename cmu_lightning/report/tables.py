"""The tables of a report and their content."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import pandas as pd

from cmu_lightning.experiment.run import COST
from cmu_lightning.report.aggregate import (
    ENOUGH,
    Comparison,
    Spread,
    areas,
    falls_back,
    missing,
    smallest_fraction,
    spread,
)
from cmu_lightning.report.field import published as published_field
from cmu_lightning.report.load import SEEDS, Skipped, rows_of, seeds_text
from cmu_lightning.report.regimes import HARM, Regimes, Row
from cmu_lightning.report.table import DIFFERS, Table, table
from cmu_lightning.selection import RULES

ENVIRONMENT = (
    *("python", "torch", "lightning", "torchmetrics", "device", "precision", "world_size", "threads", "revision"),
)
IN_CURVES = ("acc_corr", "acc_retain", "acc_manipulated", "acc_corr_nontarget", "asr", "acc_pair", "val_acc", "changed")
NAMES = (
    *("retain_change", "measures", "cost", "regret", "curves", "origin", "chosen_runs", "missing"),
    *("regime_map", "discoveries", "discoveries_acc_retain", "skipped"),
    *("field", *(f"published_{source}" for source in published_field())),
)
"""All tables that a report may contain."""


def tables(comparison: Comparison) -> list[Table]:
    """Return the tables of a variant.

    Args:
        comparison: The variant.
    """
    made = (retain_change, measures, cost, regrets, curves, origin, chosen_runs, gaps)
    return [each(comparison) for each in made]


def together(per_variant: Iterable[tuple[str, list[Table]]]) -> list[Table]:
    """Return the tables of all variants, merged by name, with the variant in the first column.

    Args:
        per_variant: Names of variants and their tables.
    """
    named = [(variant, made) for variant, own in per_variant for made in own]
    order = list(dict.fromkeys(made.name for _, made in named))
    joined = []
    for _, group in groupby(sorted(named, key=lambda each: order.index(each[1].name)), lambda each: each[1].name):
        members = list(group)
        frames = [
            pd.DataFrame({"setting": pd.Series([variant] * len(made.frame), dtype=object)}).join(made.frame)
            for variant, made in members
        ]
        # A longer note also fits all variants: it names the rows that it applies to.
        fullest = max((made for _, made in members), key=lambda made: len(made.note))
        joined.append(replace(fullest, frame=pd.concat(frames, ignore_index=True)))
    return joined


@cache
def published() -> dict[str, Any]:
    """Return the paper's own numbers and their settings."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text())
    return content


def differences(comparison: Comparison, method: str | None, manipulated: int | None) -> str | None:
    """Return how the paper's network, steps and |S_m| differ; None if they agree.

    Args:
        comparison: The variant.
        method: Name of a method within it; None for the originals.
        manipulated: The paper's |S_m|; None if it states none.
    """
    about, paper = comparison.about, published()["procedures"].get(comparison.about["dataset"], {})
    runs = comparison.originals if method is None else comparison.runs[comparison.runs["label"] == method]
    settings = next((run.settings for run in rows_of(runs) if run.settings), None)
    if settings is None:
        return "the config is not known"
    own = settings.steps if method is None else settings.of(str(runs["method"].iloc[0]))
    # A method that fine-tunes depends on both numbers of steps, through its original.
    own = {"procedure.steps": about.get("procedure.steps")} | own
    compared = {name: value for name, value in paper.items() if name in own or not name.endswith("unlearn_steps")}
    said = [f"{name} {own.get(name)}, not {value}" for name, value in compared.items() if own.get(name) != value]
    if manipulated not in (None, about["manipulated"]):
        said.append(f"|S_m| {about['manipulated']:,}, not {manipulated:,}")
    return "; ".join(said) or None


def retain_change(comparison: Comparison) -> Table:
    """Return the paper's Table 1: how unlearning changes acc_retain.

    Args:
        comparison: The variant.
    """
    keys = ("dataset", "manipulation")
    settings = published()["retain_change"]["settings"]
    paper = next((each for each in settings if all(each[key] == comparison.about[key] for key in keys)), None)
    none = _percent(comparison.original("acc_retain"))
    differs = paper and differences(comparison, None, paper["manipulated"])
    rows: list[list[Any]] = [
        ["None (acc_retain)", none, None, None if paper is None or differs else paper["none"], differs]
    ]
    for method in comparison.methods:
        curve = comparison.curve(method, "retain_change")
        # As in the paper, the spread is over the identified fractions, of the means over seeds.
        change = _percent(spread(each.mean for each in curve.values()))
        differs = paper and differences(comparison, method, paper["manipulated"])
        theirs = None if paper is None or differs else paper["change"].get(method)
        share = _share(curve, comparison.expected(method))
        rows.append([method, change, share, theirs and Spread(theirs[0], theirs[1], 10), differs])
    return table(
        "retain_change",
        "Change of acc_retain (as Table 1)",
        "Percentage points against the original of the same seed: mean and standard deviation over the identified "
        "fractions of the means over seeds. None: acc_retain of the originals in percent, over seeds. Paper: "
        f"{published()['source']}, {published()['retain_change']['where']}; only where network, steps and |S_m| are "
        "its.",
        ["method", "change", "fractions", "paper", DIFFERS],
        rows,
        digits=2,
        rule=comparison.rule,
    )


def measures(comparison: Comparison) -> Table:
    """Return summaries of curves: smallest fraction (paper, section 2.2), area, utility x healed, destroyed models.

    Args:
        comparison: The variant.
    """
    rows = []
    for method in comparison.methods:
        curve, marks = comparison.curve(method, "acc_corr"), list(comparison.chosen_of(method)["destroyed"])
        healed = spread(each.mean for each in comparison.curve(method, "utility_x_healed").values())
        wrecked = None if None in marks else f"{sum(map(bool, marks))} of {len(marks)}"
        reached = _reached(curve, comparison.oracle("acc_corr"))
        share = _share(curve, comparison.expected(method))
        rows.append([method, share, reached, areas(comparison, method), healed, wrecked])
    affects_all = bool(comparison.chosen["acc_retain"].isna().all())
    without_retain = " If everything is affected there is no acc_retain, and acc_corr replaces it." * affects_all
    return table(
        "measures",
        "How much has to be identified",
        f"Smallest identified fraction, of those that were run, whose mean acc_corr is at least {ENOUGH} of the "
        "oracle's (RewoD at identified 1), and larger ones at which it is not. Area under acc_corr against identified, "
        "divided by the width: mean and standard deviation over the seeds that have all fractions. Utility x healed: "
        "acc_retain x acc_manipulated, mean and standard deviation over fractions of the means over seeds. Destroyed: "
        f"chosen runs with less than half of the original's validation accuracy.{without_retain}",
        ["method", "fractions", f"{ENOUGH} of the oracle at", "area", "utility x healed", "destroyed"],
        rows,
        rule=comparison.rule,
    )


def _reached(curve: dict[float, Spread], oracle: Spread | None) -> str | None:
    """Return the smallest sufficient fraction, and larger ones that are not sufficient."""
    if oracle is None or not curve:
        return None
    smallest, lost = smallest_fraction(curve, oracle), falls_back(curve, oracle)
    if smallest is None:
        return "not reached"
    return f"{smallest:g}" + f" (not at {', '.join(f'{each:g}' for each in lost)})" * bool(lost)


def cost(comparison: Comparison) -> Table:
    """Return the paper's Table 3: what a run costs.

    Args:
        comparison: The variant.
    """
    about, minutes = comparison.about, published()["minutes"]
    sizes = {
        each["manipulated"]
        for each in published()["retain_change"]["settings"]
        if (each["dataset"], each["manipulation"]) == (about["dataset"], about["manipulation"])
    }
    size = next(iter(sizes), None)
    originals = [spread(comparison.originals[name]) for name in COST]
    rows: list[list[Any]] = [["None (training the original)", *originals, len(comparison.originals), None, None]]
    for method in comparison.methods:
        chosen = comparison.chosen_of(method)
        tried = sum(len(runs) for runs in comparison.points_of(method)["runs"])
        spent = [spread(chosen[name]) for name in COST]
        known = about["dataset"] in minutes["datasets"]
        differs = differences(comparison, method, size) if known else None
        theirs = minutes["methods"].get(method) if known and not differs else None
        rows.append([method, *spent, tried, theirs and 60 * theirs, differs])
    if len(rows) > 1 and len({row[-1] for row in rows[1:]}) == 1:
        rows[0][-1] = rows[1][-1]
    return table(
        "cost",
        "What a run costs (as Table 3)",
        "Mean and standard deviation over the chosen runs: wall clock of the stage itself, and samples that went "
        "forward and backward through a network, teachers counted. Runs: all that were tried. Paper: "
        f"{published()['source']}, {minutes['where']}; only where network, steps and |S_m| are the paper's.",
        ["method", "seconds", "samples forward", "samples backward", "runs", "paper, seconds", DIFFERS],
        rows,
        digits=2,
        rule=comparison.rule,
    )


def _percent(values: Spread | None) -> Spread | None:
    return values and Spread(values.mean * 100, None if values.std is None else values.std * 100, values.n)


def _share(curve: dict[float, Spread], fractions: Sequence[float]) -> str:
    return f"{len(curve)} of {len(fractions)}"


def regrets(comparison: Comparison) -> Table:
    """Return the loss from choosing without the test split.

    Args:
        comparison: The variant.
    """
    rows = []
    chosen_by = {rule: comparison.choose(rule) for rule in RULES} if comparison.tuned else {}
    for method in comparison.tuned:
        for rule, everything in chosen_by.items():
            chosen = everything[everything["method"] == method]
            lost = spread(chosen["regret"])
            mean, worst = (lost.mean, float(chosen["regret"].max())) if lost else (None, None)
            wrecked = sum(mark is True for mark in chosen["destroyed"])
            rows.append([method, rule, mean, worst, spread(chosen["acc_retain"]), wrecked, len(chosen)])
    return table(
        "regret",
        "Regret of selection rules",
        "acc_corr of the best run of a point minus that of the chosen one, mean and largest over the points; the "
        "rule oracle chooses by acc_corr itself and is a bound, no rule that can be used. Destroyed: choices with less "
        "than half of the original's validation accuracy.",
        ["method", "rule", "regret", "largest", "acc_retain", "destroyed", "points"],
        rows,
    )


def curves(comparison: Comparison) -> Table:
    """Return everything that the line charts show.

    Args:
        comparison: The variant.
    """
    originals = comparison.originals
    rows: list[list[Any]] = [["None", None, *(spread(originals[name]) for name in IN_CURVES), len(originals)]]
    for method in comparison.methods:
        found = [comparison.curve(method, name) for name in IN_CURVES]
        counts = comparison.chosen_of(method)["identified"].value_counts()
        for at in comparison.expected(method):
            rows.append([method, f"{at:g}", *(curve.get(at) for curve in found), int(counts.get(at, 0))])
    return table(
        "curves",
        "Accuracies by identified fraction",
        "Mean and standard deviation over seeds of the chosen runs, on unseen samples of the test split, except "
        "acc_manipulated, which is on S_m. A row of 0 seeds is a gap: nothing was run.",
        ["method", "identified", *IN_CURVES, "seeds"],
        rows,
        rule=comparison.rule,
    )


def origin(comparison: Comparison) -> Table:
    """Return the runs, seeds and versions behind the numbers.

    Args:
        comparison: The variant.
    """
    groups = {"None": comparison.originals} | {str(label): own for label, own in comparison.runs.groupby("label")}
    rows = []
    for method, runs in groups.items():
        seeds = sorted({seeds_text(run._asdict()) for run in rows_of(runs[list(SEEDS)].drop_duplicates())})
        machines = [metrics["environment"] for metrics in runs["metrics"]]
        versions = [", ".join(sorted({str(each.get(key, "?")) for each in machines})) for key in ENVIRONMENT]
        rows.append([method, len(runs), ", ".join(seeds), *versions])
    return table(
        "origin",
        "Where the numbers come from",
        "All runs that were read, their seeds, and the versions and machines they were made with.",
        ["method", "runs", "seeds", *ENVIRONMENT],
        rows,
    )


def chosen_runs(comparison: Comparison) -> Table:
    """Return the chosen runs, one row per point.

    Args:
        comparison: The variant.
    """
    accuracies = ("acc_corr", "acc_pair", "acc_retain", "acc_manipulated", "val_acc")
    names = (*accuracies, "changed", "selection_score", "seconds")
    rows = []
    for run in comparison.chosen.to_dict("records"):
        metrics = run["metrics"]
        tuned = ", ".join(f"{name}={value}" for name, value in sorted(_tuned(metrics).items()))
        where = [run["method"], f"{run['identified']:g}", run["seeds"], tuned, len(run["runs"])]
        lost = None if pd.isna(run["regret"]) else run["regret"]
        rows.append([*where, *(metrics.get(name) for name in names), lost, run["destroyed"], run["folder"]])
    return table(
        "chosen_runs",
        "The run that counts for each point",
        "Chosen among as many runs as `of` says. Folders are relative to the runs folder.",
        ["method", "identified", "seeds", "hyperparameters", "of", *names, "regret", "destroyed", "folder"],
        rows,
        rule=comparison.rule,
    )


def _tuned(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return a run's hyperparameters, including those that it has chosen itself."""
    return {**metrics["hyperparameters"], **metrics.get("chosen", {})}


def gaps(comparison: Comparison) -> Table:
    """Return what is missing or in doubt.

    Args:
        comparison: The variant.
    """
    rows = [[each] for each in missing(comparison)]
    return table("missing", "What is missing or in doubt", "Nothing is filled in.", ["gap"], rows)


def skipped_table(skipped: list[Skipped]) -> Table:
    """Return everything that contributes no numbers.

    Args:
        skipped: Paths and reasons.
    """
    return table("skipped", "Skipped", "These contribute no numbers.", ["path", "reason"], skipped)


def regime_table(all_regimes: list[Regimes]) -> Table:
    """Return every cell of the regime maps, gaps included.

    Args:
        all_regimes: All maps, at least one.
    """
    rows = []
    for each in all_regimes:
        for row in reversed(each.rows):
            levels = [level and level.mean for level in (row.none, row.oracle)]
            for method in each.methods:
                for column in each.columns:
                    found = row.acc_corr.get((method, column))
                    where = [each.data, each.way or "as usual", row.name, method, column]
                    rows.append([*where, found and row.recovery(found), found, *levels, found.n if found else 0])
    return table(
        "regime_map",
        "Recovery by regularity and identified fraction",
        "Recovery: (acc_corr - acc_corr of None) / (acc_corr of the oracle - that of None), of means over seeds; "
        f"a gap if there is no oracle, or if it is less than {HARM} above None. None: the originals. Oracle: "
        "RewoD at identified 1. A row of 0 seeds is a gap: nothing was run.",
        [
            *("data", "runs", "manipulation", "method", "identified", "recovery", "acc_corr", "None", "oracle"),
            "seeds",
        ],
        rows,
        rule=all_regimes[0].rows[0].comparison.rule,
    )


def discovery_tables(all_regimes: list[Regimes]) -> list[Table]:
    """Return how each method does with each discovery of S_f, a table for each accuracy.

    There is no table if every S_f was the paper's uniform draw.

    Args:
        all_regimes: All maps.
    """
    if not any("discovery" in each.way for each in all_regimes):
        return []
    return [
        _discovery_table(all_regimes, "discoveries", "acc_corr", "unseen affected samples"),
        _discovery_table(all_regimes, "discoveries_acc_retain", "acc_retain", "unseen unaffected samples"),
    ]


def _discovery_table(all_regimes: list[Regimes], name: str, measurement: str, where: str) -> Table:
    """Return a row for each manipulation, discovery of S_f and fraction, and a column for each method."""
    methods = sorted({method for each in all_regimes for method in each.methods})
    rows = []
    for data, ways in groupby(all_regimes, lambda each: each.data):
        found = [(row, each, column) for each in ways for row in each.rows for column in each.columns]
        order = {row.name: at for at, (row, _, _) in enumerate(found)}
        for row, each, column in sorted(found, key=lambda one: order[one[0].name]):
            measured = row.measured(measurement)
            values = [measured.get((method, column)) for method in methods]
            if any(values):
                levels = [row.comparison.original(measurement), row.comparison.oracle(measurement)]
                way = each.way.replace("discovery=", "").replace("discovery.", "") or "uniform"
                rows.append([data, row.name, way, column, *_precision_and_recall(row, column), *levels, *values])
    return table(
        name,
        f"{measurement} by discovery of S_f: {where}",
        "Mean and standard deviation over seeds. Precision: the part of S_f that is in S_m. Recall: the part of "
        "S_m that is in S_f. None: the originals. Oracle: RewoD with all of S_m identified.",
        ["data", "manipulation", "S_f", "identified", "precision", "recall", "None", "oracle", *methods],
        rows,
        digits=2,
        rule=all_regimes[0].rows[0].comparison.rule,
    )


def _precision_and_recall(row: Row, column: str) -> tuple[Spread | None, Spread | None]:
    """Return both of S_f, over all chosen runs; methods of one seed share an S_f, so there is no deviation."""
    runs = [metrics for metrics, own in zip(row.chosen["metrics"], row.chosen["column"], strict=True) if own == column]
    right = [1 - run.get("false_positives", 0) / run["deleted"] for run in runs if run.get("deleted")]
    precision, recall = spread(right), spread(run["identified"] for run in runs)
    return precision and precision._replace(std=None), recall and recall._replace(std=None)
