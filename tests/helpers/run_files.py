"""Runs that are logged: what they leave in their folders, and what they have written for W&B."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cmu_lightning.experiment.run import DIGEST

SCRUB = ("--config", "unlearn/scrub.yaml", "--data.identified", "0.5", "--trainer.log_every_n_steps", "5")
CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5", "--trainer.log_every_n_steps", "5")


def folder(runs_dir: Path, method: str) -> Path:
    """Return the folder of the one run of a method.

    Args:
        runs_dir: Runs folder with runs of poison_digits.
        method: Class name.
    """
    (path,) = runs_dir.glob(f"poison_digits/{method}/*")
    return path


def metrics(runs_dir: Path, method: str) -> dict[str, Any]:
    """Return what metrics.json of the one run of a method holds.

    Args:
        runs_dir: Runs folder with runs of poison_digits.
        method: Class name.
    """
    content: dict[str, Any] = json.loads((folder(runs_dir, method) / "metrics.json").read_text())
    return content


def numbers(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of metrics.json that the same run has again.

    Args:
        stored: All entries.
    """
    return {key: value for key, value in stored.items() if key not in ("seconds", "environment", "config")}


def published(stored: dict[str, Any]) -> dict[str, Any]:
    """Return what W&B's summary holds of a metrics.json.

    Args:
        stored: All entries.
    """
    kept = {key: value for key, value in stored.items() if key != "config"}
    return kept | {"environment": {key: value for key, value in stored["environment"].items() if key != DIGEST}}


def records(folder: Path) -> list[dict[str, Any]]:
    """Return all records of the one offline run under a folder, as W&B's client reads them.

    Args:
        folder: Folder of a run.
    """
    (path,) = folder.rglob("*.wandb")
    command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]
