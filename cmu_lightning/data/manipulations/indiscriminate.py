"""What all manipulations share that have no domain of their own, but do harm everywhere."""

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation


class Indiscriminate(Manipulation):
    """Samples of every class are manipulated; one of one's own defines `relabel`, and what it does to pixels.

    `acc_corr` is the accuracy on all unseen samples, and there is no `acc_retain`.
    """

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr."""
        return self.draw(torch.ones_like(labels, dtype=torch.bool))

    def affected(self, labels: Tensor) -> Tensor:
        """All samples."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """None."""
        return torch.zeros_like(labels, dtype=torch.bool)
