"""What is measured of a stage: how long it takes, and what its network gets right."""

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.data.evaluation import EvaluationBatch
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import DomainAccuracy, matched_accuracy, selection_score
from cmu_lightning.unlearning.networks import is_finite


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
                torch.tensor(by_class, dtype=torch.float64), samples.labels[samples.deleted]
            )
            values["selection_score"] = selection_score(values["val_acc"], values["changed"])
        return {name: value for name, value in values.items() if value == value}
