"""Found samples are the first of an order, mistakes come on top."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.checks import check_order
from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.pixels import Pixels
from cmu_lightning.data.samples import Samples
from cmu_lightning.errors import UserError


class Ordered(Discovery, ABC):
    """In which order manipulated samples are found, so that a larger S_f of one seed holds every smaller one.

    One of one's own overrides `order`. Mistakes are drawn uniformly from the samples outside S_m.

    Args:
        count: How many of S_m are found; give this or the data's `identified`.
        false_discovery_rate: Fraction of S_f that is not manipulated but flagged by mistake, in [0, 1); rounded.
    """

    def __init__(self, count: int | None = None, false_discovery_rate: float = 0.0) -> None:
        if count is not None and count < 1:
            raise UserError(f"discovery.count={count} finds nothing: give at least 1")
        if not 0 <= false_discovery_rate < 1:
            raise UserError(
                f"discovery.false_discovery_rate={false_discovery_rate} is not in [0, 1): "
                "it is the fraction of S_f that is clean"
            )
        self.count = count
        self.false_discovery_rate = false_discovery_rate

    @property
    def extent(self) -> str | None:
        """A count, if it is given."""
        return None if self.count is None else f"count={self.count}"

    @abstractmethod
    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """In which order manipulated samples are found.

        Args:
            samples: S_tr, on the CPU.
            members: Indices of S_m, ascending, shape (|S_m|,).
            random: To draw from, if anything is random.
            pixels: Makes a network's input of images, stamps included.

        Returns:
            Positions in `members`, first found first, shape (|S_m|,); it must not depend on how many are wanted.
        """

    def find(self, samples: Samples, count: int, seed: int, pixels: Pixels) -> Tensor:
        """S_f.

        Args:
            samples: S_tr, on the CPU.
            count: How many of S_m are found.
            seed: Of all that is random.
            pixels: Makes a network's input of images, stamps included.

        Returns:
            Indices into S_tr: what is found, then what is flagged by mistake.

        Raises:
            UserError: There are not as many samples.
        """
        members, others = (torch.nonzero(mask).flatten() for mask in (samples.manipulated, ~samples.manipulated))
        if count > len(members):
            raise UserError(f"discovery.count={count} cannot be found of {len(members)} manipulated samples: give less")
        mistakes = round(count * self.false_discovery_rate / (1 - self.false_discovery_rate))
        if mistakes > len(others):
            raise UserError(
                f"discovery.false_discovery_rate={self.false_discovery_rate} with {count} found samples flags "
                f"{mistakes} clean ones, and there are {len(others)}: give less"
            )
        order = self.order(samples, members, np.random.RandomState(seed), pixels)
        check_order(self, order, len(members))
        found = members[order[:count]]
        doubtful = torch.from_numpy(np.random.RandomState([seed, 1]).permutation(len(others)))
        return torch.cat([found, others[doubtful[:mistakes]]])
