"""A report on Weights & Biases: one run of job type `report` with a study's tables and figures.

W&B itself draws no line for a method whose points are separate runs, so these are the report's own numbers and
pictures.
"""

import os
from pathlib import Path
from typing import Any

from cmu_lightning import __version__
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.wandb_settings import choose_mode, destination
from cmu_lightning.report.build import Drawing, Report

SECONDS = 60.0
"""Time that the client waits for a silent server, in seconds."""

LINES = ("acc_corr", "acc_manipulated")
"""Measurements that become W&B's own line charts too."""


def upload(report: Report, out: Path, rule: str, entity: str | None, project: str | None) -> None:
    """Send a report.

    Args:
        report: Its tables and figures.
        out: Its folder, with all figures drawn.
        rule: The rule by which hyperparameters were chosen.
        entity: User or team.
        project: W&B project of the runs.

    Raises:
        UserError: There is no key, or the server does not answer; the report itself is written.
    """
    import wandb

    mode = choose_mode(None)
    if mode in (None, "disabled"):
        raise UserError("--wandb needs a key for W&B: set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline")
    settings = list(dict.fromkeys(drawing.path.parent.name for drawing in report.drawings))
    try:
        with wandb.init(
            **destination(entity, project),
            job_type="report",
            name=f"report of {out.name}",
            config={"rule": rule, "settings": settings, "version": __version__},
            dir=os.environ.get("WANDB_DIR") or str(out),
            mode=mode,
            settings=wandb.Settings(
                init_timeout=SECONDS, finish_timeout=10 * SECONDS, finish_timeout_raises=True, silent=True
            ),
        ) as run:
            run.log(_tables(report) | _figures(report, out))
            run.save(str(out / "index.html"), base_path=str(out), policy="now")
    except (wandb.Error, OSError) as error:
        raise UserError(
            f"W&B cannot be reached ({first_line(error)}): the report is in {out}; give --wandb again, or set "
            "WANDB_MODE=offline"
        ) from error


def _tables(report: Report) -> dict[str, Any]:
    import wandb

    logged = {}
    for table in report.tables:
        flat = table.flat()
        rows: list[Any] = flat.to_numpy().tolist()
        logged[f"tables/{table.name}"] = wandb.Table(
            columns=[str(name) for name in flat], data=rows, allow_mixed_types=True
        )
    return logged


def _figures(report: Report, out: Path) -> dict[str, Any]:
    """Return every figure as a picture, and line figures also as W&B's own charts with the methods in the legend."""
    import wandb

    logged: dict[str, Any] = {}
    for drawing in report.drawings:
        folder, name = drawing.path.parent.name, drawing.path.name
        picture = (out / drawing.path).with_name(f"{name}.png")
        logged[f"{folder}/{name}"] = wandb.Image(str(picture), caption=drawing.figure.title)
        if name in LINES:
            logged[f"{folder} charts/{name}"] = _lines(report, drawing)
    return logged


def _lines(report: Report, drawing: Drawing) -> Any:
    import wandb

    name = drawing.figure.name
    comparison = next(each for each in report.comparisons if each.name == drawing.setting)
    curves = {method: comparison.curve(method, name) for method in comparison.methods}
    shown = {method: curve for method, curve in curves.items() if curve}
    return wandb.plot.line_series(
        xs=[list(curve) for curve in shown.values()],
        ys=[[each.mean for each in curve.values()] for curve in shown.values()],
        keys=list(shown),
        title=drawing.figure.title,
        xname="identified fraction of the manipulated samples",
    )
