"""SCRUB+R: going back to the epoch that forgot neither too little nor too much (Kurmanji et al., 2023, section 3.3)."""

import shutil
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch, CorruptedDataModule, evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import matched_accuracy
from cmu_lightning.unlearning.checkpoint import save_tensors
from cmu_lightning.unlearning.distillation import DistillationUnlearner, divergence
from cmu_lightning.unlearning.networks import evaluating
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.stage import View

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
        if not len(data.validation.given_labels):
            raise UserError("rewinding compares with validation samples, and val_size=0 leaves none: give more")
        validated = evaluation.of_validation(data).domain.sum(0)[1:]
        given = data.samples.given_labels[data.samples.deleted].unique().tolist()
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
        wanted = 1 - matched_accuracy(by_class, data.samples.given_labels[data.samples.deleted].cpu())
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


def alternation(
    steps: int, forget_steps: int, forget_epoch: int, retain_epoch: int, alternate: Literal["epoch", "step"]
) -> list[int]:
    """Which steps forget and which retain (paper, A.2 (5)): forget first, retain after it, retain alone in the end.

    Args:
        steps: In all.
        forget_steps: Forgetting starts only while fewer steps than these are done.
        forget_epoch: Steps of one epoch over S_f.
        retain_epoch: Steps of one epoch over the retain data.
        alternate: After an epoch or after a step of each.

    Returns:
        For each step 0, which is forget, or 1, which is retain.
    """
    turn = [0] * forget_epoch + [1] * retain_epoch if alternate == "epoch" else [0, 1]
    plan: list[int] = []
    while len(plan) < min(forget_steps, steps):
        plan += turn
    return (plan + [1] * steps)[:steps]


class Scrub(DistillationUnlearner):
    """Forget steps ascend on S_f, retain steps descend on the rest; then retain steps alone.

    The loss is the task's cross-entropy plus `distill` times the divergence from the original, at temperature 4.
    Every batch is of S_f or of retain as a whole, so that a forget step is one with the sign turned.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: How it is fine-tuned.
        original: Checkpoint of the original.
        seed: Seed of everything random in this method.
        distill: Weight of the divergence.
        lr: Peak learning rate; smaller than the procedure's, which is unstable here.
        forget_steps: While fewer steps are done, forgetting goes on; default a fifth of the steps, which is the paper's
            200 of 1000.
        alternate: After an `epoch` over S_f and one over retain, as the released code does, or after each `step`.
        ascend: What forget steps ascend: `both` terms as in the released code, the `task` as in the paper's A.2, or
            the `distillation` alone, unweighted, as in its section 3.2 and in the original SCRUB.
        rewind: Whether to end at the epoch whose error on S_f is closest to that on validation samples of S_f's class
            mix (SCRUB+R).
    """

    view: ClassVar[View] = "forget then retain"
    forwards: ClassVar[int] = 2
    temperature: ClassVar[float] = 4.0

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        distill: float = 0.5,
        lr: float = 0.0025,
        forget_steps: int | None = None,
        alternate: Literal["epoch", "step"] = "epoch",
        ascend: Literal["both", "task", "distillation"] = "both",
        rewind: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed)
        forget_steps = self.steps // 5 if forget_steps is None else forget_steps
        if not (0 <= distill < inf and 0 < lr < inf and forget_steps >= 0):
            raise UserError(
                "Scrub needs distill >= 0, lr > 0 and forget_steps >= 0, "
                f"not distill={distill}, lr={lr}, forget_steps={forget_steps}"
            )
        self.distill, self.lr, self.forget_steps = distill, lr, forget_steps
        self.alternate, self.ascend, self.rewind = alternate, ascend, rewind

    def plan(self, *epochs: int) -> list[int]:
        """Alternate while step < `forget_steps`."""
        forget_epoch, retain_epoch = epochs
        return alternation(self.steps, self.forget_steps, forget_epoch, retain_epoch, self.alternate)

    def loss(self, batch: Batch) -> Tensor:
        """Of a retain sample CE + distill * KD; of a deleted one what is to be ascended, negated."""
        (teacher,) = self.taught(batch.image)
        student = self.network(batch.image)
        task = cross_entropy(student, batch.label, reduction="none")
        distillation = divergence(student, teacher, self.temperature)
        both = task + self.distill * distillation
        ascended = {"both": both, "task": task, "distillation": distillation}[self.ascend]
        return torch.where(batch.deleted, -ascended, both)

    def configure_callbacks(self) -> list[Rewind]:
        """Keep the weights of epochs, if they are to be gone back to."""
        return [Rewind()] if self.rewind else []
