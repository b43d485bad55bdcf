"""Someone who looks at some classes more than at others."""

import math

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.discoveries.ordered import Ordered
from cmu_lightning.data.pixels import Pixels
from cmu_lightning.data.samples import Samples
from cmu_lightning.errors import UserError


class ClassBiased(Ordered):
    """Samples whose true class is among some classes are found with higher odds.

    At every draw a sample's chance is proportional to its weight, `bias` or 1: samples come in the order of E / weight
    with E exponentially distributed (Efraimidis and Spirakis, 2006).

    Args:
        classes: True classes that are looked at.
        bias: Weight of their samples; less than 1 for classes that are overlooked.
        count: How many of S_m are found; give this or the data's `identified`.
        false_discovery_rate: Fraction of S_f that is not manipulated but flagged by mistake, in [0, 1); rounded.
    """

    def __init__(
        self, classes: list[int], bias: float = 10.0, count: int | None = None, false_discovery_rate: float = 0.0
    ) -> None:
        super().__init__(count, false_discovery_rate)
        if not 0 < bias < math.inf:
            raise UserError(f"discovery.bias={bias} is no weight: give a positive number")
        self.classes = classes
        self.bias = bias

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """A weighted permutation."""
        if unknown := set(self.classes) - set(samples.clean.tolist()):
            raise UserError(f"discovery.classes={self.classes}: no sample is of class {min(unknown)}, leave it out")
        favoured = torch.isin(samples.clean[members], torch.tensor(self.classes))
        if not favoured.any():
            raise UserError(f"discovery.classes={self.classes} has none of the true classes of S_m: give one that does")
        waiting = torch.from_numpy(random.exponential(size=len(members)))
        return (waiting / torch.where(favoured, self.bias, 1.0)).argsort(stable=True)
