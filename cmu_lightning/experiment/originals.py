"""Which original an unlearner starts from, and how it comes about."""

import hashlib
import os
import subprocess
import sys
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.identity import digest, identity, say_what_changed
from cmu_lightning.experiment.run import ON_DEMAND, Run
from cmu_lightning.files import locked
from cmu_lightning.unlearning.baselines import Original
from cmu_lightning.unlearning.checkpoint import read_original
from cmu_lightning.unlearning.networks import tensors_digest
from cmu_lightning.unlearning.stage import RECORD

LAUNCHED = (
    "RANK",
    "LOCAL_RANK",
    "WORLD_SIZE",
    "LOCAL_WORLD_SIZE",
    "GROUP_RANK",
    "NODE_RANK",
    "MASTER_",
    "TORCHELASTIC_",
    "SLURM_NTASKS",
    "SLURM_PROCID",
    "SLURM_LOCALID",
    "PL_",
    "CMU_DECISION",
    "WANDB_RUN_ID",
    "WANDB_SWEEP",
)
"""Beginnings of the environment variables that say which process of which job this one is."""


def config_of_original(config: dict[str, Any], deletion: frozenset[str]) -> dict[str, Any]:
    """The resolved config of the original of an unlearner's resolved config."""
    seed = config["original_seed"]
    config = deepcopy(config)
    for key in deletion:
        config["data"]["init_args"].pop(key, None)
    config["model"] = {"class_path": "cmu_lightning.unlearning.Original", "init_args": {"seed": seed}}
    config["seed_everything"] = seed
    config["checkpoints"] = "all"
    config["trainer"] |= {"logger": None, "callbacks": None, "num_nodes": 1}
    return config


def original_of_config(
    config: dict[str, Any], deletion: frozenset[str], runs_dir: Path, content: dict[str, str]
) -> Run:
    """The run of the original of exactly this setting, whether it exists or not."""
    own = config_of_original(config, deletion)
    named = identity(own, Original.uses, deletion, None, content)
    return Run.at(runs_dir, config["setting"], Original.__name__, config["original_seed"], digest(named))


def original_at(path: str, runs_dir: Path) -> Run:
    """The run that a checkpoint belongs to.

    A foreign one, or one that was edited, has no folder but itself, and its hash is of its content.

    Raises:
        UserError: It is no checkpoint.
    """
    held = read_original(path)
    record = held.get(RECORD, {})
    if "weights" in record and record["weights"] != tensors_digest(held["state_dict"]):
        record = {}
    content = record.get("hash") or hashlib.sha256(Path(path).read_bytes()).hexdigest()[:10]
    folder = Path(path).parent if record else Path(path)
    return Run(folder, runs_dir, str(record.get("setting")), str(record.get("method")), content)


def find_or_train(run: Run, config: dict[str, Any], deletion: frozenset[str]) -> str:
    """The checkpoint of an original, trained by a `fit` of its own if it is not there.

    Several processes may ask at once: one has it trained, the others wait, which costs less than a process for each.

    Args:
        run: Run of the original.
        config: The unlearner's, resolved.
        deletion: Arguments of the data that say how S_f comes about.

    Raises:
        SystemExit: The original cannot be trained, which was said.
    """
    own = config_of_original(config, deletion)
    asked = run.runs_dir / ".locks" / f"{run.hash}.asked.lock"  # its own is for the process that trains it
    with locked(asked, str(run.folder), "give another --runs_dir"):
        if run.metrics is not None and not run.checkpoint.exists():
            with run.locked():
                (run.folder / "metrics.json").unlink(missing_ok=True)  # its weights were dropped, and are needed
        if run.metrics is not None:
            say_what_changed(run, own)
        else:
            _train(run, own | {"runs_dir": str(run.runs_dir)})
    return str(run.checkpoint)


def _train(run: Run, config: dict[str, Any]) -> None:
    """In a process of its own."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file, sort_keys=False)
        file.flush()
        command = [sys.executable, "-m", "cmu_lightning", "fit", "--config", file.name]
        alone = {key: value for key, value in os.environ.items() if not key.startswith(LAUNCHED)}
        code = subprocess.run(command, env=alone | {ON_DEMAND: "1"}, check=False).returncode
    if code == 2:
        raise SystemExit(2)
    if code:
        raise UserError(
            f"training the original {run.folder} ended with code {code}: run the same command again to go on"
        )
