"""BadT: distillation from an incompetent teacher (Chundawat et al., 2023; paper, A.2 (4))."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import mix
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.stage import build
from cmu_lightning.unlearning.unlearner import Unlearner


def divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of each sample, shape (n,), from logits of shape (n, num_classes)."""
    expected = log_softmax(teacher, dim=1)
    return (expected.exp() * (expected - log_softmax(student, dim=1))).sum(dim=1)


class BadT(Unlearner):
    """Follows the original, but on S_f a freshly initialised network; both teachers are frozen, at temperature 1.

    Labels are not used. The teachers are never part of a checkpoint.

    Args:
        network: Makes the network; the original's.
        procedure: How it is fine-tuned.
        original: Checkpoint of the original.
        seed: Of the bad teacher and of all else that is random here.
        reduction: `mean` divides the summed divergence by samples and by classes, as the released code does;
            `batchmean` by samples.
    """

    view: ClassVar[Literal["train", "retain"]] = "train"
    forwards: ClassVar[int] = 3

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        reduction: Literal["mean", "batchmean"] = "mean",
    ) -> None:
        super().__init__(network, procedure, original, seed)
        self.reduction = reduction
        self.teachers: tuple[nn.Module, ...] = ()  # in a tuple, so that they are no part of the module

    def start(self, original: nn.Module) -> None:
        """Keep the original as the good teacher, and make the bad one, with a generator of its own."""
        super().start(original)
        bad = build(self.make_network, mix(self.seed, 1))
        self.teachers = tuple(teacher.eval().requires_grad_(False) for teacher in (original, bad))

    def on_fit_start(self) -> None:
        """Teachers follow the student to its device."""
        for teacher in self.teachers:
            teacher.to(self.device)

    def loss(self, batch: Batch) -> Tensor:
        """Divergence from the bad teacher where a sample is deleted, from the good one elsewhere."""
        with torch.no_grad():
            good, bad = (teacher(batch.image) for teacher in self.teachers)
            teacher = torch.where(batch.deleted.unsqueeze(1), bad, good)
        losses = divergence(self.network(batch.image), teacher)
        return losses / teacher.shape[1] if self.reduction == "mean" else losses
