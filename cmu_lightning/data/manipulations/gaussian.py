"""Noise in the pixels of some training images."""

import math

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.labels import Indiscriminate
from cmu_lightning.data.manipulations.triggers import uniform_numbers
from cmu_lightning.errors import UserError


class GaussianPoison(Indiscriminate):
    """x' = x + n, with n ~ N(0, v I) of each sample's own, and its true label (Pawelczyk et al., 2025).

    Unseen images carry nothing. It is made to be traced, not to do harm: a network that was trained on x' has a
    gradient with respect to x that correlates with n, and a repaired one should not.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        variance: v, white being 1.
        pattern: Draws the noise.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        variance: float = 0.32,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        if not 0 < variance < math.inf:
            raise UserError(f"variance={variance} is no noise: give a number above 0")
        self.variance = variance
        self.pattern = pattern

    def relabel(self, labels: Tensor) -> Tensor:
        """They stay."""
        return labels.clone()

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Add the noise of each sample; it is not clipped."""
        return images + self.noise(index, images.shape[1:])

    def noise(self, index: Tensor, shape: torch.Size) -> Tensor:
        """What is added to each sample, shape (n, C, H, W)."""
        uniform = uniform_numbers(self.pattern, index, shape.numel()).view(-1, *shape)
        return torch.erfinv(2 * uniform - 1) * math.sqrt(2 * self.variance)
