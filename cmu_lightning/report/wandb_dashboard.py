"""`python -m cmu_lightning dashboard --entity E --project P`: a workspace and a report on W&B from the same panels.

Every run logs the names that panels refer to; a test compares them with real runs.
"""

import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from cmu_lightning.console import PlainConsole
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.run import COST, CURVES
from cmu_lightning.experiment.wandb_settings import destination
from cmu_lightning.parsing import Parser, read_env

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

NAME = "Corrective unlearning"
ACCURACIES = (
    "acc_corr",
    "acc_retain",
    "acc_manipulated",
    "acc_identified",
    "acc_unidentified",
    "val_acc",
    "changed",
    "selection_score",
)
SHOWN_WHILE_TRAINING = (*CURVES, "val_acc", "changed", "selection_score")
MEDIA = ("manipulated_images", "importance_ratios")
IDENTITY = ("setting", "method", "identified", "seed")
TUNED = {"Scrub": ("distill",), "SSD": ("selection", "dampening_ratio")}
"""Hyperparameters of the methods that the paper tunes."""
PINNED = [f"config:{name}.value" for name in IDENTITY] + [f"summary:{name}" for name in ACCURACIES]


def accuracies() -> list[Any]:
    """Return one point per run, by the identified fraction (paper, Figures 2 and 4 to 6); W&B draws no lines."""
    import wandb_workspaces.reports.v2 as wr

    shown = ("acc_corr", "acc_retain", "selection_score")
    return [
        wr.ScatterPlot(title=f"{name} by identified fraction", x=wr.Config("identified"), y=wr.SummaryMetric(name))
        for name in shown
    ]


def by_method() -> list[Any]:
    """Return means and standard deviations over a method's runs."""
    import wandb_workspaces.reports.v2 as wr

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
    """Return the tuned hyperparameters next to the results (paper, Figures 7 to 14)."""
    import wandb_workspaces.reports.v2 as wr

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
    """Return the values logged during training, by step."""
    import wandb_workspaces.reports.v2 as wr

    return [wr.LinePlot(title=name, x="trainer/global_step", y=[name]) for name in SHOWN_WHILE_TRAINING]


def media() -> list[Any]:
    """Return the manipulated images, and the importance ratios of SSD's family (paper, Figure 3)."""
    import wandb_workspaces.reports.v2 as wr

    return [wr.MediaBrowser(title=name, media_keys=[name]) for name in MEDIA]


SECTIONS: dict[str, Callable[[], list[Any]]] = {
    "Accuracy": accuracies,
    "By method": by_method,
    "Hyperparameters": hyperparameters,
    "Training": curves,
    "Images and importances": media,
}
"""The parts of a workspace and of a report, in this order."""


def workspace(entity: str, project: str, setting: str | None) -> "ws.Workspace":
    """Return a workspace of all runs of a project, or of one setting, grouped by method.

    Args:
        entity: User or team.
        project: W&B project of the runs.
        setting: The setting to show; None shows all.
    """
    import wandb_workspaces.workspaces as ws

    return ws.Workspace(
        entity=entity,
        project=project,
        name=f"{NAME}: {setting}" if setting else NAME,
        sections=[ws.Section(name=name, panels=panels(), is_open=True) for name, panels in SECTIONS.items()],
        settings=ws.WorkspaceSettings(x_axis="trainer/global_step", max_runs=1000),
        runset_settings=ws.RunsetSettings(
            filters=of_setting(setting),
            groupby=[ws.Config("method")],
            pinned_columns=PINNED,
        ),
    )


def report(entity: str, project: str, setting: str | None) -> "wr.Report":
    """Return the same panels under headings, as a page to share.

    Args:
        entity: User or team.
        project: W&B project of the runs.
        setting: The setting to show; None shows all.
    """
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in SECTIONS.items():
        runset = wr.Runset(name=setting or "all runs", filters=of_setting(setting))
        blocks += [wr.H1(text=name), wr.PanelGrid(runsets=[runset], panels=panels())]
    return wr.Report(entity=entity, project=project, title=NAME, description=setting or "", blocks=blocks)


def of_setting(setting: str | None) -> str:
    """Return the filter for a setting; an empty one for all.

    Args:
        setting: Name of the setting.
    """
    return f"Config('setting') == '{setting}'" if setting else ""


def as_json(made: "ws.Workspace | wr.Report") -> str:
    """Return the data that saving sends.

    Args:
        made: A workspace or a report.
    """
    spec = made._to_model().spec
    text: str = spec if isinstance(spec, str) else spec.model_dump_json(by_alias=True, exclude_none=True)
    return text


def parser() -> Parser:
    """Return the command's parser."""
    made = Parser("dashboard", "A workspace and a report on Weights & Biases.")
    made.add_argument("--entity", required=True, help="User or team.")
    made.add_argument("--project", required=True, help="Project of the runs.")
    made.add_argument("--setting", help="Show only the runs of this setting, such as poison_cifar10.")
    made.add_argument("--json", action="store_true", help="Print what would be sent; no key is needed.")
    return made


def main(arguments: Sequence[str]) -> int:
    """Run the command, and return its exit code.

    Args:
        arguments: Without the word dashboard.

    Raises:
        UserError: The arguments cannot work, there is no key, or the server refuses.
    """
    given = parser().parse_args(list(arguments))
    if given.setting is not None and not re.fullmatch(r"\w[\w.-]*", given.setting):
        raise UserError(f"--setting {given.setting} is no name of a setting: give one such as poison_cifar10")
    try:
        import wandb_workspaces  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(f"dashboards need {error.name}: pip install '.[dashboards]' in a checkout") from error
    destination(given.entity, given.project)  # refuses what is no name
    made = [make(given.entity, given.project, given.setting) for make in (workspace, report)]
    if given.json:
        specs = dict(zip(("workspace", "report"), (json.loads(as_json(each)) for each in made), strict=True))
        print(json.dumps(specs, indent=2))
        return 0
    _save(made)
    return 0


def _save(made: list[Any]) -> None:
    import wandb

    from cmu_lightning.experiment.wandb_settings import has_key

    read_env()
    if not has_key():
        raise UserError("dashboard needs a key for W&B: set WANDB_API_KEY, run `wandb login`, or give --json")
    try:
        for each in made:
            each.save()
            PlainConsole(soft_wrap=True).print(each.url)
    except (wandb.Error, OSError, ValueError) as error:
        raise UserError(f"W&B did not take the dashboard ({first_line(error)}): is it reachable?") from error
