"""Discoveries that find manipulated samples in some order."""

import math
from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.samples import Samples
from cmu_lightning.data.transforms import Pixels
from cmu_lightning.data.validation import check_order
from cmu_lightning.errors import UserError


class OrderedDiscovery(Discovery, ABC):
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


class Uniform(OrderedDiscovery):
    """Every manipulated sample is as likely to be found as any other (paper, section 3.1).

    Args:
        count: How many of S_m are found, 1 for a single sample; give this or the data's `identified`.
        false_discovery_rate: Fraction of S_f that is not manipulated but flagged by mistake, in [0, 1); rounded.
    """

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """One permutation."""
        return torch.from_numpy(random.permutation(len(members)))


class ClassBiased(OrderedDiscovery):
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
        if unknown := set(self.classes) - set(samples.true_labels.tolist()):
            raise UserError(f"discovery.classes={self.classes}: no sample is of class {min(unknown)}, leave it out")
        favoured = torch.isin(samples.true_labels[members], torch.tensor(self.classes))
        if not favoured.any():
            raise UserError(f"discovery.classes={self.classes} has none of the true classes of S_m: give one that does")
        waiting = torch.from_numpy(random.exponential(size=len(members)))
        return (waiting / torch.where(favoured, self.bias, 1.0)).argsort(stable=True)


class ByDifficulty(OrderedDiscovery):
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
        targets = one_hot(samples.given_labels).double()
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
        image = pixels(samples.images[part], samples.manipulated[part], samples.manipulation_index[part]).double()
        height, width = (min(side, self.side) for side in image.shape[2:])
        smaller = adaptive_avg_pool2d(image, (height, width))
        return torch.cat([smaller.flatten(1), torch.ones(len(part), 1, dtype=torch.float64)], dim=1)
