"""A finished run as it is found on disk, and the original that it started from.

Importing this module does not import torch, so that a mistyped path is reported at once.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.parsing import EXAMPLE


@dataclass(frozen=True)
class FinishedRun:
    """The folder of a finished run and its results.

    Args:
        folder: Folder of the run, `RUNS_DIR/<setting>/<method>/<seed>-<hash>`.
        metrics: Content of its `metrics.json`.

    Example:
        >>> run = FinishedRun(Path("/data/runs/poison_digits/CF/0-0123456789"), {"original": "9876543210"})
        >>> run.is_original, run.runs_dir
        (False, PosixPath('/data/runs'))
    """

    folder: Path
    metrics: dict[str, Any]

    @classmethod
    def open(cls, folder: Path) -> "FinishedRun":
        """Read a finished run that still has its weights.

        Args:
            folder: Folder of the run.

        Raises:
            UserError: The folder does not exist, holds no run, or holds one without results or without weights.
        """
        if not folder.is_dir():
            raise UserError(f"there is no run folder {folder}: give one such as {EXAMPLE}")
        if not (folder / "config.yaml").exists():
            raise UserError(f"{folder} is not a run: it has no config.yaml; give one such as {EXAMPLE}")
        metrics = read_metrics(folder)
        if metrics is None:
            raise UserError(f"{folder} has not finished: run `{cls(folder, {}).command}` to resume it")
        if not (folder / "last.ckpt").exists():
            raise UserError(
                f"{folder} has no weights because its last.ckpt was dropped: delete its metrics.json and run "
                f"`{cls(folder, metrics).command} --checkpoints all` to recompute them"
            )
        return cls(folder, metrics)

    @property
    def is_original(self) -> bool:
        """Whether the run trained an original and did not start from one."""
        return "original" not in self.metrics

    @property
    def runs_dir(self) -> Path:
        """The runs folder that the run's own folder is in."""
        return self.folder.resolve().parent.parent.parent

    @property
    def command(self) -> str:
        """The command line that resumes the run, or repeats it."""
        config, runs_dir = (shlex.quote(str(path)) for path in (self.folder / "config.yaml", self.runs_dir))
        return f"python -m cmu_lightning fit --config {config} --runs_dir {runs_dir}"

    @property
    def config(self) -> dict[str, Any]:
        """The resolved config of the run."""
        from cmu_lightning.experiment.restore import read_config

        return read_config(self.folder)

    def original_checkpoint(self) -> Path:
        """Return the path of the checkpoint that the run started from; an original counts as its own.

        Raises:
            UserError: No checkpoint with the recorded hash is left.
        """
        from cmu_lightning.experiment.originals import original_at

        if self.is_original:
            return self.folder / "last.ckpt"
        key = self.config["model"]["init_args"].get("original_key")
        # A file may have been replaced since, so its content decides and not its name.
        for path in self._original_paths():
            if path.is_file() and original_at(str(path), self.runs_dir, key).hash == self.metrics["original"]:
                return path
        raise UserError(self._original_is_gone())

    def original_metrics(self) -> dict[str, Any] | None:
        """Return the results of the run's original, even if its weights are gone.

        An original that was never a run has no results of its own. A run of `Keep` with the same data and the same
        preparation of images has measured it.

        Returns:
            The content of a `metrics.json`; None if there is none, or if it would be this run's own.
        """
        for path in self._original_paths() if not self.is_original else ():
            # A metrics.json next to a user's own weights is not the result of a run.
            is_run = (path.parent / "config.yaml").exists()
            found = read_metrics(path.parent) if is_run else None
            if found is not None and found["hash"] == self.metrics["original"]:
                return found
        return self._metrics_of_keep()

    def _metrics_of_keep(self) -> dict[str, Any] | None:
        """Return the results of a run of `Keep` on the same original, data and images; None if it is this run."""
        conditions = None
        for folder in sorted(self.runs_dir.glob(f"{self.metrics['setting']}/Keep/*")):
            metrics = read_metrics(folder)
            if metrics is None or not (folder / "config.yaml").exists():
                continue
            # `content` is a digest of the user's own images and list, `fingerprint` one of the data as read.
            names = ("original", "content", "fingerprint")
            if any(metrics.get(name) != self.metrics.get(name) for name in names):
                continue
            conditions = conditions or _measuring_conditions(self.config)
            if _measuring_conditions(FinishedRun(folder, metrics).config) == conditions:
                return metrics if metrics["hash"] != self.metrics["hash"] else None
        return None

    def _original_paths(self) -> Iterator[Path]:
        """Yield where the original's checkpoint may be: the path in the config, then the runs folder."""
        given = self._given_original()
        if given:
            yield Path(given)
        for folder in sorted(self.runs_dir.glob(f"{self.metrics['setting']}/*/*-{self.metrics['original']}")):
            yield folder / "last.ckpt"

    def _given_original(self) -> str | None:
        """Return the checkpoint that the config names as the original."""
        given: str | None = self.config["model"]["init_args"].get("original")
        return given

    def _original_is_gone(self) -> str:
        """Return a sentence that says how to get the original's weights back."""
        gone = f"the weights of the original {self.metrics['original']} that {self.folder} started from are gone"
        if given := self._given_original():
            relative = "" if Path(given).is_absolute() else ", or run the command in the folder to which it is relative"
            return f"{gone}: put {given} back{relative}"
        # A run that was copied elsewhere looks for its original in the wrong runs folder.
        place = f"{self.metrics['setting']}/{self.metrics['method']}"
        if "/".join(self.folder.resolve().parts[-3:-1]) != place:
            return f"{gone}: the run is not where it was made; move it back to {place} in its runs folder"
        return f"{gone}: delete {self.folder}/metrics.json and run `{self.command}` to recompute them"


def _measuring_conditions(config: dict[str, Any]) -> dict[str, Any]:
    """Return the conditions of accuracies other than weights: preparation of images, S_f, network, precision.

    Args:
        config: Resolved config of a run.
    """
    from cmu_lightning.experiment.identity import identity

    # A list of flagged samples is compared by its content, which metrics.json holds; its path may differ.
    discovery = config["data"]["init_args"].get("discovery") or {}
    is_list = discovery.get("class_path", "").endswith(".Flagged")
    named = identity(config, "steps", frozenset({"discovery", "seed"} if is_list else ()), None)
    # Of the data their content counts, which is compared too, and not where they are.
    data = {key: value for key, value in named["data"]["init_args"].items() if key not in ("root", "path")}
    trainer = {key: named["trainer"][key] for key in ("precision", "limit_val_batches", "limit_test_batches")}
    return {"data": data, "network": named["network"], "trainer": trainer}
