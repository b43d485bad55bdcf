"""Random labels on S_f, for all parameters (RandomLabel) or for the most salient ones (SalUn)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from cmu_lightning.data import Batch
from cmu_lightning.data.batches import TrainingBatches
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.forgetting import ForgettingUnlearner
from cmu_lightning.unlearning.importance import batch_importance, task_loss
from cmu_lightning.unlearning.masking import MaskedUnlearner
from cmu_lightning.unlearning.scrub import alternation
from cmu_lightning.unlearning.stage import View

LABELS = 3
"""Part of the seed of the labels, so that nothing else random depends on them."""


def draw_labels(given: Tensor, num_classes: int, among: Literal["all", "others"], seed: int, epoch: int) -> Tensor:
    """Return a random label for each sample, the same on every process.

    Args:
        given: Given labels, int64, shape (n,), on the CPU.
        num_classes: C.
        among: Uniformly among `all` C classes, or among the C - 1 `others` than the given one.
        seed: Seed of the method.
        epoch: Number of the draw, counted from 0.

    Example:
        >>> draw_labels(torch.tensor([0, 1, 1]), 2, "others", seed=0, epoch=0)
        tensor([1, 0, 0])
    """
    random = generator(seed, epoch, 0, LABELS)
    if among == "all":
        return torch.randint(num_classes, given.shape, generator=random)
    return (given + 1 + torch.randint(num_classes - 1, given.shape, generator=random)) % num_classes


class RandomLabel(ForgettingUnlearner):
    """Random labels: fine-tuning on all of S_tr, with labels of S_f that are drawn again in each epoch.

    The loss is CE(network(x), y~) on S_f, y~ drawn at random, and CE(network(x), y) on the retain data, in turns of an
    epoch over S_f and one over the retain data, or on batches of both. Turns always end with the retain data.
    `all` classes and turns are what SalUn's released code does on CIFAR-10, `mixed` what it does on CIFAR-100; `others`
    is the variant of Amnesiac unlearning (Graves et al., 2021).

    Args:
        labels: Whether labels are drawn among `all` classes, or the `others` than the given one.
        order: `sequential` for turns, `mixed` for batches of S_f and the retain data together, on which
            `forget_batch_norm` has no effect.
        lr: Peak learning rate; default the procedure's.
        kwargs: As of every unlearner, and `forget_batch_norm`.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import Procedure, RandomLabel
        >>> RandomLabel(ResNet9, Procedure(), "original/last.ckpt", order="mixed").view
        'train'
    """

    view: ClassVar[View] = "forget then retain"

    def __init__(
        self,
        *args: Any,
        labels: Literal["all", "others"] = "all",
        order: Literal["sequential", "mixed"] = "sequential",
        lr: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if lr is not None and not lr > 0:
            raise UserError(f"{type(self).__name__} needs lr > 0, not lr={lr}")
        self.labels, self.order, self.lr = labels, order, lr
        if order == "mixed":
            self.view = "train"  # type: ignore[misc]  # a choice of each object
        self.epoch = -1
        """Epoch that the labels are of."""
        self.is_forget_step = False
        self.drawn = torch.empty(0)
        """Labels of S_tr, those of S_f drawn, int64, shape (N,)."""

    def plan(self, *epochs: int) -> list[int]:
        """Return for each step whether it is of S_f (0) or of the retain data (1); of all of S_tr it is 0.

        Args:
            epochs: Steps of an epoch over S_f, and of one over the retain data.
        """
        if self.order == "mixed":
            return [0] * self.steps
        forget_epoch, retain_epoch = epochs
        if forget_epoch >= self.steps:
            raise UserError(
                f"{type(self).__name__} begins with an epoch of {forget_epoch} steps over S_f, and unlearn_steps="
                f"{self.steps} leaves none for the retain data: give more, or order=mixed"
            )
        # The last turn to begin is the last that fits, so that the end is of the retain data.
        last = max(1, self.steps - forget_epoch - retain_epoch + 1)
        return alternation(self.steps, last, forget_epoch, retain_epoch, "epoch")

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Draw labels where an epoch over S_f begins, or where a run is resumed within one.

        Args:
            batch: Not used.
            batch_idx: Not used.
        """
        source, epoch = self.trainer.train_dataloader.part(self.global_step)  # type: ignore[union-attr]
        self.is_forget_step = self.order == "sequential" and source == 0
        if source == 0 and epoch != self.epoch:
            samples = self.data.samples
            given, deleted = samples.given_labels.cpu().clone(), samples.deleted.cpu()
            given[deleted] = draw_labels(given[deleted], self.data.num_classes, self.labels, self.seed, epoch)
            self.drawn, self.epoch = given.to(self.device), epoch

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy with drawn labels on S_f and with given ones elsewhere, shape (n,).

        Args:
            batch: This process's slice of the global batch, n samples.
        """
        if self.is_forget_step:
            return cross_entropy(self.forget_logits(batch), self.drawn[batch.train_index], reduction="none")
        labels = self.drawn[batch.train_index] if self.order == "mixed" else batch.label
        return cross_entropy(self.network(batch.image), labels, reduction="none")


class SalUn(MaskedUnlearner, RandomLabel):
    """Saliency unlearning (Fan et al., ICLR 2024): random labels that change only the most salient parameters.

    The saliency of a parameter is the absolute value of the gradient of the loss on S_f, summed over batches, at the
    original in evaluation mode. The fraction k = `trained_fraction` with the largest saliency is trained as by
    `RandomLabel`, over all parameters jointly; all others do not change, bit for bit. k = 1 is `RandomLabel`.

    Args:
        trained_fraction: k, in (0, 1].
        keep_statistics: Whether batch norm also keeps its statistics; otherwise they move, as in the released code.
        lr: Peak learning rate; that of the released code's example.
        kwargs: As of `RandomLabel`.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import Procedure, SalUn
        >>> SalUn(ResNet9, Procedure(), "original/last.ckpt").trained_fraction
        0.5
    """

    def __init__(
        self,
        *args: Any,
        trained_fraction: float = 0.5,
        keep_statistics: bool = False,
        lr: float | None = 0.013,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, lr=lr, **kwargs)
        if not 0 < trained_fraction <= 1:
            raise UserError(f"SalUn needs trained_fraction in (0, 1], not trained_fraction={trained_fraction}")
        self.trained_fraction, self.keep_statistics = trained_fraction, keep_statistics

    def holds_statistics(self, name: str) -> bool:
        """Return `keep_statistics`, of every batch norm.

        Args:
            name: Not used.
        """
        return self.keep_statistics

    def trained_entries(self, original: nn.Module) -> dict[str, Tensor]:
        """Return the floor(k P) entries with the largest saliency, the first ones of equal ones.

        Args:
            original: The original in evaluation mode, on the CPU.
        """
        saliency = self.saliency(original)
        count = int(self.trained_fraction * len(saliency) + 1e-9)
        if not count:
            raise UserError(
                f"SalUn with trained_fraction={self.trained_fraction} trains none of the network's {len(saliency):,} "
                "parameters: give a larger one"
            )
        trained = torch.zeros_like(saliency, dtype=torch.bool)
        trained[saliency.argsort(descending=True, stable=True)[:count]] = True
        parts = torch.split_with_sizes(trained, [parameter.numel() for parameter in original.parameters()])
        named = original.named_parameters()
        return {name: part.view_as(parameter) for (name, parameter), part in zip(named, parts, strict=True)}

    def saliency(self, original: nn.Module) -> Tensor:
        """Return |sum over batches of the gradient of the mean loss on S_f|, up to a factor, shape (P,), on the CPU.

        Every process computes all of it, so that the mask does not depend on their number.

        Args:
            original: The original in evaluation mode, on the CPU; it is left there.
        """
        data = self.data
        source = data.training_source(data.samples.deleted, self.procedure.batch_size, self.seed, augment=False)
        number = source.sampler.steps_per_epoch
        batches = TrainingBatches([source], [0] * number, lambda: 0, data.pixels(), rank=0, world_size=1)
        original.to(self.trainer.strategy.root_device)
        gradient = batch_importance(original, batches, task_loss, measure=lambda each: each, total=lambda each: each)
        original.cpu()
        self.samples_forward += source.sampler.count
        self.samples_backward += source.sampler.count
        # Rounding may differ between processes, and entries near the limit with it: process 0's count.
        saliency: Tensor = self.trainer.strategy.broadcast(gradient.abs().cpu())
        return saliency
