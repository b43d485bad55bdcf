"""Faint vertical waves."""

import math

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.backdoor import Backdoor
from cmu_lightning.errors import UserError


class SIG(Backdoor):
    """x' = clip(x + d sin(2 pi j / p)) in column j = 0, 1, ... (Barni et al., 2019).

    The source counts f = 6 waves in the W = 32 columns of its images, so p = W / f.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        amplitude: d, in (0, 1].
        period: p, the columns of one wave.
        clean_label: Whether samples of the target class alone are poisoned, which keep their labels.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        amplitude: float = 40 / 255,
        period: float = 32 / 6,
        clean_label: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        if not 0 < amplitude <= 1:
            raise UserError(f"amplitude={amplitude} is not in (0, 1]: white is 1")
        if not 2 < period < math.inf:
            raise UserError(f"period={period} makes no wave: give its length in pixels, more than 2")
        self.amplitude = amplitude
        self.period = period
        self.clean_label = clean_label

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr, or from its target class."""
        return self.draw(labels == self.target) if self.clean_label else super().select(labels)

    def stamp(self, images: Tensor) -> Tensor:
        """Add the waves."""
        column = torch.arange(images.shape[-1], dtype=images.dtype, device=images.device)
        return (images + self.amplitude * torch.sin(2 * math.pi / self.period * column)).clamp(0, 1)
