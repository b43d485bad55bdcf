"""Which method survives which way of finding S_f: a row for each, a column for each method."""

from collections.abc import Iterable
from itertools import groupby

from cmu_lightning.report.comparing.regimes import Regimes, Row
from cmu_lightning.report.comparing.summarise import Spread, spread
from cmu_lightning.report.tables.table import Cell, Table

SHOWN = {"acc_corr": "unseen affected samples", "acc_retain": "unseen unaffected samples"}


def tables(all_regimes: list[Regimes]) -> list[Table]:
    """One for each accuracy; none where every S_f was the paper's uniform draw."""
    if not any("discovery" in each.way for each in all_regimes):
        return []
    return [_table(all_regimes, name) for name in SHOWN]


def _table(all_regimes: list[Regimes], name: str) -> Table:
    methods = sorted({method for each in all_regimes for method in each.methods})
    rows: list[list[Cell]] = []
    for data, ways in groupby(all_regimes, lambda each: each.data):
        found = [(row, each, column) for each in ways for row in each.rows for column in each.columns]
        order = {row.name: at for at, (row, _, _) in enumerate(found)}
        for row, each, column in sorted(found, key=lambda one: order[one[0].name]):
            measured = row.of(name)
            values = [measured.get((method, column)) for method in methods]
            if any(values):
                levels = [row.summary.original(name), row.summary.oracle(name)]
                where: list[Cell] = [data, row.name, _discovery(each.way), column]
                rows.append([*where, *_precision_and_recall(row, column), *levels, *values])
    return Table(
        name="discoveries" if name == "acc_corr" else f"discoveries_{name}",
        title=f"{name} by how S_f comes about: {SHOWN[name]}",
        note="Mean and standard deviation over seeds. Precision: the part of S_f that is in S_m. Recall: the part of "
        "S_m that is in S_f. None: the originals. Oracle: RewoD with all of S_m identified.",
        columns=["data", "manipulation", "S_f", "identified", "precision", "recall", "None", "oracle", *methods],
        rows=rows,
        digits=2,
    )


def _discovery(way: str) -> str:
    """Of a way in which runs were made, its discovery first."""
    return way.replace("discovery=", "").replace("discovery.", "") or "uniform"


def _precision_and_recall(row: Row, column: str) -> tuple[Spread | None, Spread | None]:
    """Of S_f, over all runs."""
    runs = [choice.result.metrics for choice in row.choices(column)]
    right = [1 - run.get("false_positives", 0) / run["deleted"] for run in runs if run.get("deleted")]
    return _of_all(right), _of_all(run["identified"] for run in runs)


def _of_all(values: Iterable[float]) -> Spread | None:
    """Methods of one seed share an S_f, so the spread over runs would say nothing."""
    found = spread(values)
    return found and found._replace(std=None)
