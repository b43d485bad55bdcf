"""A finished stage as `metrics.json`, and as a table on the screen."""

import hashlib
import json
import os
import platform
import subprocess
from math import isnan
from pathlib import Path
from typing import Any

import lightning
import torch
import torchmetrics
import torchvision
from lightning.pytorch import Trainer
from rich.table import Table
from torch import nn

from cmu_lightning.console import NOTES, PlainConsole
from cmu_lightning.data import CorruptedDataModule, Flagged
from cmu_lightning.experiment.identity import OPTIONAL_OF_MODEL, count_cpu_processes, digest_sources
from cmu_lightning.experiment.run import MEASURED, OF_DISCOVERY, Run
from cmu_lightning.unlearning.candidates import ChoosingUnlearner
from cmu_lightning.unlearning.networks import has_batch_norm
from cmu_lightning.unlearning.stage import Stage

SHOWN = MEASURED | OF_DISCOVERY
ADDED = frozenset({"acc_pair"})
"""Measurements that runs of earlier versions lack."""


def describe_run(
    stage: Stage, data: CorruptedDataModule, config: dict[str, Any], run: Run, original: Run | None
) -> dict[str, Any]:
    """Return the first part of `metrics.json`: the description of a run, known once its data have been set up.

    Args:
        stage: Stage of the run.
        data: Data of the stage.
        config: Resolved config, as plain data.
        run: Run of the stage.
        original: Run that the stage starts from; None for an original.
    """
    own = dict(config["model"].get("init_args", {}))
    not_tuned = ("seed", "original", *OPTIONAL_OF_MODEL)
    manipulated = int(data.samples.manipulated.sum())
    counts: dict[str, Any] = {"manipulated": manipulated} if manipulated else {}
    # The accuracy of always predicting the most frequent class; `repair` calls a model destroyed by comparing with it.
    if len(validated := data.validation.given_labels):
        counts["val_majority"] = int(validated.bincount().max()) / len(validated)
    # One process and N give the same numbers, except with batch statistics of N parts.
    if stage.trains and splits_statistics(config["trainer"], stage.network):
        processes = count_cpu_processes(config["trainer"])
        counts |= {"processes": processes} if processes > 1 else {}
    seeds = {"original_seed": config["original_seed"], "manipulation_seed": data.manipulation.seed}
    of_unlearner: dict[str, Any] = {}
    if original is not None:
        # An original that was given by its path may have been trained with another seed.
        stored = original.metrics or {}
        seeds["original_seed"] = stored.get("original_seed", config["original_seed"])
        seeds |= {"model_seed": stage.seed, "data_seed": data.seed}
        of_unlearner = {"identified": data.identified} if manipulated else {}
        of_unlearner |= {"deleted": int(data.samples.deleted.sum()), "original": original.hash}
        of_unlearner |= digest_content(data)
        of_unlearner |= count_corrections(data)
        of_unlearner |= measure_discovery(data)
    return {
        "setting": run.setting,
        "dataset": data.dataset,
        "model": type(stage.network).__name__,
        "manipulation": type(data.manipulation).__name__,
        "method": run.method,
        **counts,
        **of_unlearner,
        "seed": config["seed_everything"],
        **seeds,
        "hyperparameters": {key: value for key, value in own.items() if key not in not_tuned},
        "hash": run.hash,
        "fingerprint": data.fingerprint,
    }


def splits_statistics(trainer: dict[str, Any], network: nn.Module) -> bool:
    """Return whether each process trains with its own batch statistics, as batch norm does on a CPU.

    Args:
        trainer: Options of the Trainer, as plain data.
        network: Network of the stage.
    """
    is_on_cpu = trainer.get("accelerator") == "cpu" or not torch.cuda.is_available()
    return is_on_cpu and has_batch_norm(network)


def describe_source(data: CorruptedDataModule) -> str:
    """Return a line about the data that are about to be loaded.

    Args:
        data: Data of a run.
    """
    return f"loading {data.dataset}" + (f" from {data.root}" if data.root.exists() else "")


def describe_sizes(stage: Stage) -> str:
    """Return the numbers of samples of each kind, as one line.

    Args:
        stage: Stage whose data have been set up.
    """
    samples, validation = stage.data.samples, len(stage.data.validation.given_labels)
    sizes = [f"|S_tr| = {len(samples.given_labels):,}"]
    if samples.manipulated.any():
        sizes.append(f"|S_m| = {int(samples.manipulated.sum()):,} manipulated")
    if stage.unlearns:
        sizes.append(f"|S_f| = {int(samples.deleted.sum()):,} identified")
    return f"{', '.join(sizes)}; {validation:,} validation samples"


def collect_metrics(stage: Stage, description: dict[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """Return the content of `metrics.json`.

    Args:
        stage: Stage that was trained and tested.
        description: Result of `describe_run`.
        config: Resolved config, as plain data.
    """
    sources = digest_sources(config)
    return {
        **description,
        **stage.results,
        **({"chosen": stage.chosen} if isinstance(stage, ChoosingUnlearner) and stage.chosen else {}),
        **({"notes": list(NOTES)} if NOTES else {}),
        "seconds": stage.seconds,
        "samples_forward": stage.samples_forward,
        "samples_backward": stage.samples_backward,
        "environment": describe_environment(stage.trainer) | ({"source": sources} if sources else {}),
        "config": config,
    }


def digest_content(data: CorruptedDataModule) -> dict[str, str]:
    """Return a digest of the user's own files among the data as `content`; nothing where there are none."""
    content = json.dumps(data.content(), sort_keys=True)
    return {"content": hashlib.sha256(content.encode()).hexdigest()[:10]} if data.content() else {}


def count_corrections(data: CorruptedDataModule) -> dict[str, int]:
    """Return how many samples of S_f have a corrected label, as `corrected`; nothing where the list gives none.

    Args:
        data: Data of a stage, set up.
    """
    if not isinstance(data.discovery, Flagged) or data.discovery.corrected is None:
        return {}
    return {"corrected": int((data.samples.deleted.cpu() & (data.discovery.corrected[~data.held] >= 0)).sum())}


def measure_discovery(data: CorruptedDataModule) -> dict[str, float]:
    """Return how well S_f agrees with S_m; nothing where S_m is not known.

    precision = |S_f and S_m| / |S_f|, recall = |S_f and S_m| / |S_m|, false positives = |S_f without S_m|. The first
    two describe a discovery. If S_f is a given fraction of S_m, only false positives are returned, if there are any.

    Args:
        data: Data of a stage, set up.
    """
    manipulated, deleted = data.samples.manipulated, data.samples.deleted
    if not manipulated.any():
        return {}
    right, wrong = int((deleted & manipulated).sum()), int((deleted & ~manipulated).sum())
    measured: dict[str, float] = {"false_positives": wrong} if wrong else {}
    if data.discovery is None:
        return measured
    return measured | {
        "discovery_precision": right / (right + wrong),
        "discovery_recall": right / int(manipulated.sum()),
    }


def describe_environment(trainer: Trainer) -> dict[str, Any]:
    """Return the machine and the versions with which a run was made.

    Args:
        trainer: Trainer of the run.
    """
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
        "revision": read_revision(),
    }


def read_revision() -> str | None:
    """Return the git revision of the checkout that contains this package; None without a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def find_differences(now: dict[str, float], stored: dict[str, Any]) -> list[str]:
    """Return the names of measurements that are not the stored ones.

    A missing value differs from every value, even from NaN, and NaN differs from every number. A measurement that
    the version of a stored run did not have does not count as different.

    Args:
        now: Measurements.
        stored: Content of a `metrics.json`.

    >>> find_differences({"acc_corr": 0.5, "val_acc": 1.0}, {"acc_corr": 0.5, "val_acc": 0.9})
    ['val_acc']
    """
    names = [name for name in SHOWN if name in stored or (name in now and name not in ADDED)]
    return [name for name in names if name not in now or name not in stored or not _is_same(now[name], stored[name])]


def _is_same(now: float, stored: Any) -> bool:
    """Return whether a stored value is the measured one, up to the rounding of its text."""
    if not isinstance(stored, int | float) or isnan(now) or isnan(stored):
        return isinstance(stored, float) and isnan(now) and isnan(stored)
    return now == stored or abs(now - stored) <= 1e-12


def print_columns(title: str, columns: dict[str, dict[str, Any]]) -> None:
    """Print measurements of several runs side by side.

    Args:
        title: Line above the table.
        columns: Measurements, by the heading of their column.
    """
    table = Table()
    table.add_column("")
    table.add_column("name", no_wrap=True)
    for heading in columns:
        table.add_column(heading, justify="right", no_wrap=True)
    for name, label in SHOWN.items():
        if any(name in column for column in columns.values()):
            cells = [_format_value(column[name]) if name in column else "" for column in columns.values()]
            table.add_row(label.removesuffix(f" ({name})"), name, *cells)
    console = PlainConsole()
    console.print(title, soft_wrap=True, highlight=False)  # a path in one line can be copied
    console.print(table)
    for heading, column in columns.items():
        if chosen := column.get("chosen"):
            values = ", ".join(f"{name}={value:g}" for name, value in chosen.items())
            console.print(f"{heading} has chosen {values}", soft_wrap=True, highlight=False)


def _format_value(value: float) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)
