"""Wrong labels: confused classes and label noise."""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError


class IndiscriminateManipulation(Manipulation):
    """A manipulation of samples of every class. A subclass defines `relabel` and, if it changes pixels, a stamp.

    `acc_corr` is the accuracy on all unseen samples, and `acc_retain` is absent.
    """

    def select(self, labels: Tensor) -> Tensor:
        """Draw uniformly from S_tr."""
        return self.draw(torch.ones_like(labels, dtype=torch.bool))

    def affected(self, labels: Tensor) -> Tensor:
        """Select all samples."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Select no sample."""
        return torch.zeros_like(labels, dtype=torch.bool)


class InterclassConfusion(Manipulation):
    """The labels of two classes swapped, half of S_m from each (Goel et al., 2023; paper, section 3.1).

    Args:
        pair: The two classes.
        pick: `random` draws the samples of each class; `first` takes those of the smallest indices, as the released
            code does.
        kwargs: Arguments of `Manipulation`: `size` (even), `fraction` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import InterclassConfusion
        >>> InterclassConfusion(pair=(3, 5), size=2).relabel(torch.tensor([3, 5]))
        tensor([5, 3])
    """

    pair: tuple[int, int]

    def __init__(self, pair: tuple[int, int], pick: Literal["random", "first"] = "random", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if pair[0] == pair[1]:
            raise UserError(f"pair={list(pair)} swaps a class with itself: give two classes")
        if self.size is not None and self.size % 2:
            raise UserError(f"size={self.size} cannot be halved between two classes: give an even number")
        self.pair = pair
        self.pick = pick

    def count(self, total: int) -> int:
        """Return |S_m|; a fraction gives the nearest even number, at least 2.

        Args:
            total: |S_tr|.
        """
        return max(2, 2 * round(super().count(total) / 2)) if self.size is None else super().count(total)

    def select(self, labels: Tensor) -> Tensor:
        """Draw the same number from each class of the pair; draws of one seed are nested.

        Args:
            labels: True labels of S_tr, shape (n,).

        Returns:
            Indices into S_tr, ascending, shape (|S_m|,).

        Raises:
            UserError: A class has fewer samples.
        """
        half = self.count(len(labels)) // 2
        random = np.random.RandomState(self.seed)
        chosen = []
        for label in self.pair:
            members = torch.nonzero(labels == label).flatten()
            if half > len(members):
                raise UserError(
                    f"{half} samples of class {label} cannot be swapped: the training set has {len(members)}; "
                    f"give a size of at most {2 * len(members)}"
                )
            order = torch.from_numpy(random.permutation(len(members))) if self.pick == "random" else slice(None)
            chosen.append(members[order][:half])
        return torch.cat(chosen).sort().values

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the other class of the pair for every sample."""
        return torch.tensor(self.pair, device=labels.device).sum() - labels

    def affected(self, labels: Tensor) -> Tensor:
        """Select the samples of the two classes."""
        return torch.isin(labels, torch.tensor(self.pair, device=labels.device))

    def unaffected(self, labels: Tensor) -> Tensor:
        """Select the samples of all other classes."""
        return ~self.affected(labels)


class OneWayConfusion(Manipulation):
    """Samples of class A labelled as class B, which keeps its labels (one half of Goel et al., 2023).

    Args:
        pair: A and B.
        kwargs: Arguments of `Manipulation`: `size`, `fraction` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import OneWayConfusion
        >>> OneWayConfusion(pair=(3, 5), size=2).relabel(torch.tensor([3, 3]))
        tensor([5, 5])
    """

    pair: tuple[int, int]

    def __init__(self, pair: tuple[int, int] = (3, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if pair[0] == pair[1]:
            raise UserError(f"pair={list(pair)} confuses a class with itself: give two classes")
        self.pair = pair

    def select(self, labels: Tensor) -> Tensor:
        """Draw uniformly from A."""
        return self.draw(labels == self.pair[0])

    def relabel(self, labels: Tensor) -> Tensor:
        """Return B for every sample."""
        return torch.full_like(labels, self.pair[1])

    def affected(self, labels: Tensor) -> Tensor:
        """Select the samples of A."""
        return labels == self.pair[0]

    def unaffected(self, labels: Tensor) -> Tensor:
        """Select the samples of all other classes."""
        return labels != self.pair[0]

    def target_labels(self, labels: Tensor) -> Tensor:
        """Return B for every sample."""
        return torch.full_like(labels, self.pair[1])


class RandomSwap(IndiscriminateManipulation):
    """The labels of S_m permuted at random within S_m: y' = y[permutation] (Schoepf et al., 2025: low regularity).

    Some samples keep their label by chance, a tenth of them where ten classes are equally frequent. `seed` draws S_m
    and the permutation.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import RandomSwap
        >>> RandomSwap(size=4).relabel(torch.tensor([0, 1, 2, 3])).sort().values
        tensor([0, 1, 2, 3])
    """

    def relabel(self, labels: Tensor) -> Tensor:
        """Permute the labels."""
        return labels[torch.randperm(len(labels), generator=generator(self.seed, 1)).to(labels.device)]


class SymmetricNoise(IndiscriminateManipulation):
    """Every other class with the same probability: P(y' = j | y = i) = 1 / (C - 1) for j != i (Patrini et al., 2017).

    The noise rate is |S_m| / |S_tr|, exactly. `seed` draws S_m and its labels.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import SymmetricNoise
        >>> noise = SymmetricNoise(size=3)
        >>> noise.num_classes = 2
        >>> noise.relabel(torch.tensor([0, 1, 1]))
        tensor([1, 0, 0])
    """

    def relabel(self, labels: Tensor) -> Tensor:
        """Draw another class for every sample."""
        if self.num_classes == 1:
            raise UserError(
                "SymmetricNoise gives samples another class, and the data have only one: take data of two or more"
            )
        offset = torch.randint(1, self.num_classes, labels.shape, generator=generator(self.seed, 1))
        return (labels + offset.to(labels.device)) % self.num_classes


class AsymmetricNoise(Manipulation):
    """Each class labelled as a similar one: y' = flips[y] (Patrini et al., 2017).

    For CIFAR-10 the source uses {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}: truck to automobile, bird to airplane, deer to horse,
    cat to dog and back. S_m is drawn from the classes that are flipped; `fraction` is nevertheless a fraction of S_tr.

    Args:
        flips: New class of each class that is flipped. Default: every class becomes the next one (pair flip).
        kwargs: Arguments of `Manipulation`: `size`, `fraction` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import AsymmetricNoise
        >>> noise = AsymmetricNoise(size=2, flips={3: 5})
        >>> noise.num_classes = 10
        >>> noise.relabel(torch.tensor([3, 4]))
        tensor([5, 4])
    """

    def __init__(self, flips: dict[int, int] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if flips is not None and any(label == new for label, new in flips.items()):
            raise UserError(f"flips={flips} has a class that becomes itself: leave it out")
        if flips == {}:
            raise UserError("flips={} flips nothing: give what classes become, or leave it out")
        self.flips = flips

    def select(self, labels: Tensor) -> Tensor:
        """Draw uniformly from the classes that are flipped."""
        return self.draw(self.affected(labels))

    def relabel(self, labels: Tensor) -> Tensor:
        """Return what the class of every sample becomes."""
        return self._flip_table(labels.device)[labels]

    def affected(self, labels: Tensor) -> Tensor:
        """Select the samples of classes that are flipped."""
        return self.target_labels(labels) != labels

    def unaffected(self, labels: Tensor) -> Tensor:
        """Select the samples of all other classes."""
        return ~self.affected(labels)

    def target_labels(self, labels: Tensor) -> Tensor:
        """Return what the class of every sample becomes."""
        return self.relabel(labels)

    def _flip_table(self, device: torch.device) -> Tensor:
        """Return the class that each class becomes, shape (C,)."""
        classes = range(self.num_classes)
        flips = {label: (label + 1) % self.num_classes for label in classes} if self.flips is None else self.flips
        if unknown := flips.keys() - classes:
            raise UserError(f"flips has class {min(unknown)}, but the classes are 0 to {self.num_classes - 1}")
        return torch.tensor([flips.get(label, label) for label in classes], device=device)
