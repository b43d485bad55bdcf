"""Gaussian noise in the pixels of some training images."""

import math
from typing import Any

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.labels import IndiscriminateManipulation
from cmu_lightning.data.manipulations.triggers import uniform_numbers
from cmu_lightning.errors import UserError


class GaussianPoison(IndiscriminateManipulation):
    """x' = x + n with noise n ~ N(0, v I) drawn for each sample, and the true label (Pawelczyk et al., 2025).

    Unseen images carry no noise. It aims at a trace, not at a lower accuracy: the gradient with respect to x of a
    network trained on x' correlates with n; that of a repaired network should not.

    Args:
        variance: v, white being 1.
        pattern: Seed of the noise.
        kwargs: Arguments of `Manipulation`: `size`, `fraction` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import GaussianPoison
        >>> GaussianPoison(size=1).noise(torch.tensor([4, 2]), torch.Size([3, 8, 8])).shape
        torch.Size([2, 3, 8, 8])
    """

    def __init__(self, variance: float = 0.32, pattern: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < variance < math.inf:
            raise UserError(f"variance={variance} is no noise: give a number above 0")
        self.variance = variance
        self.pattern = pattern

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the true labels."""
        return labels.clone()

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Add the noise of each sample, without clipping."""
        return images + self.noise(index, images.shape[1:])

    def noise(self, index: Tensor, shape: torch.Size) -> Tensor:
        """Return the noise of samples, sqrt(2 v) erfinv(2 u - 1) of uniform numbers u.

        Args:
            index: Identity of each sample, int64, shape (n,).
            shape: Shape of an image, (C, H, W).

        Returns:
            Shape (n, C, H, W).
        """
        uniform = uniform_numbers(self.pattern, index, shape.numel()).view(-1, *shape)
        return torch.erfinv(2 * uniform - 1) * math.sqrt(2 * self.variance)
