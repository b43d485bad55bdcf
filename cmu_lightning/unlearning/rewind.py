"""SCRUB+R: going back to the epoch that forgot neither too little nor too much (Kurmanji et al., 2023, section 3.3)."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging

from cmu_lightning.data import CorruptedDataModule, evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import matched_accuracy
from cmu_lightning.unlearning.checkpoint import save_tensors
from cmu_lightning.unlearning.networks import evaluating

if TYPE_CHECKING:
    from cmu_lightning.unlearning.unlearner import Unlearner


class Rewind(Callback):
    """Keeps the weights after every epoch on disk, and ends with the best of them.

    Those are the ones whose error on S_f, by labels as given, is closest to the error of the last weights on
    validation samples in the class mix of S_f. Without the command line they lie in the Trainer's `default_root_dir`,
    which then has to be this run's own.
    """

    folder = "epochs"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There has to be something to compare with, and nothing that changes the weights afterwards."""
        if any(isinstance(each, WeightAveraging) for each in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError(
                "rewinding ends with one epoch's weights, and averaging with an average: leave one of them out"
            )
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not len(data.validation.labels):
            raise UserError("rewinding compares with validation samples, and val_size=0 leaves none: give more")
        validated = evaluation.of_validation(data).domain.sum(0)[1:]
        given = data.samples.labels[data.samples.deleted].unique().tolist()
        if lacking := [label for label in given if not validated[label]]:
            raise UserError(f"no validation sample is of class {lacking[0]}, as S_f is: give a larger val_size")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the weights, if an epoch is over."""
        stage: Any = pl_module
        if self._keeps(trainer, batch_idx) and trainer.is_global_zero:
            save_tensors(self._path(stage, batch_idx), stage.network.state_dict())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back."""
        stage: Any = pl_module
        last = trainer.global_step - 1
        if trainer.is_global_zero and not self._keeps(trainer, last):  # a callback has stopped early
            save_tensors(self._path(stage, last), stage.network.state_dict())
        trainer.strategy.barrier()
        with evaluating(stage.network):
            chosen = self._choose(stage, trainer, last)
        self._load(stage, chosen)
        stage.log("rewound_to", float(chosen + 1), rank_zero_only=True)

    def _choose(self, stage: "Unlearner", trainer: Trainer, last: int) -> int:
        """The step after which the weights are best."""
        data = stage.data
        by_class = stage.accuracies(evaluation.of_validation(data))[1:]
        wanted = 1 - matched_accuracy(by_class, data.samples.labels[data.samples.deleted].cpu())
        kept = [step for step in range(last + 1) if step == last or self._keeps(trainer, step)]
        errors = {step: self._error_on_deleted(stage, data, step) for step in kept}
        return min(reversed(errors), key=lambda step: abs(errors[step] - wanted))

    @classmethod
    def clean(cls, folder: Path) -> None:
        """Remove the weights of epochs from a run that is finished."""
        shutil.rmtree(folder / cls.folder, ignore_errors=True)

    def _path(self, stage: "Unlearner", step: int) -> Path:
        return stage.place / self.folder / f"{step + 1}.pt"

    def _keeps(self, trainer: Trainer, step: int) -> bool:
        """Whether an epoch is over, or all is."""
        loader: Any = trainer.train_dataloader
        return loader.ends_epoch(step) or step + 1 == len(loader)

    def _load(self, stage: "Unlearner", step: int) -> None:
        stage.network.load_state_dict(torch.load(self._path(stage, step), map_location=stage.device, weights_only=True))

    def _error_on_deleted(self, stage: "Unlearner", data: CorruptedDataModule, step: int) -> float:
        self._load(stage, step)
        return 1 - float(stage.accuracies(data.all_deleted())[0])
