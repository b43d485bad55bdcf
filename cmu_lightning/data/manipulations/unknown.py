"""What was done is what one wants to know."""

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation


class Unknown(Manipulation):
    """Nobody knows what was done to the data, so labels are taken as they are and no sample counts as manipulated.

    What needs clean labels or an affected domain is not measured: `acc_corr`, `acc_retain`, `acc_manipulated` and the
    like are absent. S_f is what a list flags (`Flagged`), and flagged samples never validate.

    Args:
        seed: Without effect.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = 0 if seed is None else seed

    def select(self, labels: Tensor) -> Tensor:
        """None of them."""
        return torch.empty(0, dtype=torch.long)

    def relabel(self, labels: Tensor) -> Tensor:
        """As they are."""
        return labels

    def affected(self, labels: Tensor) -> Tensor:
        """Nobody knows."""
        return torch.zeros_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Nobody knows."""
        return torch.zeros_like(labels, dtype=torch.bool)
