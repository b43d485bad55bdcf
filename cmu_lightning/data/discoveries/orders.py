"""Discoveries that find the samples of S_m in some order."""

import math
from abc import ABC, abstractmethod
from typing import Any, Literal

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
    """A discovery that finds the samples of S_m in an order; a larger S_f of one seed contains every smaller one.

    A subclass defines `order`. Samples that are flagged by mistake are drawn uniformly from those outside S_m.

    Args:
        count: Number of samples of S_m to find; give this or the data's `identified`.
        false_discovery_rate: Fraction of S_f that is not manipulated and flagged by mistake, in [0, 1); rounded.
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
        """The argument `count`, if it is given."""
        return None if self.count is None else f"count={self.count}"

    @abstractmethod
    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """Return the order in which samples of S_m are found.

        Args:
            samples: S_tr, on the CPU.
            members: Indices of S_m, ascending, shape (|S_m|,).
            random: Generator for everything random.
            pixels: Turns images into a network's input, stamps included.

        Returns:
            Positions in `members`, first found first, shape (|S_m|,); they must not depend on how many are to be found.
        """

    def find(self, samples: Samples, count: int, seed: int, pixels: Pixels) -> Tensor:
        """Return S_f.

        Args:
            samples: S_tr, on the CPU.
            count: Number of samples of S_m to find.
            seed: Seed of everything random.
            pixels: Turns images into a network's input, stamps included.

        Returns:
            Indices into S_tr: the samples that are found, then those that are flagged by mistake.

        Raises:
            UserError: S_m or the rest of S_tr has fewer samples.
        """
        members, others = (torch.nonzero(mask).flatten() for mask in (samples.manipulated, ~samples.manipulated))
        if count > len(members):
            raise UserError(f"discovery.count={count} cannot be found of {len(members)} manipulated samples: give less")
        # mistakes / (count + mistakes) is the false discovery rate.
        mistakes = round(count * self.false_discovery_rate / (1 - self.false_discovery_rate))
        if mistakes > len(others):
            raise UserError(
                f"discovery.false_discovery_rate={self.false_discovery_rate} with {count} found samples flags "
                f"{mistakes} clean ones, and there are {len(others)}: give less"
            )
        order = self.order(samples, members, np.random.RandomState(seed), pixels)
        check_order(self, order, len(members))
        found = members[order[:count]]
        # A second generator draws the mistakes, so that they are nested too, whatever `order` draws.
        order_of_others = torch.from_numpy(np.random.RandomState([seed, 1]).permutation(len(others)))
        return torch.cat([found, others[order_of_others[:mistakes]]])


class Uniform(OrderedDiscovery):
    """Every sample of S_m is found with the same probability (paper, section 3.1).

    Example:
        >>> from cmu_lightning.data import DigitsDataModule, Poison, Uniform
        >>> data = DigitsDataModule(Poison(size=36), discovery=Uniform(count=9))
        >>> data.setup()
        >>> int(data.samples.deleted.sum())
        9
    """

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """Return a permutation."""
        return torch.from_numpy(random.permutation(len(members)))


class ClassBiased(OrderedDiscovery):
    """Samples of some true classes are found with higher odds.

    In every draw the probability of a sample is proportional to its weight w, which is `bias` for those classes and 1
    for others. Samples in ascending order of E / w, with E exponentially distributed, have this distribution
    (Efraimidis and Spirakis, 2006).

    Args:
        classes: True classes with the weight `bias`.
        bias: Weight of their samples; below 1 for classes that are overlooked.
        kwargs: Arguments of `OrderedDiscovery`: `count` and `false_discovery_rate`.

    Example:
        >>> from cmu_lightning.data import ClassBiased, DigitsDataModule, Poison
        >>> data = DigitsDataModule(Poison(size=36), identified=0.5, discovery=ClassBiased([3, 4]))
        >>> data.setup()
        >>> int(data.samples.deleted.sum())
        18
    """

    def __init__(self, classes: list[int], bias: float = 10.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < bias < math.inf:
            raise UserError(f"discovery.bias={bias} is no weight: give a positive number")
        self.classes = classes
        self.bias = bias

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """Return a weighted permutation."""
        if unknown := set(self.classes) - set(samples.true_labels.tolist()):
            raise UserError(f"discovery.classes={self.classes}: no sample is of class {min(unknown)}, leave it out")
        favoured = torch.isin(samples.true_labels[members], torch.tensor(self.classes))
        if not favoured.any():
            raise UserError(f"discovery.classes={self.classes} has none of the true classes of S_m: give one that does")
        arrival = torch.from_numpy(random.exponential(size=len(members)))
        return (arrival / torch.where(favoured, self.bias, 1.0)).argsort(stable=True)


class ByDifficulty(OrderedDiscovery):
    """S_m in the order of the loss of a linear model that is fitted to S_tr with the given labels, whatever the seed.

    The model is ridge regression in closed form, W = (X'X + lambda I)^-1 X'Y, of one-hot given labels Y on pixels X
    (stamps and a constant included), with lambda = 1e-3 of the mean diagonal entry of X'X. The loss of a sample x with
    label y is |W'x - y|^2. Images of more than 32x32 pixels are averaged down to that. S_f depends on the data only: no
    network and no original is needed, and a network may find other samples difficult.

    Args:
        first: `easiest` finds samples of small loss first, `hardest` those of large loss.
        kwargs: Arguments of `OrderedDiscovery`: `count` and `false_discovery_rate`.

    Example:
        >>> from cmu_lightning.data import ByDifficulty, DigitsDataModule, Poison
        >>> data = DigitsDataModule(Poison(size=36), discovery=ByDifficulty("hardest", count=5))
        >>> data.setup()
        >>> int(data.samples.deleted.sum())
        5
    """

    chunk = 1000  # samples that are converted to float64 at once
    side = 32  # pixels; the size of X'X grows with its fourth power

    def __init__(self, first: Literal["easiest", "hardest"] = "easiest", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = first

    def order(self, samples: Samples, members: Tensor, random: np.random.RandomState, pixels: Pixels) -> Tensor:
        """Sort by loss."""
        return self.losses(samples, members, pixels).argsort(descending=self.first == "hardest", stable=True)

    def losses(self, samples: Samples, members: Tensor, pixels: Pixels) -> Tensor:
        """Return the squared error of each sample of S_m.

        Args:
            samples: S_tr, on the CPU.
            members: Indices of S_m, shape (|S_m|,).
            pixels: Turns images into a network's input, stamps included.

        Returns:
            Shape (|S_m|,), float64.
        """
        targets = one_hot(samples.given_labels).double()
        # 1. Sum X'X and X'Y over S_tr, chunk by chunk.
        gram, moment = torch.zeros(()), torch.zeros(())
        for rows in self._chunks(torch.arange(len(targets))):
            inputs = self._inputs(samples, rows, pixels)
            gram, moment = gram + inputs.T @ inputs, moment + inputs.T @ targets[rows]
        # 2. Solve for W.
        penalty = gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64) * 1e-3
        weights = torch.linalg.solve(gram + penalty, moment)
        # 3. Compute the squared errors on S_m.
        outputs = torch.cat([self._inputs(samples, rows, pixels) @ weights for rows in self._chunks(members)])
        return (outputs - targets[members]).square().sum(dim=1)

    def _chunks(self, index: Tensor) -> list[Tensor]:
        """Split indices into chunks."""
        return [index[start : start + self.chunk] for start in range(0, len(index), self.chunk)]

    def _inputs(self, samples: Samples, rows: Tensor, pixels: Pixels) -> Tensor:
        """Return the pixels of some samples and a constant 1, shape (n, C * H * W + 1), float64."""
        images = pixels(samples.images[rows], samples.manipulated[rows], samples.manipulation_index[rows]).double()
        height, width = (min(side, self.side) for side in images.shape[2:])
        averaged = adaptive_avg_pool2d(images, (height, width))
        return torch.cat([averaged.flatten(1), torch.ones(len(rows), 1, dtype=torch.float64)], dim=1)
