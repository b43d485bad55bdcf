"""BadT: distillation from an incompetent teacher (Chundawat et al., 2023; paper, A.2 (4))."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.unlearning.distillation import DistillationUnlearner, divergence
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.stage import View


class BadT(DistillationUnlearner):
    """Bad teaching: the student follows the original on the retain data and a randomly initialised network on S_f.

    For a sample x of S_tr, with d = 1 if x is in S_f and d = 0 otherwise, and two frozen teachers:

        loss(x) = (1 - d) KL(original(x) || student(x)) + d KL(random(x) || student(x))

    at temperature 1, averaged over all of S_tr. Labels are not used.

    Args:
        reduction: `mean` divides the summed divergence by samples and by classes, as the released code does;
            `batchmean` by samples.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import BadT, Procedure
        >>> stage = BadT(ResNet9, Procedure(), "original/last.ckpt", reduction="batchmean")
    """

    view: ClassVar[View] = "train"
    forwards: ClassVar[int] = 3

    def __init__(self, *args: Any, reduction: Literal["mean", "batchmean"] = "mean", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reduction = reduction

    def more_teachers(self) -> tuple[nn.Module, ...]:
        """Return the bad teacher, drawn by a separate seed, so that nothing else random depends on it."""
        return (build(self.make_network, derive_seed(self.seed, 1)),)

    def loss(self, batch: Batch) -> Tensor:
        """Return the divergence from the bad teacher on deleted samples and from the original on others, shape (n,).

        Args:
            batch: This process's slice of the global batch, n samples.
        """
        good, bad = self.teacher_logits(batch.image)
        # One divergence instead of two: each sample has exactly one teacher.
        teacher = torch.where(batch.deleted.unsqueeze(1), bad, good)
        losses = divergence(self.network(batch.image), teacher)
        return losses / teacher.shape[1] if self.reduction == "mean" else losses
