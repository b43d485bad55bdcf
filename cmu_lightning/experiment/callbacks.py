"""Callbacks that write a run's config and checkpoints."""

import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning.checkpoint import save_whole
from cmu_lightning.unlearning.networks import is_finite


class WriteConfig(Callback):
    """Writes the resolved config into the run's folder before training and before measuring.

    Args:
        path: Path of the file.
        config: Resolved config, as plain data.
    """

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the config on rank 0, once the data and the stage have been set up.

        Args:
            trainer: Trainer of the run.
            pl_module: Stage of the run.

        Raises:
            UserError: The runs folder cannot be written.
        """
        if trainer.is_global_zero:
            try:
                write_atomically(self.path, yaml.safe_dump(self.config, sort_keys=False))
            except OSError as error:
                raise UserError(f"{self.path} cannot be written ({error}): give another --runs_dir") from error

    # A run that is measured after an interruption is not trained again; its files must agree then, too.
    on_test_start = on_fit_start


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` at the end of an epoch of the data, unless one was just written, and every two minutes.

    Checkpoint callbacks run after all others, so a checkpoint contains the other callbacks' state after its step, and a
    resumed run continues with the next step. There is no checkpoint after the last step: a resume from there would skip
    everything that follows the steps. Weights that are not finite replace no checkpoint: the same command resumes a
    diverged run from the last finite weights, and stops at the same step with the same sentence.

    Args:
        path: Path of the checkpoint, which is replaced as a whole.
        seconds: Longest time between two checkpoints.
        rest: Shortest time between two checkpoints; on a GPU, writing one takes a large part of an epoch's time.
    """

    look = 20
    """Number of steps between two clock checks, on which the processes must agree."""

    def __init__(self, path: Path, seconds: float = 120, rest: float = 10) -> None:
        self.path = path
        self.seconds = seconds
        self.rest = rest
        self.written = time.monotonic()
        self.is_due = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write a checkpoint if it is due.

        Args:
            trainer: Trainer of the run.
            pl_module: Stage of the run.
            outputs: Ignored.
            batch: Ignored.
            batch_idx: Number of finished steps before this one.
        """
        loader: Any = trainer.train_dataloader
        ends_epoch = loader.ends_epoch(batch_idx)
        is_looked_at = self.is_due or ends_epoch or (batch_idx + 1) % self.look == 0
        if not is_looked_at or batch_idx + 1 == len(loader):
            return
        # Clocks differ between processes: if one checkpoint is due, all processes write.
        is_late = time.monotonic() - self.written > (self.rest if ends_epoch else self.seconds)
        self.is_due = self.is_due or trainer.strategy.reduce_boolean_decision(is_late, all=False)
        if self.is_due and not self._validates(trainer, batch_idx):
            # Statistics of batch norm differ between processes, so every process checks its own weights.
            if trainer.strategy.reduce_boolean_decision(is_finite(pl_module)):
                save_whole(trainer, self.path, weights_only=False)
            self.written, self.is_due = time.monotonic(), False

    def _validates(self, trainer: Trainer, batch_idx: int) -> bool:
        """Return whether validation follows this step but not every step: a resume from here would skip it."""
        every: Any = trainer.val_check_batch
        return trainer.enable_validation and isinstance(every, int) and every > 1 and (batch_idx + 1) % every == 0
