"""Scrub and its rewinding, SCRUB+R (Kurmanji et al., NeurIPS 2023; paper, A.2 (5))."""

import shutil
from contextlib import nullcontext
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch, CorruptedDataModule, evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import matched_accuracy
from cmu_lightning.unlearning.checkpoint import is_damaged, read_tensors, save_tensors
from cmu_lightning.unlearning.distillation import DistillationUnlearner, divergence
from cmu_lightning.unlearning.networks import batch_norm_evaluation, evaluation_mode
from cmu_lightning.unlearning.stage import View

if TYPE_CHECKING:
    from cmu_lightning.unlearning.unlearner import Unlearner


def alternation(
    steps: int, forget_steps: int, forget_epoch: int, retain_epoch: int, alternate: Literal["epoch", "step"]
) -> list[int]:
    """Return which steps forget and which retain (paper, A.2 (5)): in turns, forget first, then only retain steps.

    Args:
        steps: Number of steps of the stage.
        forget_steps: A new turn starts only while fewer steps than these are done.
        forget_epoch: Steps of one epoch over S_f.
        retain_epoch: Steps of one epoch over the retain data.
        alternate: Whether a turn is an epoch of each or a step of each.

    Returns:
        For each step 0, which forgets, or 1, which retains.
    """
    turn = [0] * forget_epoch + [1] * retain_epoch if alternate == "epoch" else [0, 1]
    plan: list[int] = []
    # As in the released code, the number of steps is looked at between turns: a turn that has started is finished.
    while len(plan) < min(forget_steps, steps):
        plan += turn
    return (plan + [1] * steps)[:steps]


class Scrub(DistillationUnlearner):
    """Gradient ascent on S_f and descent on the retain data in turns, then only descent.

    With the original as the frozen teacher and temperature T = 4, the loss of a retain sample is

        CE(student(x), y) + distill * T^2 KL(original(x) || student(x))

    and that of a deleted sample is the negative of what `ascend` names. Every batch is of S_f or of the retain data as
    a whole, so that a forget step is a retain step with the opposite sign.

    Args:
        distill: Weight of the divergence.
        lr: Peak learning rate; smaller than the procedure's, with which ascent is unstable.
        forget_steps: A new turn of forgetting starts only while fewer steps have been taken; default a fifth of the
            steps, which is the paper's 200 of 1000.
        alternate: Whether turns are of an `epoch` over S_f and one over the retain data, as in the released code, or of
            a `step` of each.
        ascend: What forget steps ascend: `both` terms as in the released code, the `task` as in the paper's A.2, or
            only the `distillation`, unweighted, as in its section 3.2 and in the original SCRUB.
        rewind: Whether to end at the epoch whose error on S_f is closest to that on validation samples of S_f's class
            mix (SCRUB+R).

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import Procedure, Scrub
        >>> Scrub(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").forget_steps
        200
    """

    view: ClassVar[View] = "forget then retain"
    forwards: ClassVar[int] = 2
    temperature: ClassVar[float] = 4.0

    def __init__(
        self,
        *args: Any,
        distill: float = 0.5,
        lr: float = 0.0025,
        forget_steps: int | None = None,
        alternate: Literal["epoch", "step"] = "epoch",
        ascend: Literal["both", "task", "distillation"] = "both",
        rewind: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        forget_steps = self.steps // 5 if forget_steps is None else forget_steps
        if not (0 <= distill < inf and 0 < lr < inf and forget_steps >= 0):
            raise UserError(
                "Scrub needs distill >= 0, lr > 0 and forget_steps >= 0, "
                f"not distill={distill}, lr={lr}, forget_steps={forget_steps}"
            )
        self.distill, self.lr, self.forget_steps = distill, lr, forget_steps
        self.alternate, self.ascend, self.rewind = alternate, ascend, rewind

    def plan(self, *epochs: int) -> list[int]:
        """Return for each step whether it forgets (0) or retains (1).

        Args:
            epochs: Steps of an epoch over S_f, and of one over the retain data.
        """
        forget_epoch, retain_epoch = epochs
        return alternation(self.steps, self.forget_steps, forget_epoch, retain_epoch, self.alternate)

    def loss(self, batch: Batch) -> Tensor:
        """Return CE + distill * KD of retain samples and the negative of what is ascended of deleted ones, shape (n,).

        Args:
            batch: This process's slice of the global batch, n samples.
        """
        (teacher,) = self.teacher_logits(batch.image)
        # A single sample of S_f has no statistics of its own.
        with nullcontext() if self.has_statistics(batch) else batch_norm_evaluation(self.network):
            student = self.network(batch.image)
        task = cross_entropy(student, batch.label, reduction="none")
        distillation = divergence(student, teacher, self.temperature)
        both = task + self.distill * distillation
        ascended = {"both": both, "task": task, "distillation": distillation}[self.ascend]
        # Minimising the negative is gradient ascent.
        return torch.where(batch.deleted, -ascended, both)

    def configure_callbacks(self) -> "list[Rewind]":
        """Return the callback that rewinds, if `rewind` is on."""
        return [Rewind()] if self.rewind else []


class Rewind(Callback):
    """SCRUB+R (Kurmanji et al., section 3.3): ends at the epoch that forgot neither too little nor too much.

    The weights after every epoch are kept on disk. The last ones give the reference error e, on validation samples in
    the class mix of S_f; the stage ends with the weights whose error on S_f, by labels as given, is closest to e.
    Without the command line they are stored in the Trainer's `default_root_dir`, which no other run may then use.
    """

    folder = "epochs"

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that there are validation samples to compare with, and nothing that changes the weights afterwards.

        Args:
            trainer: Trainer that runs the stage.
            pl_module: The stage.

        Raises:
            UserError: Weights are averaged, or a class of S_f has no validation samples.
        """
        if any(isinstance(each, WeightAveraging) for each in trainer.callbacks):  # type: ignore[attr-defined]
            raise UserError(
                "rewinding ends with one epoch's weights, and weight averaging with an average: leave one of them out"
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
        """Keep the weights at the end of an epoch.

        Args:
            trainer: Trainer that runs the stage.
            pl_module: The stage.
            outputs: Not used.
            batch: Not used.
            batch_idx: Step that has been done, counted from 0.
        """
        stage: Any = pl_module
        if self._is_kept(trainer, batch_idx) and trainer.is_global_zero:
            save_tensors(self._path(stage, batch_idx), stage.network.state_dict())

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the best of the kept weights, and log its number of steps as `rewound_to`.

        Args:
            trainer: Trainer that runs the stage.
            pl_module: The stage.
        """
        stage: Any = pl_module
        last = trainer.global_step - 1
        # A callback that stops the stage early leaves the last weights unkept.
        if trainer.is_global_zero and not self._is_kept(trainer, last):
            save_tensors(self._path(stage, last), stage.network.state_dict())
        trainer.strategy.barrier()
        with evaluation_mode(stage.network):
            chosen = self._choose(stage, trainer, last)
        self._load(stage, chosen)
        stage.log("rewound_to", float(chosen + 1), rank_zero_only=True)

    def _choose(self, stage: "Unlearner", trainer: Trainer, last: int) -> int:
        """Return the step after which the weights are best; of equal ones the latest."""
        data = stage.data
        # The reference: the error that the last weights make on unseen samples of S_f's classes.
        by_class = stage.accuracies(evaluation.of_validation(data))[1:]
        reference = 1 - matched_accuracy(by_class, data.samples.given_labels[data.samples.deleted].cpu())
        # The error of each epoch's weights on S_f, and the one closest to the reference.
        kept = [step for step in range(last + 1) if step == last or self._is_kept(trainer, step)]
        errors = {step: self._error_on_deleted(stage, data, step) for step in kept}
        return min(reversed(errors), key=lambda step: abs(errors[step] - reference))

    @classmethod
    def find_damaged(cls, folder: Path) -> Path | None:
        """Return a file of kept weights that is damaged; None if all are whole.

        Args:
            folder: Folder of an unfinished run.
        """
        kept = sorted((folder / cls.folder).glob("*.pt"))
        return next((path for path in kept if is_damaged(path)), None)

    @classmethod
    def clean(cls, folder: Path) -> None:
        """Remove the kept weights from a finished run.

        Args:
            folder: Folder of the run.
        """
        shutil.rmtree(folder / cls.folder, ignore_errors=True)

    def _path(self, stage: "Unlearner", step: int) -> Path:
        return stage.place / self.folder / f"{step + 1}.pt"

    def _is_kept(self, trainer: Trainer, step: int) -> bool:
        """Return whether an epoch, or the stage, ends with this step."""
        loader: Any = trainer.train_dataloader
        return loader.ends_epoch(step) or step + 1 == len(loader)

    def _load(self, stage: "Unlearner", step: int) -> None:
        path = self._path(stage, step)
        try:
            stage.network.load_state_dict(read_tensors(path))
        except (UserError, RuntimeError, TypeError) as error:  # the latter two of a file that is no network's state
            again = f"delete {stage.place / 'last.ckpt'} and run the same command again, which trains from the start"
            raise UserError(f"{path}, which rewinding needs, is missing or damaged: {again}") from error

    def _error_on_deleted(self, stage: "Unlearner", data: CorruptedDataModule, step: int) -> float:
        """Return the share of S_f that the weights of a step do not classify as labelled, and leave them loaded."""
        self._load(stage, step)
        return 1 - float(stage.accuracies(data.all_deleted())[0])
