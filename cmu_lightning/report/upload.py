"""A report on Weights & Biases: one run of job type `report` with a study's tables and charts.

W&B itself draws no line a method with one run a point; these are the report's own numbers and pictures.
"""

import os
from pathlib import Path
from typing import Any

from cmu_lightning import __version__
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.wandb_settings import choose_mode, destination
from cmu_lightning.report.pictures.chart import Chart
from cmu_lightning.report.tables.table import flat
from cmu_lightning.report.write import Written

SECONDS = 60.0
"""How long the client waits for a silent server."""


def upload(written: Written, out: Path, rule: str, entity: str | None, project: str | None) -> None:
    """Send a report.

    Args:
        written: Its tables and charts.
        out: Its folder, with all figures drawn.
        rule: By which hyperparameters were chosen.
        entity: User or team.
        project: W&B project of the runs.

    Raises:
        UserError: There is no key, or the server does not answer; the report itself is written.
    """
    import wandb

    mode = choose_mode(None)
    if mode in (None, "disabled"):
        raise UserError("--wandb needs a key for W&B: set WANDB_API_KEY, run `wandb login`, or set WANDB_MODE=offline")
    try:
        with wandb.init(
            **destination(entity, project),
            job_type="report",
            name=f"report of {out.name}",
            config={"rule": rule, "settings": list(written.charts), "version": __version__},
            dir=os.environ.get("WANDB_DIR") or str(out),
            mode=mode,
            settings=wandb.Settings(
                init_timeout=SECONDS, finish_timeout=10 * SECONDS, finish_timeout_raises=True, silent=True
            ),
        ) as run:
            run.log(_tables(written) | _charts(written, out))
            run.save(str(out / "index.html"), base_path=str(out), policy="now")
    except (wandb.Error, OSError) as error:
        raise UserError(
            f"W&B cannot be reached ({first_line(error)}): the report is in {out}; give --wandb again, or set "
            "WANDB_MODE=offline"
        ) from error


def _tables(written: Written) -> dict[str, Any]:
    import wandb

    logged = {}
    for table in written.tables:
        head, *rows = flat(table)
        logged[f"tables/{table.name}"] = wandb.Table(
            columns=[str(name) for name in head], data=rows, allow_mixed_types=True
        )
    return logged


def _charts(written: Written, out: Path) -> dict[str, Any]:
    """Every figure as a picture, and those of lines as W&B's own charts too, with the methods in the legend."""
    import wandb

    logged: dict[str, Any] = {}
    for folder, charts in written.charts.items():
        for chart in charts:
            picture = out / "figures" / folder / f"{chart.name}.png"
            logged[f"{folder}/{chart.name}"] = wandb.Image(str(picture), caption=chart.title)
            if isinstance(chart, Chart) and chart.kind == "lines" and chart.series:
                logged[f"{folder} charts/{chart.name}"] = _lines(chart)
    return logged


def _lines(chart: Chart) -> Any:
    import wandb

    return wandb.plot.line_series(
        xs=[[point.x for point in series.points] for series in chart.series],
        ys=[[point.y for point in series.points] for series in chart.series],
        keys=[series.name for series in chart.series],
        title=chart.title,
        xname=chart.x.label,
    )
