"""The tables of a variant, and of all variants together."""

from collections.abc import Iterable
from itertools import groupby
from statistics import fmean

from cmu_lightning.report.comparing.measures import over_runs
from cmu_lightning.report.comparing.select import RULES
from cmu_lightning.report.comparing.summarise import Summary
from cmu_lightning.report.tables.paper import cost, measures, retain_change
from cmu_lightning.report.tables.table import Cell, Table

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


def regrets(summary: Summary) -> Table:
    """What choosing without clean labels loses."""
    rows: list[list[Cell]] = []
    for method in summary.tuned:
        points = summary.points_of(method)
        for rule in RULES:
            chosen = [choice for point in points if (choice := point.choose(rule))]
            lost = [choice.regret for choice in chosen if choice.regret is not None]
            wrecked = sum(choice.destroyed is True for choice in chosen)
            mean, worst = (fmean(lost), max(lost)) if lost else (None, None)
            rows.append([method, rule, mean, worst, over_runs(chosen, "acc_retain"), wrecked, len(chosen)])
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
        for identified in summary.expected(method):
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
