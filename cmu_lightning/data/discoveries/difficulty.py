"""Manipulated samples that a simple model fits well, or badly, are found first."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from cmu_lightning.data.discoveries.ordered import Ordered
from cmu_lightning.data.pixels import Pixels
from cmu_lightning.data.samples import Samples


class ByDifficulty(Ordered):
    """By the loss of a linear model that is fitted to S_tr as given; the seed has no bearing on what is found.

    The model is ridge regression of one-hot given labels on pixels, stamps included, in closed form, and the loss is
    the squared error of its own training sample. Images of more than 32x32 pixels are averaged down to that. It needs
    no network and no original, so that S_f depends on the data alone; where a network finds other samples hard than a
    linear model does, it says little about that network.

    Args:
        first: `easiest` finds samples of small loss first, `hardest` those of large loss.
        count: How many of S_m are found; give this or the data's `identified`.
        false_discovery_rate: Fraction of S_f that is not manipulated but flagged by mistake, in [0, 1); rounded.
    """

    chunk = 1000  # samples that are turned into numbers at once
    side = 32  # pixels; the regression's matrix grows with the fourth power

    def __init__(
        self,
        first: Literal["easiest", "hardest"] = "easiest",
        count: int | None = None,
        false_discovery_rate: float = 0.0,
    ) -> None:
        super().__init__(count, false_discovery_rate)
        self.first = first

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """By loss."""
        return self.losses(samples, members, pixels).argsort(descending=self.first == "hardest", stable=True)

    def losses(self, samples: Samples, members: Tensor, pixels: Pixels) -> Tensor:
        """The squared error of each manipulated sample, shape (|S_m|,)."""
        targets = one_hot(samples.labels).double()
        gram, moment = torch.zeros(()), torch.zeros(())
        for part in self._chunks(torch.arange(len(targets))):
            inputs = self._inputs(samples, part, pixels)
            gram, moment = gram + inputs.T @ inputs, moment + inputs.T @ targets[part]
        penalty = gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64) * 1e-3
        weights = torch.linalg.solve(gram + penalty, moment)
        outputs = torch.cat([self._inputs(samples, part, pixels) @ weights for part in self._chunks(members)])
        return (outputs - targets[members]).square().sum(dim=1)

    def _chunks(self, index: Tensor) -> list[Tensor]:
        return [index[start : start + self.chunk] for start in range(0, len(index), self.chunk)]

    def _inputs(self, samples: Samples, part: Tensor, pixels: Pixels) -> Tensor:
        """Pixels and a constant, shape (n, C * H * W + 1), float64."""
        image = pixels(samples.images[part], samples.manipulated[part], samples.number[part]).double()
        height, width = (min(side, self.side) for side in image.shape[2:])
        smaller = adaptive_avg_pool2d(image, (height, width))
        return torch.cat([smaller.flatten(1), torch.ones(len(part), 1, dtype=torch.float64)], dim=1)
