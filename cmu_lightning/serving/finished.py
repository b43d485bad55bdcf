"""The folder of a finished run, looked at before torch is needed."""

import shlex
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics

EXAMPLE = "runs/poison_digits/SSD/0-0123456789"


def read_finished(folder: Path) -> dict[str, Any]:
    """The results of a finished run that still has its weights.

    Raises:
        UserError: The folder is not such a run's.
    """
    if not folder.is_dir():
        raise UserError(f"there is no run folder {folder}: give one such as {EXAMPLE}")
    if not (folder / "config.yaml").exists():
        raise UserError(f"{folder} is not a run: it has no config.yaml; give one such as {EXAMPLE}")
    stored = read_metrics(folder)
    if stored is None:
        raise UserError(f"{folder} has not finished: run `{again(folder)}`, which goes on with it")
    if not (folder / "last.ckpt").exists():
        raise UserError(
            f"{folder} has no weights, for its last.ckpt was dropped: delete its metrics.json and run "
            f"`{again(folder)} --checkpoints all`, which makes them again"
        )
    return stored


def runs_dir_of(folder: Path) -> Path:
    """The runs folder, RUNS_DIR/<setting>/<method>/<seed>-<hash> being a run's."""
    return folder.resolve().parent.parent.parent


def again(folder: Path) -> str:
    """The command that makes a run, or what of it is missing."""
    config, runs_dir = (shlex.quote(str(path)) for path in (folder / "config.yaml", runs_dir_of(folder)))
    return f"python -m cmu_lightning fit --config {config} --runs_dir {runs_dir}"
