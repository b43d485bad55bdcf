"""Stages without the command line, on digits, for a few steps."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.unlearning import Procedure, Stage
from tests.helpers.networks import Linear

LINEAR = partial(Linear, 144, 10)
SHORT = Procedure(steps=24, unlearn_steps=10, batch_size=300, lr=0.05)


def trainer(folder: Path, *callbacks: Callback, **arguments: Any) -> Trainer:
    """Return a plain Trainer, as without the command line.

    Args:
        folder: Its root folder.
        callbacks: Its callbacks.
        arguments: Others of its arguments.
    """
    settings: dict[str, Any] = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False}
    return Trainer(
        callbacks=list(callbacks),
        default_root_dir=str(folder),
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
        **(settings | arguments),
    )


def digits(identified: float = 1.0, seed: int = 0) -> DigitsDataModule:
    """Return digits of which 36 are poisoned.

    Args:
        identified: Fraction of the poisoned ones that was found.
        seed: Seed of the draw of the poisoned ones.
    """
    return DigitsDataModule(Poison(size=36, seed=seed), identified=identified)


def weights(path: str | Path) -> dict[str, Tensor]:
    """Return the weights in a checkpoint.

    Args:
        path: Its file.
    """
    state: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return state


def equal_tensors(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Return whether two states hold the same tensors, bit for bit.

    Args:
        one: Tensors by name.
        other: Tensors by name.
    """
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class CheckpointAfter(LastCheckpoint):
    """A checkpoint of a run that is broken off, written after a step.

    Args:
        path: File of the checkpoint.
        step: Number of steps before it is written.
    """

    def __init__(self, path: Path, step: int) -> None:
        super().__init__(path)
        self.step = step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write the checkpoint after that step."""
        if batch_idx + 1 == self.step:
            trainer.save_checkpoint(self.path, weights_only=False)


def fitted(folder: Path, stage: Stage, identified: float = 0.5) -> dict[str, Tensor]:
    """Return the state of a stage's network after its fit on the digits.

    Args:
        folder: Root folder of the trainer.
        stage: An original or an unlearner.
        identified: Fraction of the poisoned digits that was found.
    """
    trainer(folder).fit(stage, datamodule=digits(identified))
    return dict(stage.network.state_dict())
