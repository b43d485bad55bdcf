"""Stages without the command line, on digits, for a few steps."""

from functools import partial

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Checkpoint

from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.unlearning import Procedure
from tests.helpers.networks import Linear

LINEAR = partial(Linear, 144, 10)
SHORT = Procedure(steps=24, unlearn_steps=10, batch_size=300, lr=0.05)


def trainer(tmp_path, *callbacks, **arguments):
    """A plain Trainer, as without the command line."""
    return Trainer(
        callbacks=list(callbacks),
        default_root_dir=str(tmp_path),
        enable_checkpointing=any(isinstance(each, Checkpoint) for each in callbacks),
        enable_model_summary=False,
        logger=False,
        num_sanity_val_steps=0,
        **({"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False} | arguments),
    )


def digits(identified=1.0, seed=0):
    return DigitsDataModule(Poison(size=36, seed=seed), identified=identified)


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


class Until(LastCheckpoint):
    """A checkpoint after so many steps."""

    def __init__(self, path, step):
        super().__init__(path)
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if batch_idx + 1 == self.step:
            trainer.save_checkpoint(self.path, weights_only=False)


def fitted(tmp_path, stage, identified=0.5):
    """The state of a stage after its fit on the digits."""
    trainer(tmp_path).fit(stage, datamodule=digits(identified))
    return dict(stage.network.state_dict())
