"""The panels of workspaces and reports."""

from typing import Any

import wandb_workspaces.reports.v2 as wr

from cmu_lightning.dashboard.keys import ACCURACIES, MEDIA, SHOWN_WHILE_TRAINING, TUNED
from cmu_lightning.experiment.run import COST


def accuracies() -> list[Any]:
    """One point a run, by the identified fraction (paper, Figures 2 and 4 to 6); W&B cannot join them to lines."""
    shown = ("acc_corr", "acc_retain", "selection_score")
    return [
        wr.ScatterPlot(title=f"{name} by identified fraction", x=wr.Config("identified"), y=wr.SummaryMetric(name))
        for name in shown
    ]


def by_method() -> list[Any]:
    """Means and standard deviations over a method's runs."""
    return [
        wr.BarPlot(
            title=f"{name} by method",
            metrics=[wr.SummaryMetric(name)],
            groupby=wr.Config("method"),
            groupby_aggfunc="mean",
            groupby_rangefunc="stddev",
            orientation="v",
        )
        for name in (*ACCURACIES[:5], *COST)
    ]


def hyperparameters() -> list[Any]:
    """What was tuned, beside what it led to (paper, Figures 7 to 14)."""
    made: list[Any] = []
    for method, names in TUNED.items():
        tuned = [wr.ParallelCoordinatesPlotColumn(wr.Config(name), log=True) for name in names]
        reached = [wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(name)) for name in ("selection_score", "acc_corr")]
        made.append(wr.ParallelCoordinatesPlot(title=method, columns=[*tuned, *reached]))
    scatter = wr.ScatterPlot(
        title="trade-off of all runs", x=wr.SummaryMetric("acc_retain"), y=wr.SummaryMetric("acc_corr")
    )
    return [*made, scatter, wr.ParameterImportancePlot(with_respect_to="selection_score"), wr.RunComparer()]


def curves() -> list[Any]:
    """What was logged during training, by step."""
    return [wr.LinePlot(title=name, x="trainer/global_step", y=[name]) for name in SHOWN_WHILE_TRAINING]


def media() -> list[Any]:
    """The manipulated images, and the importance ratios of SSD's family (paper, Figure 3)."""
    return [wr.MediaBrowser(title=name, media_keys=[name]) for name in MEDIA]


SECTIONS = {
    "Accuracy": accuracies,
    "By method": by_method,
    "Hyperparameters": hyperparameters,
    "Training": curves,
    "Images and importances": media,
}
"""What a workspace and a report hold, in this order."""
