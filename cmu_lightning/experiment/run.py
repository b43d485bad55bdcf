"""The names of what is measured of a run, known without torch."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import locked

MEASURED = {
    "acc_corr": "affected domain, unseen: accuracy (acc_corr)",
    "acc_corr_nontarget": "  the same without the target class",
    "asr": "  attack success rate",
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
"""Of a `metrics.json`: fractions, and what they are called on the screen."""

OF_DISCOVERY = {
    "false_positives": "clean samples in S_f",
    "discovery_precision": "fraction of S_f that is manipulated",
    "discovery_recall": "fraction of S_m that is in S_f",
}
COST = ("seconds", "samples_forward", "samples_backward")
CURVES = ("train_loss", "forget_loss", "retain_loss", "learning_rate")
"""Logged while a stage trains."""


ROWS = "csv"
"""Folder of a run's logged rows, one `version_N/metrics.csv` a start."""

ON_DEMAND = "CMU_ON_DEMAND"
"""Environment variable of a process that makes the original which an unlearner's command asked for."""


@dataclass(frozen=True)
class Run:
    """A folder, `RUNS_DIR/<setting>/<method>/<seed>-<hash>`, and what it is of."""

    folder: Path
    runs_dir: Path
    setting: str
    method: str
    hash: str

    @classmethod
    def at(cls, runs_dir: Path, setting: str, method: str, seed: int, digest: str) -> "Run":
        """Where a run is or will be; one of the same hash is the same run, whatever seed it was started with."""
        parent = runs_dir / setting / method
        folder = next(iter(sorted(parent.glob(f"*-{digest}"))), parent / f"{seed}-{digest}")
        return cls(folder, runs_dir, setting, method, digest)

    @classmethod
    def of(cls, folder: Path, digest: str) -> "Run":
        """Whose folder this is.

        Args:
            folder: In a runs folder.
            digest: The run's hash.
        """
        return cls(folder, folder.parents[2], folder.parents[1].name, folder.parent.name, digest)

    @property
    def checkpoint(self) -> Path:
        """The last checkpoint."""
        return self.folder / "last.ckpt"

    @property
    def config(self) -> Path:
        """The resolved config."""
        return self.folder / "config.yaml"

    @property
    def metrics(self) -> dict[str, Any] | None:
        """The results, or None if the run has not finished."""
        return read_metrics(self.folder)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that works on this run; wait for another one, and show it.

        The lock dies with its holder.

        Raises:
            UserError: The runs folder cannot be written.
        """
        with locked(self.runs_dir / ".locks" / f"{self.hash}.lock", str(self.folder), "give another --runs_dir"):
            yield


def read_metrics(folder: Path) -> dict[str, Any] | None:
    """A run's `metrics.json`, or None if it has not finished.

    Raises:
        UserError: The file is damaged.
    """
    path = folder / "metrics.json"
    try:
        stored: dict[str, Any] = json.loads(path.read_text())
        whole = "hash" in stored
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{path} is damaged: delete it, and the run's numbers are measured again")
    return stored


def choose_runs_dir(given: str | None) -> Path:
    """The runs folder: as given, else the environment's, else `./runs`."""
    return Path(given or os.environ.get("CMU_RUNS_DIR") or "runs")
