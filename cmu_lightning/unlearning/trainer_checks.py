"""Checks that refuse Trainer options under which a stage would end with the wrong weights."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    EarlyStopping,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)

from cmu_lightning.devices import PRECISIONS
from cmu_lightning.errors import UserError

if TYPE_CHECKING:
    from cmu_lightning.unlearning.stage import Stage

IMPOSSIBLE_CALLBACKS: dict[type[Callback], str] = {
    GradientAccumulationScheduler: "would change what a step is: leave it out and set procedure.batch_size",
    BatchSizeFinder: "would change what a step is: leave it out and set procedure.batch_size",
    LearningRateFinder: "would change the procedure: leave it out and set procedure.lr",
    StochasticWeightAveraging: "averages over epochs, of which a stage has one: leave it out, or use WeightAveraging",
    Timer: "would end a stage before its last step: leave it, or max_time, out and set procedure.steps",
}
"""The effect of each of these callbacks on a stage, and the alternative."""


def check_callback(kind: type) -> None:
    """Refuse a callback that changes the meaning of a stage.

    Args:
        kind: Class of a callback, of the command line or of a Trainer.

    Raises:
        UserError: The callback changes steps, batches or the procedure.
    """
    for impossible, why in IMPOSSIBLE_CALLBACKS.items():
        if issubclass(kind, impossible):
            raise UserError(f"the callback {kind.__name__} {why}")


def check_precision(given: str | int) -> None:
    """Refuse a precision in which weights are not of 32 bits.

    Args:
        given: Precision of the Trainer, in any of Lightning's spellings.

    Raises:
        UserError: Weights would have another number of bits than originals and importances.
    """
    if str(given) not in {*PRECISIONS, *PRECISIONS.values()}:
        raise UserError(
            f"trainer.precision={given} changes the weights themselves, of which importances and originals are in 32 "
            "bits: give 32-true, bf16-mixed or 16-mixed"
        )


def check_trainer(trainer: Trainer, stage: "Stage") -> None:
    """Refuse a Trainer that would not run exactly the steps of a stage.

    Args:
        trainer: Trainer that is about to fit the stage.
        stage: Stage to fit.

    Raises:
        UserError: The Trainer or the stage was used before, or would end with other weights than the stage's.
    """
    check_precision(trainer.precision)
    if trainer.max_epochs != 1 or trainer.max_steps != -1 or trainer.accumulate_grad_batches != 1:
        raise UserError(
            f"a stage is one pass of exactly {stage.steps} steps: give the Trainer max_epochs=1, "
            "no max_steps and no accumulate_grad_batches, and set the number of steps in procedure"
        )
    part: Any = trainer.limit_train_batches
    if not isinstance(part, float) or part != 1:
        raise UserError(
            f"a stage is exactly {stage.steps} steps: give the Trainer no limit_train_batches, and set the number of "
            "steps in procedure"
        )
    if trainer.current_epoch:
        raise UserError("this Trainer has run a stage already, and would do no step of another: make a new one")
    if stage.samples_forward:
        raise UserError(f"this {type(stage).__name__} has been fitted already: make a new one")
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for each in callbacks:
        check_callback(type(each))
    averaging = [each for each in callbacks if isinstance(each, WeightAveraging)]
    if averaging and not stage.trains:
        raise UserError(
            f"{type(averaging[0]).__name__} averages weights over steps, and {type(stage).__name__} has none: leave it "
            "out"
        )
    if averaging and not stage.averages:
        raise UserError(
            f"{type(stage).__name__} ends with weights of its own choice, and {type(averaging[0]).__name__} with an "
            "average over steps: leave one of them out"
        )
    if not stage.stops_early and any(isinstance(each, EarlyStopping) for each in callbacks):
        raise UserError(
            f"EarlyStopping would end {type(stage).__name__} within one of its phases: leave it out, and set the "
            "number of steps in procedure"
        )
