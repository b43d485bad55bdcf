"""A workspace and a report from the same panels."""

from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from cmu_lightning.dashboard.keys import ACCURACIES, IDENTITY
from cmu_lightning.dashboard.panels import SECTIONS

NAME = "Corrective unlearning"
PINNED = [f"config:{name}.value" for name in IDENTITY] + [f"summary:{name}" for name in ACCURACIES]


def workspace(entity: str, project: str, setting: str | None) -> ws.Workspace:
    """All runs of a project, or of one setting, grouped by method.

    Args:
        entity: User or team.
        project: W&B project of the runs.
        setting: Shown alone; None for all.
    """
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


def report(entity: str, project: str, setting: str | None) -> wr.Report:
    """The same panels under headings, as a page to share."""
    blocks: list[Any] = [wr.TableOfContents()]
    for name, panels in SECTIONS.items():
        runset = wr.Runset(name=setting or "all runs", filters=of_setting(setting))
        blocks += [wr.H1(text=name), wr.PanelGrid(runsets=[runset], panels=panels())]
    return wr.Report(entity=entity, project=project, title=NAME, description=setting or "", blocks=blocks)


def of_setting(setting: str | None) -> str:
    """The filter for a setting; none for all."""
    return f"Config('setting') == '{setting}'" if setting else ""


def as_json(made: ws.Workspace | wr.Report) -> str:
    """What saving sends."""
    spec = made._to_model().spec
    text: str = spec if isinstance(spec, str) else spec.model_dump_json(by_alias=True, exclude_none=True)
    return text
