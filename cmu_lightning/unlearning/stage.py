"""The stage, base of all training and unlearning: network, procedure A, exact losses, measurements and logs."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch, CorruptedDataModule
from cmu_lightning.data.batches import (
    EvaluationBatch,
    EvaluationBatches,
    FullPasses,
    PairedBatches,
    Source,
    TrainingBatches,
)
from cmu_lightning.data.evaluation import of_deleted, of_validation
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import DomainAccuracy, matched_accuracy, selection_score
from cmu_lightning.unlearning.networks import (
    build,
    channels_last,
    check_function,
    check_outputs,
    is_finite,
    refuse_untrainable,
    share_batch_norm,
    tensors_digest,
)
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.trainer_checks import check_trainer

RECORD = "cmu_lightning"
"""Key of a stage's own part of a checkpoint."""

View = Literal["train", "retain", "forget", "forget then retain", "retain with forget", "passes"]
"""The data that a stage trains on: all of S_tr, the retain data, S_f, S_f and retain in turns, a batch of each in every
step, or one pass over each."""

LOGGED_IN_VALIDATION = ("val_acc", "changed", "selection_score")
"""Metrics that validation during training logs."""


class Stage(LightningModule):
    """Base LightningModule of originals and unlearners: `Trainer(max_epochs=1)` runs exactly its number of steps.

    A stage declares the `view` of the data it trains on and defines `loss`, the loss of each sample; this class asks
    the data module for the batches, averages losses exactly over all processes, trains with procedure A, measures,
    logs, and keeps track of time and samples.

    Args:
        network: Constructor of the network, such as `ResNet9` or a partial of it.
        procedure: Procedure A, by which the network is trained.
        seed: Seed of the initial weights, of the order of the data and of its augmentation.

    Example:
        >>> from functools import partial
        >>> from cmu_lightning.models import ResNet9
        >>> class SmoothedOriginal(Stage):
        ...     def loss(self, batch):
        ...         return cross_entropy(self.network(batch.image), batch.label, reduction="none", label_smoothing=0.1)
        >>> SmoothedOriginal(partial(ResNet9, num_classes=10), Procedure(steps=100)).steps
        100
    """

    view: ClassVar[View] = "train"
    """The data that are trained on."""
    unlearns: ClassVar[bool] = False
    """Whether the stage starts from an original and depends on S_f."""
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"
    """Which of the procedure's numbers of steps is the stage's."""
    forwards: ClassVar[int] = 1
    """Forward passes over a sample in a step, those of teachers included."""
    augment: bool = False
    """Whether the view `passes` is shuffled and augmented; other views always are."""
    lr: float | None = None
    """Peak learning rate, if it is not the procedure's."""
    averages: ClassVar[bool] = True
    """Whether an average of its weights over steps is a result, too; not where it ends with other weights."""
    stops_early: ClassVar[bool] = True
    """Whether what it has reached before its last step is a result, too; not where phases follow each other."""
    resumes: ClassVar[tuple[str, ...]] = ()
    """Attributes, plain data and tensors, with which an interrupted run continues."""
    keeps: ClassVar[tuple[str, ...]] = ()
    """Attributes, likewise, that a finished run is measured with."""
    changes_gradients: ClassVar[bool] = False
    """Whether the method adds to gradients before a step, which a fused kernel would unscale only within it."""

    def __init__(self, network: Callable[[], nn.Module], procedure: Procedure, seed: int | None = None) -> None:
        super().__init__()
        self.seed = 0 if seed is None else seed
        self.procedure = procedure
        self.make_network = network
        self.network: nn.Module = build(network, self.seed)
        self.reference: Tensor | None = None
        """Classes that the original predicts on S_f, shape (|S_f|,); None for an original."""
        self.results: dict[str, float] = {}
        """All metrics of the last `Trainer.test`."""
        self.record: dict[str, Any] = {}
        """What the command line adds to the stage's part of a checkpoint."""
        self.folder: Path | None = None
        """Folder of the run, if the command line made one."""
        self.compiles = False
        """Whether torch compiles the network for the steps; keys of checkpoints do not change."""
        self.is_checked = False
        """Whether the network is known to take the data's images as they are laid out."""
        self.contiguous = False
        """Whether that is (n, C, H, W) in memory, where channels last does not work."""
        self.samples_forward = 0
        self.samples_backward = 0
        self.seconds_before = 0.0
        self.started: float | None = None
        self.scores: list[DomainAccuracy] = []
        self.sums: Tensor | None = None
        """Sums and counts of each curve since the last time they were logged, shape (curves, 2)."""
        self.automatic_optimization = self.trains

    @property
    def data(self) -> CorruptedDataModule:
        """The data module that the Trainer runs the stage on."""
        trainer: Any = self.trainer
        data: CorruptedDataModule = trainer.datamodule
        return data

    @property
    def trains(self) -> bool:
        """Whether the steps are an optimiser's; otherwise one step is the whole method."""
        return self.view != "passes"

    @property
    def steps(self) -> int:
        """Number of optimiser steps."""
        steps: int = getattr(self.procedure, self.uses)
        return steps

    @property
    def place(self) -> Path:
        """Folder in which the stage leaves files of its own."""
        return self.folder or Path(self.trainer.default_root_dir)

    # ---- What a method defines ----

    def plan(self, *epochs: int) -> list[int]:
        """Return for each step which part of the view gives its batch.

        Args:
            epochs: Number of steps in an epoch of each part.
        """
        return [0] * self.steps

    def loss(self, batch: Batch) -> Tensor:
        """Return the loss of each sample, shape (n,): cross-entropy with the labels as given.

        Args:
            batch: This process's slice of the global batch.
        """
        return cross_entropy(self.network(batch.image), batch.label, reduction="none")

    def prepare(self) -> None:
        """Prepare the first step, on the CPU; an original only makes sure that no detector's S_f is left."""
        self.data.detect(None)

    # ---- Set-up ----

    def setup(self, stage: str) -> None:
        """Hand the loaders to the data module, and check that the Trainer and the network fit.

        Raises:
            UserError: The Trainer would not run the stage's steps, or the network does not fit the data.
        """
        self.data.serve(self, depends_on_deleted=self.unlearns)
        trainer = self.trainer
        if stage != "fit":
            if not self.is_checked:
                check_outputs(self.network.cpu(), self.data)  # settles how images lie in memory
            return
        check_trainer(trainer, self)
        with self.without_autotuning():
            check_function(self.make_network, self.network, self.data)
            self.is_checked, self.contiguous = True, self.data.contiguous
            self.prepare()
        if trainer.world_size > 1 and self.trains:
            self.network = share_batch_norm(self.network, trainer.strategy.root_device)
        self.lay_out(self.network)
        if self.compiles and self.trains:
            self.network.compile(dynamic=False)

    def lay_out(self, network: nn.Module) -> None:
        """Use channels last on GPUs, where images are so laid out, so that no step has to convert weights.

        Args:
            network: Network to change in place.
        """
        if self.trainer.strategy.root_device.type == "cuda" and not self.contiguous:
            channels_last(network)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return procedure A's optimiser and schedule; None for a method that does not train."""
        if not self.trains:
            return None
        # Lightning cannot clip what a fused kernel unscales, nor can a method add to it.
        is_changed = self.trainer.gradient_clip_val is not None or self.changes_gradients
        fused = self.trainer.strategy.root_device.type == "cuda" and not is_changed
        optimizer = self.procedure.optimizer(self.network.parameters(), self.lr, fused)
        schedule = self.procedure.schedule(optimizer, self.steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    # ---- Which batches the data module is asked for ----

    def train_dataloader(self) -> TrainingBatches | FullPasses:
        """Return the batches of the view, for exactly the stage's number of steps.

        Raises:
            UserError: There is no such view.
        """
        data, deleted = self.data, self.data.samples.deleted
        if self.view == "passes":
            return FullPasses(self._one_pass(deleted), self._one_pass(~deleted))
        parts: dict[str, tuple[str, ...]] = {
            **{part: (part,) for part in ("train", "retain", "forget")},
            "forget then retain": ("forget", "retain"),
            "retain with forget": ("retain", "forget"),
        }
        if self.view not in parts:
            known = ", ".join(map(repr, [*parts, "passes"]))
            raise UserError(f"{type(self).__name__}.view is {self.view!r}: give one of {known}")
        masks = {"train": torch.ones_like(deleted), "retain": ~deleted, "forget": deleted}
        # S_f has a separate seed, so that the other samples come in the same order with and without it.
        seeds = {"train": self.seed, "retain": self.seed, "forget": derive_seed(self.seed, 2)}
        size = self.procedure.batch_size
        sources = [data.training_source(masks[part], size, seeds[part]) for part in parts[self.view]]
        if self.view == "retain with forget":
            retain, forget = (self._loader([source], [0] * self.steps) for source in sources)
            return PairedBatches(retain, forget)
        return self._loader(sources, self.plan(*(source.sampler.steps_per_epoch for source in sources)))

    def _loader(self, sources: list[Source], plan: list[int]) -> TrainingBatches:
        return self.data.training_batches(sources, plan, done=lambda: self.trainer.global_step)

    def _one_pass(self, mask: Tensor) -> TrainingBatches:
        source = self.data.training_source(mask, self.procedure.batch_size, self.seed, self.augment)
        return self.data.training_batches([source], [0] * source.sampler.steps_per_epoch, done=lambda: 0)

    def val_dataloader(self) -> list[EvaluationBatches]:
        """Return what validation measures: validation samples, and S_f against the original's predictions."""
        data = self.data
        measured = [of_validation(data)] if len(data.validation.given_labels) else []
        if self.reference is not None:
            measured.append(of_deleted(data, self.reference))
        return [data.evaluation_batches(each) for each in measured]

    def test_dataloader(self) -> list[EvaluationBatches]:
        """Return all that is measured, on test, training and validation samples."""
        return [self.data.evaluation_batches(each) for each in self.data.evaluations(self.reference).values()]

    # ---- Steps ----

    def on_train_start(self) -> None:
        """Start the clock, and adapt an optimiser's state to this device after a resume.

        Another device may have written it: fused kernels and the memory layout of the momentum differ.
        """
        self.start_clock()
        for each in self.trainer.optimizers:
            for group in each.param_groups if "fused" in each.defaults else ():
                group["fused"] = each.defaults["fused"]
            for parameter, remembered in each.state.items():
                for name, value in remembered.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        remembered[name] = torch.empty_like(parameter).copy_(value)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a step, and log its curves.

        Raises:
            UserError: The network cannot be trained, or `loss` gives something else than a loss for each sample.
        """
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
        """Reseed what is random in a network, such as dropout, and count samples.

        Args:
            batch: This process's slice of the global batch.
        """
        torch.manual_seed(derive_seed(self.seed, self.global_step, self.global_rank))
        self.samples_forward += self.forwards * batch.total
        self.samples_backward += batch.total

    def global_mean(self, losses: Tensor, batch: Batch) -> Tensor:
        """Return this process's part of the mean loss over the global batch.

        DDP averages the gradients of W processes, and slices have different sizes, some 0. So each process returns
        W / N times the sum over its slice, N being the size of the global batch: the average over processes is the mean
        over samples.

        Args:
            losses: Loss of each sample of the slice, shape (n,).
            batch: Slice of the global batch.
        """
        return losses.sum() * (self.trainer.world_size / batch.total)

    def on_train_end(self) -> None:
        """Stop the clock.

        Raises:
            UserError: The weights are not finite.
        """
        self.stop_clock()
        if not is_finite(self.network):
            raise UserError("training diverged to weights that are not finite, whose accuracies mean nothing: lower lr")

    # ---- What is logged: curves of steps, metrics of validation, metrics of the test ----

    def curves(self, loss: Tensor, losses: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Return what is logged of a step: for each name a sum and the number of its terms.

        Args:
            loss: What is minimised, shape ().
            losses: Losses of this process's samples, shape (n,).
            batch: This process's slice of the global batch.
        """
        return {"train_loss": (loss, torch.ones_like(loss))}

    def log_curves(self, curves: dict[str, tuple[Tensor, Tensor]]) -> None:
        """Log means over the last steps and all processes, without waiting for the device in between.

        Args:
            curves: Result of `curves` in this step.

        Raises:
            UserError: The mean loss is not finite; it is of all processes, so that all of them stop at this step.
        """
        # Sums stay on the device until they are logged.
        sums = torch.stack([torch.stack(pair).float() for pair in curves.values()])
        self.sums = sums if self.sums is None else self.sums + sums
        trainer: Any = self.trainer
        every = trainer.log_every_n_steps
        if not every or (self.global_step + 1) % every:
            return
        totals = trainer.strategy.reduce(self.sums, reduce_op="mean").tolist()
        means = {name: total / number for name, (total, number) in zip(curves, totals, strict=True) if number}
        if not isfinite(means["train_loss"]):
            raise UserError(self._describe_divergence(means["train_loss"], every))
        # The progress bar reads its number at every step, so that number is on the CPU.
        self.log("train_loss", torch.tensor(means["train_loss"]), prog_bar=True, logger=False)
        rates = {"learning_rate": trainer.optimizers[0].param_groups[0]["lr"]} if trainer.optimizers else {}
        # Not by self.log, which would repeat the last forget_loss where no forget step was.
        for logger in trainer.loggers:
            logger.log_metrics(means | rates, step=self.global_step)
        self.sums = None

    def _describe_divergence(self, loss: float, every: int) -> str:
        """Return where the loss stopped being a number, and what to change.

        Args:
            loss: Mean loss of the last steps.
            every: Number of steps between two points that are logged, the last of which is this step.
        """
        last = self.global_step + 1
        steps = f"step {last}" if every == 1 else f"steps {last - every + 1} to {last}"
        rate = f"procedure.lr={self.procedure.lr}" if self.lr is None else f"model.lr={self.lr}"
        return (
            f"training diverged: train_loss became {loss} in {steps} of {self.steps}, from which no step returns: "
            f"lower {rate}, or give trainer.gradient_clip_val"
        )

    def on_validation_epoch_end(self) -> None:
        """Log the metrics that selection needs."""
        if not self.trainer.sanity_checking:
            metrics = self._metrics()
            shown = {name: metrics[name] for name in LOGGED_IN_VALIDATION if name in metrics}
            self.log_dict(shown, prog_bar=True, sync_dist=True)

    def on_test_epoch_end(self) -> None:
        """Keep and log all metrics."""
        self.results = self._metrics()
        self.log_dict(self.results, sync_dist=True)

    def _metrics(self) -> dict[str, float]:
        """Return the metrics of all evaluations by their names; a metric that does not apply is absent."""
        values: dict[str, float] = {}
        for each, score in zip(self.measured, self.scores, strict=True):
            values |= dict(zip(each.names, score.compute().view(-1).tolist(), strict=True))
        by_class = [values.pop(name) for name in list(values) if name.startswith("val_acc_class_")]
        if "unchanged" in values:
            values["changed"] = 1 - values.pop("unchanged")
        if self.reference is not None and by_class:
            samples = self.data.samples
            values["val_acc_matched"] = matched_accuracy(
                torch.tensor(by_class, dtype=torch.float64), samples.given_labels[samples.deleted]
            )
            values["selection_score"] = selection_score(values["val_acc"], values["changed"])
        return {name: value for name, value in values.items() if value == value}  # not NaN: a domain without samples

    # ---- Measuring ----

    def on_validation_start(self) -> None:
        """Stop the clock: validation does not count as the stage's time."""
        self.stop_clock()
        self._reset_scores(self.trainer.val_dataloaders)

    def on_validation_end(self) -> None:
        """Start the clock again, if training continues."""
        if self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking:
            self.start_clock()

    def on_test_start(self) -> None:
        """Reset the scores."""
        self._reset_scores(self.trainer.test_dataloaders)

    def _reset_scores(self, loaders: Any) -> None:
        self.measured = [loader.evaluation for loader in loaders]
        self.scores = [DomainAccuracy(len(each.names)).to(self.device) for each in self.measured]

    def validation_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count correct predictions on this process's slice of a batch, which can be empty."""
        if len(batch.image):
            with self.without_autotuning():
                predicted = self.measured[dataloader_idx].predictions(self.network(batch.image))
            self.scores[dataloader_idx].update(predicted, batch.target, batch.domain)

    def test_step(self, batch: EvaluationBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Count correct predictions, as in validation."""
        self.validation_step(batch, batch_idx, dataloader_idx)

    @contextmanager
    def without_autotuning(self) -> Iterator[None]:
        """Use the same kernels in every process while evaluating, at once.

        Kernels chosen by a stopwatch, as cuDNN's convolutions can be, round differently in the next process; and each
        shape of the few batches would be compiled separately.
        """
        benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        try:
            with torch.compiler.set_stance("force_eager") if self.compiles else nullcontext():
                yield
        finally:
            torch.backends.cudnn.benchmark = benchmark

    # ---- Cost ----

    @property
    def seconds(self) -> float:
        """Wall clock of training until now, without set-up, validation and evaluation."""
        return self.seconds_before + (0.0 if self.started is None else time.perf_counter() - self.started)

    def start_clock(self) -> None:
        """Count seconds from now on."""
        self.started = time.perf_counter()

    def stop_clock(self) -> None:
        """Add the seconds since the start, once the device has done its work."""
        if self.started is not None:
            if self.device.type in ("cuda", "mps"):
                torch.get_device_module(self.device).synchronize()
            self.seconds_before = self.seconds
            self.started = None

    # ---- Checkpoints ----

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the cost so far, the original's predictions, and what the method needs."""
        checkpoint[RECORD] = (
            self.record
            | {name: getattr(self, name) for name in self.keeps}
            | {
                "seconds": self.seconds,
                "samples_forward": self.samples_forward,
                "samples_backward": self.samples_backward,
                "reference": self.reference,
                "steps": self.steps,
            }
        )
        if "optimizer_states" in checkpoint:
            checkpoint[RECORD]["state"] = {name: getattr(self, name) for name in self.resumes}
        else:  # the last one, which others start from
            checkpoint[RECORD]["weights"] = tensors_digest(checkpoint["state_dict"])

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue with the cost and the original's predictions of a checkpoint, and what the method needs.

        Raises:
            UserError: A method that needs more than its weights has not stored it, in an earlier version.
        """
        record = checkpoint[RECORD]
        self.seconds_before = record["seconds"]
        self.samples_forward = record["samples_forward"]
        self.samples_backward = record["samples_backward"]
        self.reference = record["reference"]
        state = record.get("state", {})
        if "optimizer_states" in checkpoint and state.keys() != {*self.resumes}:
            raise UserError(
                f"the checkpoint is of an unfinished run of an earlier version of {type(self).__name__}: delete the "
                "run's last.ckpt, and the same command trains from the beginning"
            )
        for name, value in (state | {name: record[name] for name in self.keeps if name in record}).items():
            setattr(self, name, value)
