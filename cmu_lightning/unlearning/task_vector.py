"""Unlearning by subtraction of task vectors: CUTS (arXiv 2511.18660) and NegMerge (ICML 2025, arXiv 2410.05583)."""

from collections.abc import Sequence
from math import inf
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.lr_scheduler import LambdaLR

from cmu_lightning.data import Batch
from cmu_lightning.data.batches import TrainingBatches
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.candidates import CandidateUnlearner
from cmu_lightning.unlearning.networks import evaluation_mode


def agreed(total: Tensor, signs: Tensor, count: int) -> Tensor:
    """Return the mean of K task vectors where all have the same sign, and 0 elsewhere (NegMerge).

    Args:
        total: Sum of the vectors, of any shape.
        signs: Sum of their signs, of the same shape.
        count: K; for one vector the result is that vector.

    Example:
        >>> agreed(torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0]), count=2)
        tensor([1.5000, 0.0000])
    """
    return torch.where(signs.abs() == count, total / count, 0)


class TaskVector(CandidateUnlearner):
    """CUTS: subtracts from the weights the change that fine-tuning on corrupted samples causes.

      1. Fine-tune the original theta_o on S_f, as labelled, for `procedure.unlearn_steps` steps: theta_ft.
      2. tau = theta_ft - theta_o, without the parameters and statistics of batch norm.
      3. theta = theta_o - a tau for a = 0, 0.05, 0.10, ..., 6; the best a by validation samples is kept
         (`CandidateUnlearner`). a = 0 is the original.

    The published method is source-free: its corrupted samples are held-out images that are corrupted again, and the
    kind of corruption determines a. Here they are S_f itself, which is known, and one rule chooses a.

    The network is in evaluation mode throughout, so one sample is enough. Weight decay is off: it would be a part
    of tau, and the larger a part the better S_f was learned.

    Args:
        lr: Peak learning rate; if fine-tuning is unstable, tau is meaningless.
    """

    averages: ClassVar[bool] = False
    stops_early: ClassVar[bool] = False
    resumes = ("total", "signs")
    scales: ClassVar[tuple[float, ...]] = tuple(step / 20 for step in range(121))
    """Values of a to try."""

    def __init__(self, *args: Any, lr: float = 0.0025, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 < lr < inf:
            raise UserError(f"lr={lr} is not possible: give a number over 0")
        self.lr = lr
        self.total: dict[str, Tensor] = {}
        """Sum of the task vectors so far, by parameter."""
        self.signs: dict[str, Tensor] = {}
        """Sum of their signs."""

    @property
    def factors(self) -> Sequence[float]:
        """Learning rate of each fine-tuning, as a multiple of `lr`."""
        return (1.0,)

    @property
    def steps(self) -> int:
        """Steps of all fine-tunings."""
        return len(self.factors) * self.procedure.unlearn_steps

    def start(self, original: nn.Module) -> None:
        """Start from the original, and keep its parameters.

        Args:
            original: The original, on the CPU.
        """
        super().start(original)
        self.initial = {name: value.detach().clone() for name, value in original.named_parameters()}
        normed = {name for name, module in original.named_modules() if isinstance(module, _BatchNorm)}
        self.moved = [name for name in self.initial if name.rpartition(".")[0] not in normed]

    def on_fit_start(self) -> None:
        """Move the original's parameters to the device."""
        for kept in (self.initial, self.total, self.signs):
            kept |= {name: value.to(self.device) for name, value in kept.items()}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return procedure A's optimiser without weight decay, and its schedule once for each fine-tuning."""
        made: Any = super().configure_optimizers()
        optimizer: torch.optim.Optimizer = made["optimizer"]
        for group in optimizer.param_groups:
            group["weight_decay"] = 0.0
        length, factors = self.procedure.unlearn_steps, self.factors

        def rate(step: int) -> float:
            number, within = divmod(min(step, self.steps - 1), length)
            return factors[number] * self.procedure.rate(within, length)

        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": LambdaLR(optimizer, rate), "interval": "step"}}

    def train_dataloader(self) -> TrainingBatches:
        """Return batches of S_f, in a different order for each fine-tuning."""
        data, size = self.data, self.procedure.batch_size
        count, length = len(self.factors), self.procedure.unlearn_steps
        seeds = [derive_seed(self.seed, 2, number) for number in range(count)]
        sources = [data.training_source(data.samples.deleted, size, seed) for seed in seeds]
        plan = [number for number in range(count) for _ in range(length)]
        return data.training_batches(sources, plan, done=lambda: self.trainer.global_step)

    def loss(self, batch: Batch) -> Tensor:
        """Return cross-entropy with the labels as given, in evaluation mode, shape (n,).

        Args:
            batch: This process's slice of the global batch, n samples.
        """
        with evaluation_mode(self.network):
            return cross_entropy(self.network(batch.image), batch.label, reduction="none")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Take the task vector of a fine-tuning that is over, and start the next one from the original."""
        step = self.global_step
        if step and step % self.procedure.unlearn_steps == 0:
            self._take()
            self._load(0.0)
            for optimizer in self.trainer.optimizers:
                optimizer.state.clear()  # momentum

    def on_train_epoch_end(self) -> None:
        """Take the last task vector, and subtract the best multiple of tau."""
        self._take()
        self.keep_best("scale", self.scales, self._load)

    @torch.no_grad()
    def _take(self) -> None:
        """Add the task vector of the current network."""
        parameters = dict(self.network.named_parameters())
        for name in self.moved:
            vector = parameters[name] - self.initial[name]
            self.total[name] = self.total.get(name, 0) + vector
            self.signs[name] = self.signs.get(name, 0) + vector.sign()

    @torch.no_grad()
    def _load(self, scale: float) -> None:
        """Set the network to theta_o - a tau.

        Args:
            scale: a.
        """
        for name, parameter in self.network.named_parameters():
            parameter.copy_(self.initial[name])
            if scale and name in self.total:
                parameter.sub_(agreed(self.total[name], self.signs[name], len(self.factors)), alpha=scale)


class NegMerge(TaskVector):
    """NegMerge: task vectors of several fine-tunings, in which only entries with equal signs count.

    As `TaskVector`, with K fine-tunings at K learning rates and orders of S_f: tau is the mean of the K task vectors
    where all of them have the same sign, and 0 elsewhere. It takes K times `procedure.unlearn_steps` steps on S_f.

    Args:
        rates: Learning rates of the fine-tunings, as multiples of `lr`.
        repeats: Fine-tunings at each rate, which differ in the order of S_f and its augmentation.
    """

    def __init__(self, *args: Any, rates: tuple[float, ...] = (0.5, 1.0, 2.0), repeats: int = 3, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (rates and min(rates) > 0 and max(rates) < inf and repeats >= 1):
            raise UserError(
                f"rates={list(rates)} and repeats={repeats} are not possible: give multiples of lr over 0, and at "
                "least one repeat"
            )
        self.rates, self.repeats = tuple(rates), repeats

    @property
    def factors(self) -> Sequence[float]:
        """Learning rate of each fine-tuning, as a multiple of `lr`."""
        return [rate for rate in self.rates for _ in range(self.repeats)]
