"""Base classes of methods that train on S_f: the mode of batch norm on S_f, and the stopping rule of ascent."""

from contextlib import nullcontext
from typing import Any, ClassVar, Literal

from torch import Tensor

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.networks import batch_norm_evaluation, evaluation_mode
from cmu_lightning.unlearning.unlearner import Unlearner


class ForgettingUnlearner(Unlearner):
    """Base of the methods that train on batches of S_f only.

    A method defines `loss` with `forget_logits` where a batch is of S_f.

    Args:
        forget_batch_norm: Mode of batch norm on batches of S_f. `train`, as in released code, normalises by the
            statistics of the batch and moves the running ones towards S_f's. `eval` normalises by the running ones, and
            leaves them. A batch that is too small for statistics, such as of one sample, is always taken in evaluation
            mode.
    """

    def __init__(self, *args: Any, forget_batch_norm: Literal["train", "eval"] = "train", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.forget_batch_norm = forget_batch_norm

    def forget_logits(self, batch: Batch) -> Tensor:
        """Return logits of images of S_f, with batch norm in the mode that is asked for.

        Args:
            batch: This process's slice of a global batch of S_f, n samples.

        Returns:
            Shape (n, num_classes).
        """
        is_evaluated = self.forget_batch_norm == "eval" or not self.has_statistics(batch)
        with batch_norm_evaluation(self.network) if is_evaluated else nullcontext():
            logits: Tensor = self.network(batch.image)
        return logits


class AscentUnlearner(ForgettingUnlearner):
    """Base of the methods that ascend the unbounded loss of S_f and stop once its labels are forgotten.

    Every `check_every` steps all of S_f is classified in evaluation mode, not augmented. Training ends there if at most
    the fraction `stop_at` is given its label. The last step is logged as `stopped_at`. The learning-rate schedule
    always spans all steps, whether or not they are taken.

    Args:
        lr: Peak learning rate; default the procedure's.
        stop_at: gamma, the fraction of S_f still classified as labelled at which training stops; None for all steps.
        check_every: Steps between two checks; default an epoch over S_f. Each check synchronises the device.
    """

    averages: ClassVar[bool] = False

    def __init__(
        self,
        *args: Any,
        lr: float | None = None,
        stop_at: float | None = None,
        check_every: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        name = type(self).__name__
        if lr is not None and not lr > 0:
            raise UserError(f"{name} needs lr > 0, not lr={lr}")
        if stop_at is not None and not 0 <= stop_at <= 1:
            raise UserError(f"{name} needs stop_at from 0 to 1, a fraction of S_f, not stop_at={stop_at}")
        if check_every is not None and check_every < 1:
            raise UserError(f"{name} needs check_every >= 1, a number of steps, not check_every={check_every}")
        self.lr, self.stop_at, self.check_every = lr, stop_at, check_every
        self.stopped_at: int | None = None
        """Number of steps after which S_f was found forgotten."""

    def on_train_start(self) -> None:
        """Start the clock, and settle the number of steps between two looks."""
        super().on_train_start()
        epoch = -(-int(self.data.samples.deleted.sum()) // self.procedure.batch_size)
        self.interval = self.check_every or epoch

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> int | None:
        """Skip this step and all that follow, if S_f is forgotten.

        The look is before a step and not after one: a run that is resumed from this step looks again.

        Args:
            batch: Not used.
            batch_idx: Not used.

        Returns:
            -1, by which Lightning ends the epoch, or None.
        """
        if self.stop_at is None or self.global_step == 0 or self.global_step % self.interval:
            return None
        with evaluation_mode(self.network):
            fitted = self.accuracies(self.data.all_deleted())[0].item()
        # Rank 0 decides for all: on CPUs the statistics of batch norm differ between processes.
        if not self.trainer.strategy.broadcast(fitted <= self.stop_at):
            return None
        self.stopped_at = self.global_step
        return -1

    def on_train_epoch_end(self) -> None:
        """Log where training stopped, if before its last step."""
        if self.stopped_at is not None:
            self.log("stopped_at", float(self.stopped_at), rank_zero_only=True, batch_size=1)
