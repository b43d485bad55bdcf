"""Gradient ascent on S_f: GradientAscent, its bounded form NPO, and NegGradPlus, which descends on the retain data."""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, logsigmoid

from cmu_lightning.data import Batch
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.distillation import DistillationUnlearner
from cmu_lightning.unlearning.forgetting import AscentUnlearner
from cmu_lightning.unlearning.stage import View


class GradientAscent(AscentUnlearner):
    """Gradient ascent on S_f until its labels are forgotten; the retain data are not used.

    The loss of a deleted sample is -CE(network(x), y). It is unbounded, so training must stop in time: as
    in REM's comparison (ICLR 2026), at an accuracy on S_f of at most 0.2, checked after each epoch over S_f. That
    comparison then takes the best epoch by REM's proxy; here the last weights count.

    Args:
        lr: Peak learning rate; that of REM's comparison.
        stop_at: gamma, the fraction of S_f still classified as labelled at which training stops; None for all steps.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import GradientAscent, Procedure
        >>> GradientAscent(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").stop_at
        0.2
    """

    view: ClassVar[View] = "forget"

    def __init__(self, *args: Any, lr: float | None = 0.005, stop_at: float | None = 0.2, **kwargs: Any) -> None:
        super().__init__(*args, lr=lr, stop_at=stop_at, **kwargs)

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative cross-entropy with the labels as given, shape (n,).

        Args:
            batch: This process's slice of a global batch of S_f, n samples.
        """
        return -cross_entropy(self.forget_logits(batch), batch.label, reduction="none")


def preference(loss: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Return -(2 / beta) log sigmoid(beta (loss - reference)), shape (n,).

    Its gradient is -2 sigmoid(-beta u) times that of the loss, with u = loss - reference: gradient ascent at u = 0,
    whatever beta is, and less and less of it as a sample is forgotten.

    Args:
        loss: Loss of each sample, shape (n,).
        reference: Loss of each sample by the original, shape (n,).
        beta: How soon ascent ends; in the limit 0 it never does.
    """
    return -2 / beta * logsigmoid(beta * (loss - reference))


class NPO(AscentUnlearner, DistillationUnlearner):
    """Negative preference optimisation (Zhang et al., 2024): ascent on S_f that fades as a sample is forgotten.

    With the loss l = CE(network(x), y), and l_o that of the frozen original in evaluation mode, the loss of a deleted
    sample is

        -(2 / beta) log sigmoid(beta (l - l_o))

    At the start l = l_o with `forget_batch_norm=eval`; batch norm in training mode, as in REM's comparison, makes the
    two differ.

    Learning rate and stop are those of REM's comparison (ICLR 2026), which takes at most 10 epochs over S_f.

    Args:
        beta: Inverse temperature; with a larger value ascent fades sooner.
        lr: Peak learning rate.
        stop_at: gamma, the fraction of S_f still classified as labelled at which training stops; None for all steps.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import NPO, Procedure
        >>> NPO(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").beta
        1.0
    """

    view: ClassVar[View] = "forget"
    forwards: ClassVar[int] = 2

    def __init__(
        self,
        *args: Any,
        beta: float = 1.0,
        lr: float | None = 0.005,
        stop_at: float | None = 0.2,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, lr=lr, stop_at=stop_at, **kwargs)
        if not beta > 0:
            raise UserError(f"NPO needs beta > 0, not beta={beta}: in the limit 0 it is GradientAscent")
        self.beta = beta

    def loss(self, batch: Batch) -> Tensor:
        """Return the negative preference of each label to the original's, shape (n,).

        Args:
            batch: This process's slice of a global batch of S_f, n samples.
        """
        (teacher,) = self.teacher_logits(batch.image)
        reference = cross_entropy(teacher, batch.label, reduction="none")
        loss = cross_entropy(self.forget_logits(batch), batch.label, reduction="none")
        return preference(loss, reference, self.beta)


class NegGradPlus(AscentUnlearner):
    """NegGrad+ (Kurmanji et al., NeurIPS 2023): descent on the retain data and ascent on S_f in every step.

    With a batch of each, those of S_f repeated as often as needed, a step minimises

        a mean CE(retain) - (1 - a) mean CE(S_f),   a = retain_weight

    Args:
        retain_weight: a; 1 is CF and 0 gradient ascent, without a pass over the other batch. Published values are from
            0.95 to 0.9999.
        kwargs: Arguments of `AscentUnlearner`.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import NegGradPlus, Procedure
        >>> NegGradPlus(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt", retain_weight=0.99).steps
        1000
    """

    view: ClassVar[View] = "retain with forget"

    def __init__(self, *args: Any, retain_weight: float = 0.95, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not 0 <= retain_weight <= 1:
            raise UserError(f"NegGradPlus needs retain_weight from 0 to 1, not retain_weight={retain_weight}")
        self.retain_weight = retain_weight

    def training_step(self, batch: tuple[Batch, Batch], batch_idx: int) -> Tensor:  # type: ignore[override]
        """Return the weighted difference of the mean losses of two batches.

        Args:
            batch: This process's slices of a global batch of the retain data and of one of S_f.
            batch_idx: Step, counted from 0.
        """
        retain, forget = batch
        both = retain.joined(forget)
        # The mean is over both batches together: these factors make it one over each.
        self.parts = retain, forget
        self.factors = (
            self.retain_weight * both.total / retain.total,
            -(1 - self.retain_weight) * both.total / forget.total,
        )
        return super().training_step(both, batch_idx)

    def loss(self, batch: Batch) -> Tensor:
        """Return the cross-entropy of each sample times its batch's factor, shape (n,).

        Args:
            batch: A slice of the retain data followed by one of S_f, n samples together.
        """
        retain, forget = self.parts

        def weighted(part: Batch, classify: Callable[[Batch], Tensor], factor: float) -> Tensor:
            # A pass that counts nothing is left out, because it would move the statistics of batch norm.
            if not factor:
                return torch.zeros(len(part.label), device=self.device)
            return factor * cross_entropy(classify(part), part.label, reduction="none")

        of_retain, of_forget = self.factors
        descent = weighted(retain, lambda part: self.network(part.image), of_retain)
        return torch.cat([descent, weighted(forget, self.forget_logits, of_forget)])
