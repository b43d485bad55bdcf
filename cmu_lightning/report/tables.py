"""The tables of a variant, and of all variants together."""

import json
from collections.abc import Iterable
from functools import cache
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from cmu_lightning.report.measures import area, over_fractions, smallest_fraction
from cmu_lightning.report.select import RULES
from cmu_lightning.report.summarise import Choice, Spread, Summary, spread
from cmu_lightning.report.table import Cell, Table

ENVIRONMENT = (
    "python",
    "torch",
    "lightning",
    "torchmetrics",
    "device",
    "precision",
    "world_size",
    "threads",
    "revision",
)
IN_CURVES = ("acc_corr", "acc_retain", "acc_manipulated", "acc_corr_nontarget", "asr", "val_acc", "changed")


def tables(summary: Summary) -> list[Table]:
    """All tables of a variant."""
    return [
        retain_change(summary),
        measures(summary),
        cost(summary),
        regrets(summary),
        curves(summary),
        origin(summary),
    ]


def together(per_variant: Iterable[tuple[str, list[Table]]]) -> list[Table]:
    """Tables of one name as one, with the variant in front."""
    named = [(variant, table) for variant, made in per_variant for table in made]
    order = list(dict.fromkeys(table.name for _, table in named))
    joined = []
    for _, group in groupby(sorted(named, key=lambda each: order.index(each[1].name)), lambda each: each[1].name):
        members = list(group)
        first = members[0][1]
        rows: list[list[Cell]] = [[variant, *row] for variant, table in members for row in table.rows]
        columns = ["setting", *first.columns]
        joined.append(Table(first.name, first.title, first.note, columns, rows, first.digits))
    return joined


@cache
def published() -> dict[str, Any]:
    """The paper's own numbers."""
    content: dict[str, Any] = json.loads(Path(__file__).with_name("published.json").read_text())
    return content


def retain_change(summary: Summary) -> Table:
    """Table 1."""
    about = summary.variant.about
    keys = ("dataset", "manipulation", "manipulated")
    settings = published()["retain_change"]["settings"]
    paper: dict[str, Any] = next(
        (each for each in settings if all(each[key] == about[key] for key in keys)), {"none": None, "change": {}}
    )
    rows: list[list[Cell]] = [["None (acc_retain)", _times(summary.original("acc_retain"), 100), None, paper["none"]]]
    for method in summary.methods:
        curve = summary.curve(method, "retain_change")
        theirs = Spread._make([*paper["change"][method], 10]) if method in paper["change"] else None
        rows.append([method, _times(over_fractions(curve), 100), _share(curve, summary), theirs])
    return Table(
        name="retain_change",
        title="Change of acc_retain (as Table 1)",
        note="Percentage points against the original of the same seed: mean and standard deviation over the identified "
        "fractions of the means over seeds. None: acc_retain of the originals in percent, over seeds. "
        f"Paper: {published()['source']}, {published()['retain_change']['where']}.",
        columns=["method", "change", "fractions", "paper"],
        rows=rows,
        digits=2,
    )


def measures(summary: Summary) -> Table:
    """What the paper defines and does not report."""
    rows: list[list[Cell]] = []
    for method in summary.methods:
        curve = summary.curve(method, "acc_corr")
        oracle = summary.oracle("acc_corr")
        smallest = smallest_fraction(curve, oracle)
        reached: Cell = "not reached" if oracle and curve and smallest is None else smallest and f"{smallest:g}"
        healed = over_fractions(summary.curve(method, "utility_x_healed"))
        marks = [choice.destroyed for choice in summary.of(method)]
        wrecked = f"{sum(map(bool, marks))} of {len(marks)}" if None not in marks else None
        rows.append([method, _share(curve, summary), reached, _areas(summary, method), healed, wrecked])
    return Table(
        name="measures",
        title="How much has to be identified",
        note="Smallest identified fraction, of those that were run, whose mean acc_corr is at least 0.9 of the "
        "oracle's (RewoD at identified 1). Area under acc_corr against identified, divided by the width: mean and "
        "standard deviation over the seeds that have all fractions. Utility x healed: acc_retain x acc_manipulated, "
        "mean and standard deviation over fractions of the means over seeds. Destroyed: chosen runs with less than "
        "half of the original's validation accuracy.",
        columns=["method", "fractions", "0.9 of the oracle at", "area", "utility x healed", "destroyed"],
        rows=rows,
    )


def cost(summary: Summary) -> Table:
    """Table 3."""
    minutes = published()["minutes"]
    rows: list[list[Cell]] = []
    for method in summary.methods:
        chosen = summary.of(method)
        tried = sum(len(point.runs) for point in summary.points if point.method == method)
        spent = [_over(chosen, name) for name in ("seconds", "samples_forward", "samples_backward")]
        paper = minutes["methods"].get(method)
        rows.append([method, *spent, tried, paper and 60 * paper])
    originals = summary.variant.originals.values()
    own = [
        spread(each.metrics[key] for each in originals if key in each.metrics)
        for key in ("seconds", "samples_forward", "samples_backward")
    ]
    rows.insert(0, ["None (training the original)", *own, len(originals), None])
    return Table(
        name="cost",
        title="What a run costs (as Table 3)",
        note="Mean and standard deviation over the chosen runs: wall clock of the stage itself, and samples that went "
        "forward and backward through a network, teachers counted. Runs: all that were tried. "
        f"Paper: {published()['source']}, {minutes['where']}.",
        columns=["method", "seconds", "samples forward", "samples backward", "runs", "paper, seconds"],
        rows=rows,
        digits=2,
    )


def regrets(summary: Summary) -> Table:
    """What choosing without clean labels loses."""
    rows: list[list[Cell]] = []
    for method in summary.tuned:
        points = [point for point in summary.points if point.method == method]
        for rule in RULES:
            chosen = [choice for point in points if (choice := point.choose(rule))]
            lost = [choice.regret for choice in chosen if choice.regret is not None]
            wrecked = sum(choice.destroyed is True for choice in chosen)
            mean, worst = (fmean(lost), max(lost)) if lost else (None, None)
            rows.append([method, rule, mean, worst, _over(chosen, "acc_retain"), wrecked, len(chosen)])
    return Table(
        name="regret",
        title="Regret of selection rules",
        note="acc_corr of the best run of a point minus that of the chosen one, mean and largest over the points; the "
        "rule oracle chooses by acc_corr itself and is a bound, no rule that can be used. Destroyed: choices with less "
        "than half of the original's validation accuracy.",
        columns=["method", "rule", "regret", "largest", "acc_retain", "destroyed", "points"],
        rows=rows,
    )


def curves(summary: Summary) -> Table:
    """All that the charts show."""
    rows: list[list[Cell]] = [
        ["None", None, *(summary.original(name) for name in IN_CURVES), len(summary.variant.originals)]
    ]
    for method in summary.methods:
        found = [summary.curve(method, name) for name in IN_CURVES]
        for identified in summary.fractions:
            chosen = [choice for choice in summary.of(method) if choice.point.identified == identified]
            rows.append([method, f"{identified:g}", *(curve.get(identified) for curve in found), len(chosen)])
    return Table(
        name="curves",
        title="Accuracies by identified fraction",
        note="Mean and standard deviation over seeds of the chosen runs, on unseen samples of the test split, but for "
        "acc_manipulated, which is on S_m. A row of 0 seeds is a gap: nothing was run.",
        columns=["method", "identified", *IN_CURVES, "seeds"],
        rows=rows,
    )


def origin(summary: Summary) -> Table:
    """Which runs, seeds and versions the numbers come from."""
    runs = {"None": list(summary.variant.originals.values()), **summary.variant.methods}
    rows: list[list[Cell]] = []
    for method, results in runs.items():
        seeds = sorted({str(result.seeds) for result in results})
        machines = [result.metrics["environment"] for result in results]
        versions = [", ".join(sorted({str(each.get(key, "?")) for each in machines})) for key in ENVIRONMENT]
        rows.append([method, len(results), ", ".join(seeds), *versions])
    return Table(
        name="origin",
        title="Where the numbers come from",
        note="All runs that were read, the seeds they were drawn with, and what they were made with.",
        columns=["method", "runs", "seeds", *ENVIRONMENT],
        rows=rows,
    )


def chosen_runs(summary: Summary) -> Table:
    """One row a point."""
    names = ("acc_corr", "acc_retain", "acc_manipulated", "val_acc", "changed", "selection_score", "seconds")
    rows: list[list[Cell]] = []
    for choice in summary.choices:
        point, metrics = choice.point, choice.result.metrics
        tuned = ", ".join(f"{name}={value}" for name, value in sorted(metrics["hyperparameters"].items()))
        measured = [choice.value(name) for name in names]
        where: list[Cell] = [point.method, f"{point.identified:g}", str(point.seeds), tuned, len(point.runs)]
        rows.append([*where, *measured, choice.regret, choice.destroyed, choice.result.folder])
    return Table(
        name="chosen_runs",
        title="The run that counts for each point",
        note=f"Chosen by the rule {summary.rule}, among as many as `of` says. Folders are relative to the runs folder.",
        columns=["method", "identified", "seeds", "hyperparameters", "of", *names, "regret", "destroyed", "folder"],
        rows=rows,
    )


def _areas(summary: Summary, method: str) -> Spread | None:
    """Over the seeds that have all fractions."""
    found = []
    for seeds in {choice.point.seeds for choice in summary.of(method)}:
        own = [
            choice
            for choice in summary.of(method)
            if choice.point.seeds == seeds and "acc_corr" in choice.result.metrics
        ]
        curve = {each.point.identified: Spread(each.result.metrics["acc_corr"], None, 1) for each in own}
        found.append(area(curve, summary.fractions))
    return spread(sorted(each for each in found if each is not None))


def _over(chosen: list[Choice], name: str) -> Spread | None:
    return spread(value for choice in chosen if (value := choice.value(name)) is not None)


def _times(values: Spread | None, factor: float) -> Spread | None:
    return values and Spread(values.mean * factor, None if values.std is None else values.std * factor, values.n)


def _share(curve: dict[float, Spread], summary: Summary) -> str:
    return f"{len(curve)} of {len(summary.fractions)}"
