"""The tables that stand beside the paper's, or are of what it defines."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from cmu_lightning.experiment.run import COST
from cmu_lightning.report.comparing.measures import (
    ENOUGH,
    area,
    falls_back,
    over_fractions,
    over_runs,
    smallest_fraction,
)
from cmu_lightning.report.comparing.summarise import Curve, Spread, Summary, spread
from cmu_lightning.report.tables.table import Cell, Table


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
    rows: list[list[Cell]] = [["None (acc_retain)", _percent(summary.original("acc_retain")), None, paper["none"]]]
    for method in summary.methods:
        curve = summary.curve(method, "retain_change")
        theirs = Spread._make([*paper["change"][method], 10]) if method in paper["change"] else None
        rows.append([method, _percent(over_fractions(curve)), _share(curve, summary.expected(method)), theirs])
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
    """What sums up a curve: smallest fraction (paper, section 2.2), area, utility x healed, and destroyed models."""
    rows: list[list[Cell]] = []
    for method in summary.methods:
        curve = summary.curve(method, "acc_corr")
        oracle = summary.oracle("acc_corr")
        healed = over_fractions(summary.curve(method, "utility_x_healed"))
        marks = [choice.destroyed for choice in summary.of(method)]
        wrecked = f"{sum(map(bool, marks))} of {len(marks)}" if None not in marks else None
        rows.append(
            [
                method,
                _share(curve, summary.expected(method)),
                _reached(curve, oracle),
                _areas(summary, method),
                healed,
                wrecked,
            ]
        )
    return Table(
        name="measures",
        title="How much has to be identified",
        note=f"Smallest identified fraction, of those that were run, whose mean acc_corr is at least {ENOUGH} of the "
        "oracle's (RewoD at identified 1), and larger ones at which it is not. Area under acc_corr against identified, "
        "divided by the width: mean and standard deviation over the seeds that have all fractions. Utility x healed: "
        "acc_retain x acc_manipulated, mean and standard deviation over fractions of the means over seeds. Destroyed: "
        "chosen runs with less than half of the original's validation accuracy.",
        columns=["method", "fractions", f"{ENOUGH} of the oracle at", "area", "utility x healed", "destroyed"],
        rows=rows,
    )


def _reached(curve: Curve, oracle: Spread | None) -> Cell:
    """The smallest fraction, and larger ones that fall back."""
    if oracle is None or not curve:
        return None
    smallest, lost = smallest_fraction(curve, oracle), falls_back(curve, oracle)
    if smallest is None:
        return "not reached"
    return f"{smallest:g}" + f" (not at {', '.join(f'{each:g}' for each in lost)})" * bool(lost)


def cost(summary: Summary) -> Table:
    """Table 3."""
    minutes = published()["minutes"]
    theirs = minutes["methods"] if summary.variant.about["dataset"] in minutes["datasets"] else {}
    rows: list[list[Cell]] = []
    for method in summary.methods:
        chosen = summary.of(method)
        tried = sum(len(point.runs) for point in summary.points_of(method))
        spent = [over_runs(chosen, name) for name in COST]
        paper = theirs.get(method)
        rows.append([method, *spent, tried, paper and 60 * paper])
    originals = summary.variant.originals.values()
    own = [spread(each.metrics[key] for each in originals if key in each.metrics) for key in COST]
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
        found.append(area(curve, summary.expected(method)))
    return spread(sorted(each for each in found if each is not None))


def _percent(values: Spread | None) -> Spread | None:
    return values and Spread(values.mean * 100, None if values.std is None else values.std * 100, values.n)


def _share(curve: dict[float, Spread], fractions: list[float]) -> str:
    return f"{len(curve)} of {len(fractions)}"
