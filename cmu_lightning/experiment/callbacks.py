"""What a stage run from the command line does besides training."""

import time
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint

from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.unlearning.checkpoint import save_whole


class WriteConfig(Callback):
    """Writes the resolved config into the run's folder once everything is set up."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self.path = path
        self.config = config

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """On rank 0."""
        if trainer.is_global_zero:
            try:
                write_atomically(self.path, yaml.safe_dump(self.config, sort_keys=False))
            except OSError as error:
                raise UserError(f"{self.path} cannot be written ({error}): give another --runs_dir") from error


class LastCheckpoint(Checkpoint):
    """Writes `last.ckpt` after an epoch of the data, if the last one is not just written, and every two minutes.

    Other callbacks come first, so that what they keep of a step is there when a resume begins after it. After the last
    step there is none, for a resume from there would do nothing of what follows the steps.

    Args:
        path: Path of the checkpoint, which is replaced as a whole.
        seconds: Longest time between two checkpoints.
        rest: Shortest time between two; on a GPU writing one takes as long as a fair part of an epoch.
    """

    look = 20  # steps between two looks at the clock, on which processes have to agree

    def __init__(self, path: Path, seconds: float = 120, rest: float = 10) -> None:
        self.path = path
        self.seconds = seconds
        self.rest = rest
        self.written = time.monotonic()
        self.is_due = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write, if it is due."""
        loader: Any = trainer.train_dataloader
        ends_epoch = loader.ends_epoch(batch_idx)
        is_looked_at = self.is_due or ends_epoch or (batch_idx + 1) % self.look == 0
        if not is_looked_at or batch_idx + 1 == len(loader):
            return
        late = time.monotonic() - self.written > (self.rest if ends_epoch else self.seconds)
        self.is_due = self.is_due or trainer.strategy.reduce_boolean_decision(late, all=False)
        if self.is_due and not self._validates(trainer, batch_idx):
            save_whole(trainer, self.path, weights_only=False)
            self.written, self.is_due = time.monotonic(), False

    def _validates(self, trainer: Trainer, batch_idx: int) -> bool:
        """Whether validation follows this step, but not every one: a resume from here would leave it out."""
        every: Any = trainer.val_check_batch
        return trainer.enable_validation and isinstance(every, int) and every > 1 and (batch_idx + 1) % every == 0
