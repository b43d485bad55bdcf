"""The original of an unlearner: found by its identity, and trained if it is missing."""

import hashlib
import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.console import say
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.identity import digest, identity, warn_of_edited_sources
from cmu_lightning.experiment.run import ON_DEMAND, Run
from cmu_lightning.files import locked, write_atomically
from cmu_lightning.unlearning.baselines import Original
from cmu_lightning.unlearning.checkpoint import is_damaged, read_checkpoint, read_original
from cmu_lightning.unlearning.networks import tensors_digest
from cmu_lightning.unlearning.stage import RECORD

OF_JOB = (
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
"""Prefixes of environment variables that identify this process within a job or a trial."""


def config_of_original(config: dict[str, Any], deletion: frozenset[str]) -> dict[str, Any]:
    """Return the resolved config of an unlearner's original.

    Args:
        config: Resolved config of the unlearner, as plain data.
        deletion: Arguments of the data that decide S_f.
    """
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
    config: dict[str, Any],
    deletion: frozenset[str],
    runs_dir: Path,
    content: dict[str, str],
    splits_statistics: bool = False,
) -> Run:
    """Return the run of the original of exactly this setting, whether it exists or not.

    Args:
        config: Resolved config of the unlearner, as plain data.
        deletion: Arguments of the data that decide S_f.
        runs_dir: Runs folder.
        content: Digests of the files at paths among the arguments of the data.
        splits_statistics: Whether each process trains with batch statistics of its own.
    """
    own = config_of_original(config, deletion)
    named = identity(own, Original.uses, deletion, None, content, splits_statistics)
    return Run.at(runs_dir, config["setting"], Original.__name__, config["original_seed"], digest(named))


def original_at(path: str, runs_dir: Path, key: str | None = None) -> Run:
    """Return the run that a checkpoint belongs to.

    A foreign checkpoint, or one whose weights were edited, is a separate run: its folder is the file, and
    its hash is computed from the file's content.

    Args:
        path: Path of the checkpoint.
        runs_dir: Runs folder.
        key: Key of the weights in it, if they are not found automatically.

    Raises:
        UserError: The file is no checkpoint.
    """
    held = read_original(path, key)
    record = held.get(RECORD, {})
    if "weights" in record and record["weights"] != tensors_digest(held["state_dict"]):
        record = {}
    content = record.get("hash") or hashlib.sha256(Path(path).read_bytes()).hexdigest()[:10]
    folder = Path(path).parent if record else Path(path)
    return Run(folder, runs_dir, str(record.get("setting")), str(record.get("method")), content)


def find_or_train(run: Run, config: dict[str, Any], deletion: frozenset[str]) -> str:
    """Return the checkpoint of an original, trained by a separate `fit` if it is missing.

    Args:
        run: Run of the original.
        config: Resolved config of the unlearner, as plain data.
        deletion: Arguments of the data that decide S_f.

    Raises:
        SystemExit: A mistake of the user prevents the training of the original, and was reported.
        UserError: Training the original failed.
    """
    own = config_of_original(config, deletion)
    # Several processes may ask at once: one starts the training, and the others wait here without starting a process
    # each. The process that trains holds the run's own lock.
    asked = run.runs_dir / ".locks" / f"{run.hash}.asked.lock"
    with locked(asked, str(run.folder), "give another --runs_dir"):
        if run.metrics is not None and not _has_own_weights(run):
            # The weights are needed, but were dropped or are no longer those that were trained. Without results the
            # run counts as unfinished, and its training starts from the beginning.
            with run.locked():
                (run.folder / "metrics.json").unlink(missing_ok=True)
        if run.metrics is not None:
            warn_of_edited_sources(run, own)
        else:
            _train(run, own | {"runs_dir": str(run.runs_dir)})
    return str(run.checkpoint)


def _has_own_weights(run: Run) -> bool:
    """Return whether a finished run's checkpoint is there, whole, and its own; one of another run is removed."""
    if not run.checkpoint.exists() or is_damaged(run.checkpoint):
        return False
    if read_checkpoint(run.checkpoint).get(RECORD, {}).get("hash", run.hash) == run.hash:
        return True
    say(f"{run.checkpoint} is damaged, because it belongs to another run: this original is trained again")
    run.checkpoint.unlink()
    return False


def _train(run: Run, config: dict[str, Any]) -> None:
    """Train an original in a separate process, so that it is exactly what `fit` of its config leaves.

    The process ends with this one, whatever the reason. Its config is stored next to the locks, under a name that the
    next attempt uses again.
    """
    path = run.runs_dir / ".locks" / f"{run.hash}.yaml"
    write_atomically(path, yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "cmu_lightning.experiment.on_demand", "fit", "--config", str(path)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(OF_JOB)}
    try:
        # Not `subprocess.run`, which would close the child's standard input at once.
        with subprocess.Popen(command, env=environment | {ON_DEMAND: "1"}, stdin=subprocess.PIPE) as child:
            code = child.wait()
    finally:
        path.unlink(missing_ok=True)
    if code == 2:
        raise SystemExit(2)
    if code:
        raise UserError(
            f"training the original {run.folder} ended with code {code}: run the same command again to continue"
        )
