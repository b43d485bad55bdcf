"""From a finished stage to `metrics.json` and the table on the screen."""

import hashlib
import json
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import lightning
import torch
import torchmetrics
import torchvision
from lightning.pytorch import Trainer
from rich.console import Console
from rich.table import Table

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.experiment.identity import own_sources
from cmu_lightning.experiment.run import MEASURED, OF_DISCOVERY, Run
from cmu_lightning.unlearning.stage import Stage

SHOWN = MEASURED | OF_DISCOVERY


def described(
    stage: Stage, data: CorruptedDataModule, config: dict[str, Any], run: Run, original: Run | None
) -> dict[str, Any]:
    """The first part of `metrics.json`: what a run is, known once its data are there.

    Args:
        stage: Stage of the run.
        data: What it runs on.
        config: Resolved.
        run: Run of the stage.
        original: What the stage starts from; None if it is one itself.
    """
    own = dict(config["model"].get("init_args", {}))
    seeds = {"original_seed": config["original_seed"], "manipulation_seed": data.manipulation.seed}
    manipulated = int(data.samples.manipulated.sum())
    known: dict[str, Any] = {"manipulated": manipulated} if manipulated else {}
    if len(validated := data.validation.given_labels):  # what a network that always gives one class can get right
        known["val_majority"] = int(validated.bincount().max()) / len(validated)
    of_unlearner: dict[str, Any] = {}
    if original is not None:
        started = original.metrics or {}  # one given by its path was made with a seed of its own
        seeds["original_seed"] = started.get("original_seed", config["original_seed"])
        seeds |= {"model_seed": stage.seed, "data_seed": data.seed}
        of_unlearner = {"identified": data.identified} if manipulated else {}
        of_unlearner |= {"deleted": int(data.samples.deleted.sum()), "original": original.hash}
        of_unlearner |= of_content(data)
        of_unlearner |= of_discovery(data)
    return {
        "setting": run.setting,
        "dataset": data.dataset,
        "model": type(stage.network).__name__,
        "manipulation": type(data.manipulation).__name__,
        "method": run.method,
        **known,
        **of_unlearner,
        "seed": config["seed_everything"],
        **seeds,
        "hyperparameters": {key: value for key, value in own.items() if key not in ("seed", "original")},
        "hash": run.hash,
        "fingerprint": data.fingerprint,
    }


def metrics_of(stage: Stage, description: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """The content of `metrics.json`.

    Args:
        stage: Trained and tested.
        description: From `described`.
        config: Resolved.
    """
    source = own_sources(config)
    return {
        **description,
        **stage.results,
        "seconds": stage.seconds,
        "samples_forward": stage.samples_forward,
        "samples_backward": stage.samples_backward,
        "environment": environment(stage.trainer) | ({"source": source} if source else {}),
    }


def of_content(data: CorruptedDataModule) -> dict[str, str]:
    """A digest of a user's own files; only where there are some."""
    content = json.dumps(data.content(), sort_keys=True)
    return {"content": hashlib.sha256(content.encode()).hexdigest()[:10]} if data.content() else {}


def of_discovery(data: CorruptedDataModule) -> dict[str, float]:
    """How much of S_f is manipulated and how much of S_m was found; only where a discovery is given, and S_m known."""
    manipulated, deleted = data.samples.manipulated, data.samples.deleted
    if not manipulated.any():
        return {}
    right, wrong = int((deleted & manipulated).sum()), int((deleted & ~manipulated).sum())
    told: dict[str, float] = {"false_positives": wrong} if wrong else {}
    if data.discovery is None:
        return told
    return told | {
        "discovery_precision": right / (right + wrong),
        "discovery_recall": right / int(manipulated.sum()),
    }


def environment(trainer: Trainer) -> dict[str, Any]:
    """Where and with what a run was made."""
    device = trainer.strategy.root_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "lightning": lightning.__version__,
        "torchmetrics": torchmetrics.__version__,
        "device": f"{device.type} {name}".strip(),
        "world_size": trainer.world_size,
        "threads": torch.get_num_threads(),
        "cpus": os.cpu_count(),
        "precision": str(trainer.precision),
        "revision": revision(),
    }


def revision() -> str | None:
    """The git revision of this package's checkout, or None."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def differences(now: dict[str, float], stored: dict[str, Any]) -> list[str]:
    """Names of measurements that are not the stored ones."""
    names = [name for name in SHOWN if name in now or name in stored]
    return [name for name in names if name not in now or name not in stored or abs(now[name] - stored[name]) > 1e-12]


def show(title: str, columns: dict[str, dict[str, Any]]) -> None:
    """Print runs' measurements side by side.

    Args:
        title: Above the table.
        columns: Measurements by the name of their column.
    """
    table = Table()
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name, label in SHOWN.items():
        if any(name in column for column in columns.values()):
            cells = [_written(column[name]) if name in column else "" for column in columns.values()]
            table.add_row(label, *cells)
    console = Console()
    console.print(title, soft_wrap=True, markup=False, highlight=False)  # a path that is not broken can be copied
    console.print(table)


def _written(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.4f}"
