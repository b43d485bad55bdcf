"""BadT: distillation from an incompetent teacher (Chundawat et al., 2023; paper, A.2 (4))."""

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from cmu_lightning.data import Batch
from cmu_lightning.data.sampling import derive_seed
from cmu_lightning.unlearning.distillation import DistillationUnlearner, divergence
from cmu_lightning.unlearning.networks import build
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.stage import View


class BadT(DistillationUnlearner):
    """Follows the original, but on S_f a freshly initialised network; both teachers are frozen, at temperature 1.

    Labels are not used.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: How it is fine-tuned.
        original: Checkpoint of the original.
        seed: Seed of the bad teacher and of everything else random in this method.
        reduction: `mean` divides the summed divergence by samples and by classes, as the released code does;
            `batchmean` by samples.
    """

    view: ClassVar[View] = "train"
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

    def more_teachers(self) -> tuple[nn.Module, ...]:
        """The bad one, with a generator of its own."""
        return (build(self.make_network, derive_seed(self.seed, 1)),)

    def loss(self, batch: Batch) -> Tensor:
        """Divergence from the bad teacher where a sample is deleted, from the good one elsewhere."""
        good, bad = self.taught(batch.image)
        teacher = torch.where(batch.deleted.unsqueeze(1), bad, good)
        losses = divergence(self.network(batch.image), teacher)
        return losses / teacher.shape[1] if self.reduction == "mean" else losses
