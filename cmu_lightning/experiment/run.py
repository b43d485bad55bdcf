"""Run folders, the names of measurements, and variables that processes of a run inherit; without torch."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import digest_of, locked, parse_json, write_json

MEASURED = {
    "acc_corr": "affected domain, unseen: accuracy (acc_corr)",
    "acc_corr_nontarget": "  the same without the target class",
    "asr": "  attack success rate",
    "acc_pair": "  choice between the two confused classes",
    "acc_retain": "unaffected domain, unseen: accuracy (acc_retain)",
    "acc_manipulated": "manipulated training samples S_m, true labels",
    "acc_identified": "  the identified ones",
    "acc_unidentified": "  the others",
    "val_acc": "validation accuracy",
    "val_acc_matched": "  in the class mix of S_f",
    "fit_identified": "agreement with the given labels on S_f",
    "fit_retain": "agreement with the given labels on retain",
    "changed": "fraction of S_f with another prediction",
    "selection_score": "selection score",
}
"""Fractions in a `metrics.json`, and how the table on the screen names them."""

OF_DISCOVERY = {
    "false_positives": "clean samples in S_f",
    "discovery_precision": "fraction of S_f that is manipulated",
    "discovery_recall": "fraction of S_m that is in S_f",
}
"""The quality of a discovery in a `metrics.json`, and how the table on the screen names it."""

COST = ("seconds", "samples_forward", "samples_backward")
CURVES = ("train_loss", "forget_loss", "retain_loss", "learning_rate")
"""Measurements that are logged while a stage trains."""

ROWS = "csv"
"""Folder of a run's logged rows: one `version_N/metrics.csv` for each start of the run."""

DIGEST = "digest"
"""Key in the `environment` of a `metrics.json`: a digest of everything else in the file."""

ON_DEMAND = "CMU_ON_DEMAND"
"""Environment variable of a process that trains the original which an unlearner's command needs."""

KEEP_WEIGHTS = "CMU_KEEP_WEIGHTS"
"""Environment variable that makes runs keep their weights, whatever `checkpoints` says."""


@dataclass(frozen=True)
class Run:
    """A run's folder, `RUNS_DIR/<setting>/<method>/<seed>-<hash>`, and the parts of its name.

    Args:
        folder: Folder of the run, whether it exists or not.
        runs_dir: Runs folder.
        setting: Name of the setting.
        method: Class name of the stage.
        hash: Digest of the run's identity.
    """

    folder: Path
    runs_dir: Path
    setting: str
    method: str
    hash: str

    @classmethod
    def at(cls, runs_dir: Path, setting: str, method: str, seed: int, digest: str) -> "Run":
        """Return the run of a hash, where it is or will be.

        Args:
            runs_dir: Runs folder.
            setting: Name of the setting.
            method: Class name of the stage.
            seed: Seed in the name of a new folder; an existing run is found under any seed.
            digest: Digest of the run's identity.

        >>> str(Run.at(Path("runs"), "mine", "SSD", 0, "0123456789").folder)
        'runs/mine/SSD/0-0123456789'
        """
        parent = runs_dir / setting / method
        folder = next(iter(sorted(parent.glob(f"*-{digest}"))), parent / f"{seed}-{digest}")
        return cls(folder, runs_dir, setting, method, digest)

    @classmethod
    def of(cls, folder: Path, digest: str) -> "Run":
        """Return the run of a folder.

        Args:
            folder: Folder in a runs folder.
            digest: Digest of the run's identity.
        """
        return cls(folder, folder.parents[2], folder.parents[1].name, folder.parent.name, digest)

    @property
    def checkpoint(self) -> Path:
        """Path of the last checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def config(self) -> Path:
        """Path of the resolved config."""
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The results; None if the run has not finished."""
        return read_metrics(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock this run for this process; wait while another process works on it, and show that.

        Raises:
            UserError: The runs folder cannot be written.
        """
        with locked(self.runs_dir / ".locks" / f"{self.hash}.lock", str(self.folder), "give another --runs_dir"):
            yield


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """Return the content of a run's `metrics.json` without its digest; None if the run has not finished.

    Args:
        folder: Folder of the run.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / "metrics.json"
    try:
        stored: dict[str, Any] = parse_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError:
        stored = {}
    if not isinstance(stored, dict) or "hash" not in stored:
        raise UserError(f"{path} is damaged: delete it, and the run's numbers are measured again")
    if not take_digest(stored):
        raise UserError(
            f"{path} is damaged or edited, because its digest does not agree: delete it, and the run's numbers are "
            "measured again, or delete the digest in it if the edit is yours"
        )
    return stored


def write_metrics(folder: Path, metrics: dict[str, Any]) -> None:
    """Write a run's `metrics.json` with a digest of its content, which reveals damage.

    The digest is a part of `environment`, because it also covers seconds and the machine: a repeated run has the same
    numbers and another digest.

    Args:
        folder: Folder of the run.
        metrics: Its results, as plain data.
    """
    plain: dict[str, Any] = json.loads(json.dumps(metrics))
    plain.setdefault("environment", {})
    take_digest(plain)
    plain["environment"][DIGEST] = digest_of(plain)
    write_json(folder / "metrics.json", plain)


def take_digest(metrics: dict[str, Any]) -> bool:
    """Remove the digest from results, in place, and return whether it agrees; results without a digest agree.

    Results of earlier versions have none, and a person may have deleted the digest to edit the results.

    Args:
        metrics: Content of a `metrics.json`.
    """
    environment = metrics.get("environment")
    if not isinstance(environment, dict) or DIGEST not in environment:
        return True
    digest = environment.pop(DIGEST)
    return bool(digest == digest_of(metrics))


def choose_runs_dir(given: str | None) -> Path:
    """Return the runs folder: the given one, else CMU_RUNS_DIR, else `./runs`.

    Args:
        given: Value of `--runs_dir`.
    """
    return Path(given or os.environ.get("CMU_RUNS_DIR") or "runs")


def is_on_demand() -> bool:
    """Return whether this process trains an original for an unlearner's command."""
    return ON_DEMAND in os.environ


@contextmanager
def keep_weights() -> Iterator[None]:
    """Let runs of this process, and of processes that it starts within, keep their weights.

    A sweep chooses among runs that are stored with `checkpoints: chosen`; it drops the weights of the others itself.
    """
    before = os.environ.get(KEEP_WEIGHTS)
    os.environ[KEEP_WEIGHTS] = "1"
    try:
        yield
    finally:
        os.environ.pop(KEEP_WEIGHTS)
        if before is not None:
            os.environ[KEEP_WEIGHTS] = before
