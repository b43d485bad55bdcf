"""The stage: a network, procedure A, exact losses, and what is measured of it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    Timer,
    WeightAveraging,
)
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch, CorruptedDataModule
from cmu_lightning.data.evaluation import EvaluationBatch
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.devices import PRECISIONS
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import DomainAccuracy, matched_accuracy, selection_score
from cmu_lightning.unlearning.networks import (
    build,
    channels_last,
    check_function,
    is_finite,
    refuse_untrainable,
    share_batch_norm,
    tensors_digest,
)
from cmu_lightning.unlearning.procedure import Procedure

IMPOSSIBLE_CALLBACKS: dict[type[Callback], str] = {
    GradientAccumulationScheduler: "would change what a step is: leave it out and set procedure.batch_size",
    BatchSizeFinder: "would change what a step is: leave it out and set procedure.batch_size",
    LearningRateFinder: "would change the procedure: leave it out and set procedure.lr",
    StochasticWeightAveraging: "averages over epochs, of which a stage has one: leave it out, or use WeightAveraging",
    Timer: "would end a stage before its last step: leave it, or max_time, out and set procedure.steps",
}


def check_callback(kind: type) -> None:
    """Of the command line or of a Trainer.

    Raises:
        UserError: It would change what a stage is.
    """
    for impossible, why in IMPOSSIBLE_CALLBACKS.items():
        if issubclass(kind, impossible):
            raise UserError(f"the callback {kind.__name__} {why}")


def check_precision(given: str | int) -> None:
    """Before anything is computed.

    Raises:
        UserError: Weights would have another number of bits than originals and importances.
    """
    if str(given) not in {*PRECISIONS, *PRECISIONS.values()}:
        raise UserError(
            f"trainer.precision={given} changes the weights themselves, of which importances and originals are in 32 "
            "bits: give 32-true, bf16-mixed or 16-mixed"
        )


def check_trainer(trainer: Trainer, stage: "Stage") -> None:
    """Before a stage is fitted.

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


class Measuring(LightningModule):
    """A network, a clock, the curves of its steps, and accuracies on whatever evaluations the data hold."""

    network: nn.Module

    def __init__(self) -> None:
        super().__init__()
        self.reference: Tensor | None = None
        """Classes that the original predicts on S_f, shape (|S_f|,); None for an original."""
        self.results: dict[str, float] = {}
        """All that `Trainer.test` measured."""
        self.scores: list[DomainAccuracy] = []
        self.sums: Tensor | None = None
        """Of what is logged of steps, since it was logged last."""
        self.compiles = False
        """Whether torch compiles the network for the steps; keys of checkpoints stay as they are."""
        self.seconds_before = 0.0
        self.started: float | None = None

    @property
    def data(self) -> CorruptedDataModule:
        """What the stage runs on."""
        trainer: Any = self.trainer
        data: CorruptedDataModule = trainer.datamodule
        return data

    @property
    def seconds(self) -> float:
        """Wall clock of training until now, without set-up, validation and evaluation."""
        return self.seconds_before + (0.0 if self.started is None else time.perf_counter() - self.started)

    def on_train_start(self) -> None:
        """Start the clock."""
        self.start_clock()

    def on_train_end(self) -> None:
        """Stop the clock.

        Raises:
            UserError: The weights are no numbers any more.
        """
        self.stop_clock()
        if not is_finite(self.network):
            raise UserError("training diverged to weights that are not finite, whose accuracies mean nothing: lower lr")

    def start_clock(self) -> None:
        """Count seconds from now on."""
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        """Add what has passed, once the device has done its work."""
        if self.started is not None:
            if self.device.type in ("cuda", "mps"):
                torch.get_device_module(self.device).synchronize()
            self.seconds_before = self.seconds
            self.started = None

    def log_curves(self, curves: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Log means over the last steps and all processes, without waiting for the device in between."""
        sums = torch.stack([torch.stack(pair).float() for pair in curves.values()])
        self.sums = sums if self.sums is None else self.sums + sums
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        if every and (self.global_step + 1) % every == 0:
            totals = trainer.strategy.reduce(self.sums, reduce_op="mean").tolist()
            means = {name: total / count for name, (total, count) in zip(curves, totals, strict=True) if count}
            shown = torch.tensor(means["train_loss"])  # on the CPU: the bar reads it at every step
            self.log("train_loss", shown, prog_bar=True, logger=False)
            rates = {"learning_rate": trainer.optimizers[0].param_groups[0]["lr"]} if trainer.optimizers else {}
            for logger in trainer.loggers:  # self.log would repeat forget_loss where no forget step was
                logger.log_metrics(means | rates, step=self.global_step)
            self.sums = None

    def on_validation_start(self) -> None:
        """Validation does not count as the stage's time."""
        self.stop_clock()
        self._new_scores(self.trainer.val_dataloaders)

    def on_validation_end(self) -> None:
        """Start the clock again, if it is the training that goes on."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.start_clock()

    def on_test_start(self) -> None:
        """Start counting."""
        self._new_scores(self.trainer.test_dataloaders)

    def _new_scores(self, loaders: Any) -> None:
        self.measured = [loader.evaluation.names for loader in loaders]
        self.scores = [DomainAccuracy(len(names)).to(self.device) for names in self.measured]

    def validation_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count what is right."""
        if len(batch.image):
            with self.steadily():
                predicted = self.network(batch.image).argmax(dim=1)
            self.scores[dataloader_idx].update(predicted, batch.target, batch.domain)

    @contextmanager
    def steadily(self) -> Iterator[None]:
        """Evaluation is the same in every process, and fast at once.

        What is chosen by a stopwatch, as cuDNN's convolutions are, rounds otherwise in the next process; and each shape
        of the few batches would be compiled anew.
        """
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        try:
            with torch.compiler.set_stance("force_eager") if self.compiles else nullcontext():
                yield
        finally:
            torch.backends.cudnn.benchmark = benchmark

    def test_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count what is right."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    def on_validation_epoch_end(self) -> None:
        """Log what selection needs."""
        if not self.trainer.sanity_checking:
            shown = {"val_acc", "changed", "selection_score"}
            values = {name: value for name, value in self._results().items() if name in shown}
            self.log_dict(values, prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Keep and log everything."""
        self.results = self._results()
        self.log_dict(self.results, sync_dist=True)

    def _results(self) -> dict[str, float]:
        """The metrics by their names; what does not apply is absent."""
        values: dict[str, float] = {}
        for names, score in zip(self.measured, self.scores, strict=True):
            values |= dict(zip(names, score.compute().view(-1).tolist(), strict=True))
        by_class = [values.pop(name) for name in list(values) if name.startswith("val_acc_class_")]
        if "unchanged" in values:
            values["changed"] = 1 - values.pop("unchanged")
        if self.reference is not None and by_class:
            samples = self.data.samples
            values["val_acc_matched"] = matched_accuracy(
                torch.tensor(by_class, dtype=torch.float64), samples.given_labels[samples.deleted]
            )
            values["selection_score"] = selection_score(values["val_acc"], values["changed"])
        return {name: value for name, value in values.items() if value == value}


RECORD = "cmu_lightning"
"""Key of the checkpoint's part that is a stage's own."""


View = Literal["train", "retain", "forget then retain", "passes"]
"""The data that a stage trains on: all of S_tr, the retain data, S_f and retain in turns, or one pass over each."""


class Stage(Measuring):
    """One LightningModule run by `fit` under `Trainer(max_epochs=1)`, for exactly its number of steps.

    A stage declares the view of the data it trains on and defines `loss`; the base does the rest.

    Args:
        network: Makes the network, such as `ResNet9` or a partial of it.
        procedure: How it is trained.
        seed: Seed of the initial weights, of the order of the data and of its augmentation.
    """

    view: ClassVar[View] = "train"
    unlearns: ClassVar[bool] = False
    """Whether it starts from an original, and depends on S_f."""
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"
    """Which of the procedure's numbers of steps is the stage's."""
    forwards: ClassVar[int] = 1
    """Forward passes over a sample in a step; teachers count."""
    augment: bool = False
    """Whether `passes` are shuffled and augmented; what is trained on always is."""
    lr: float | None = None
    """Peak learning rate, where it is not the procedure's."""

    def __init__(self, network: Callable[[], nn.Module], procedure: Procedure, seed: int | None = None) -> None:
        super().__init__()
        self.seed = 0 if seed is None else seed
        self.procedure = procedure
        self.make_network = network
        self.network = build(network, self.seed)
        self.record: dict[str, Any] = {}
        """What the command line wants to travel in the checkpoint."""
        self.samples_forward = 0
        self.samples_backward = 0
        self.folder: Path | None = None
        """Of the run, if the command line made one."""
        self.automatic_optimization = self.trains

    @property
    def trains(self) -> bool:
        """Whether its steps are an optimiser's; otherwise one step is the whole method."""
        return self.view != "passes"

    @property
    def steps(self) -> int:
        """Optimiser steps of this stage."""
        steps: int = getattr(self.procedure, self.uses)
        return steps

    @property
    def place(self) -> Path:
        """Where the stage leaves files of its own."""
        return self.folder or Path(self.trainer.default_root_dir)

    def plan(self, *epochs: int) -> list[int]:
        """For each step, which of the view's parts gives its batch.

        Args:
            epochs: Steps of an epoch of each part.
        """
        return [0] * self.steps

    def loss(self, batch: Batch) -> Tensor:
        """The loss of each sample, shape (n,): cross-entropy with the labels as given."""
        return cross_entropy(self.network(batch.image), batch.label, reduction="none")

    def global_mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """The mean over the global batch, of which this process holds a slice, maybe an empty one.

        DDP divides summed gradients by the number of processes; that is undone here.
        """
        return losses.sum() * (self.trainer.world_size / batch.total)

    def load_original(self) -> nn.Module | None:
        """What the stage starts from, in evaluation mode; None for an original."""
        return None

    def prepare(self) -> None:
        """What comes before the first step, on the CPU; nothing for an original."""

    def setup(self, stage: str) -> None:
        """Check that the trainer runs the stage once and that the network fits the data."""
        trainer = self.trainer
        if stage != "fit":
            return
        check_trainer(trainer, self)
        check_function(self.make_network, self.network, self.data)
        self.prepare()
        if trainer.world_size > 1 and self.trains:
            self.network = share_batch_norm(self.network, trainer.strategy.root_device)
        self.lay_out(self.network)
        if self.compiles and self.trains:
            self.network.compile(dynamic=False)

    def lay_out(self, network: nn.Module) -> None:
        """On GPUs channels last, as images are, so that no step has to turn weights over."""
        if self.trainer.strategy.root_device.type == "cuda":
            channels_last(network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Procedure A; None for what trains nothing."""
        if not self.trains:
            return None
        clipped = self.trainer.gradient_clip_val is not None  # Lightning cannot clip what a fused kernel unscales
        fused = self.trainer.strategy.root_device.type == "cuda" and not clipped
        optimizer = self.procedure.optimizer(self.network.parameters(), self.lr, fused)
        schedule = self.procedure.schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_start(self) -> None:
        """After a resume, have what an optimiser remembers as this device needs it; another one may have written it."""
        super().on_train_start()
        for each in self.trainer.optimizers:
            for group in each.param_groups if "fused" in each.defaults else ():
                group["fused"] = each.defaults["fused"]
            for parameter, remembered in each.state.items():
                for name, value in remembered.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        remembered[name] = torch.empty_like(parameter).copy_(value)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of a step."""
        self.begin_step(batch)
        try:
            losses = self.loss(batch)
        except (AttributeError, TypeError, ValueError) as error:
            refuse_untrainable(self.network, batch.image, error)
            raise
        if losses.shape != batch.label.shape:
            raise UserError(
                f"{type(self).__name__}.loss gives shape {tuple(losses.shape)} for {len(batch.label)} samples: give "
                "one loss for each, not their mean"
            )
        loss = self.global_mean(losses, batch)
        self.log_curves(self.curves(loss.detach(), losses.detach(), batch))
        return loss

    def begin_step(self, batch: Batch) -> None:
        """Reseed what is random in a network, such as dropout, and count samples."""
        torch.manual_seed(derive_seed(self.seed, self.global_step, self.global_rank))
        self.samples_forward += self.forwards * batch.total
        self.samples_backward += batch.total

    def curves(self, loss: Tensor, losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """What is logged of a step: by its name, a sum and the number of terms in it.

        Args:
            loss: What is minimised.
            losses: This process's samples', shape (n,).
            batch: Of the samples.
        """
        return {"train_loss": (loss, torch.ones_like(loss))}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What has been spent, and the original's predictions."""
        checkpoint[RECORD] = self.record | {
            "seconds": self.seconds,
            "samples_forward": self.samples_forward,
            "samples_backward": self.samples_backward,
            "reference": self.reference,
            "steps": self.steps,
        }
        if "optimizer_states" not in checkpoint:  # the last one, which others start from
            checkpoint[RECORD]["weights"] = tensors_digest(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from what had been spent."""
        record = checkpoint[RECORD]
        self.seconds_before = record["seconds"]
        self.samples_forward = record["samples_forward"]
        self.samples_backward = record["samples_backward"]
        self.reference = record["reference"]
