"""Wrong labels: confused classes and label noise."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError


class Indiscriminate(Manipulation):
    """Samples of every class are manipulated; one of one's own defines `relabel`, and what it does to pixels.

    `acc_corr` is the accuracy on all unseen samples, and there is no `acc_retain`.
    """

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr."""
        return self.draw(torch.ones_like(labels, dtype=torch.bool))

    def affected(self, labels: Tensor) -> Tensor:
        """All samples."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """None."""
        return torch.zeros_like(labels, dtype=torch.bool)


class InterclassConfusion(Manipulation):
    """Labels of two classes swapped (Goel et al., 2023; paper, section 3.1).

    Args:
        pair: The two classes.
        size: Number of manipulated samples, |S_m|, half of them from each class.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        pick: `random` draws the samples of each class by seed; `first` takes the first by index, as the
            released code does.
        seed: Draws S_m.
    """

    def __init__(
        self,
        pair: tuple[int, int],
        size: int | None = None,
        fraction: float | None = None,
        pick: Literal["random", "first"] = "random",
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        if pair[0] == pair[1]:
            raise UserError(f"pair={list(pair)} swaps a class with itself: give two classes")
        if size is not None and size % 2:
            raise UserError(f"size={size} cannot be halved between two classes: give an even number")
        self.pair = pair
        self.pick = pick

    def count(self, total: int) -> int:
        """|S_m|, the nearest even number but 0 if it was given as a fraction."""
        return max(2, 2 * round(super().count(total) / 2)) if self.size is None else super().count(total)

    def select(self, labels: Tensor) -> Tensor:
        """The same number from each class of the pair; draws of one seed are nested in their size."""
        half = self.count(len(labels)) // 2
        random = np.random.RandomState(self.seed)
        chosen = []
        for label in self.pair:
            members = torch.nonzero(labels == label).flatten()
            if half > len(members):
                raise UserError(
                    f"{half} samples of class {label} cannot be swapped, for the training set has {len(members)}: "
                    f"give a size of at most {2 * len(members)}"
                )
            order = torch.from_numpy(random.permutation(len(members))) if self.pick == "random" else slice(None)
            chosen.append(members[order][:half])
        return torch.cat(chosen).sort().values

    def relabel(self, labels: Tensor) -> Tensor:
        """Each becomes the other class of the pair."""
        return torch.tensor(self.pair, device=labels.device).sum() - labels

    def affected(self, labels: Tensor) -> Tensor:
        """The samples of the two classes."""
        return torch.isin(labels, torch.tensor(self.pair, device=labels.device))

    def unaffected(self, labels: Tensor) -> Tensor:
        """The samples of all other classes."""
        return ~self.affected(labels)


class OneWayConfusion(Manipulation):
    """Samples of one class labelled as another: A becomes B, B stays (one half of Goel et al., 2023).

    Args:
        pair: The class that is relabelled, and the one that it becomes.
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        seed: Draws S_m.
    """

    def __init__(
        self,
        pair: tuple[int, int] = (3, 5),
        size: int | None = None,
        fraction: float | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        if pair[0] == pair[1]:
            raise UserError(f"pair={list(pair)} confuses a class with itself: give two classes")
        self.pair = pair

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from the first class."""
        return self.draw(labels == self.pair[0])

    def relabel(self, labels: Tensor) -> Tensor:
        """All become the second class."""
        return torch.full_like(labels, self.pair[1])

    def affected(self, labels: Tensor) -> Tensor:
        """The samples of the first class."""
        return labels == self.pair[0]

    def unaffected(self, labels: Tensor) -> Tensor:
        """The samples of all other classes."""
        return labels != self.pair[0]

    def target_labels(self, labels: Tensor) -> Tensor:
        """The second class."""
        return torch.full_like(labels, self.pair[1])


class RandomSwap(Indiscriminate):
    """The labels of S_m permuted at random among S_m: y' = y[permutation] (arXiv 2505.17730: low regularity).

    By chance some keep theirs, a tenth of them where ten classes are equally frequent.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        seed: Draws S_m and its labels.
    """

    def relabel(self, labels: Tensor) -> Tensor:
        """Permuted."""
        return labels[torch.randperm(len(labels), generator=generator(self.seed, 1)).to(labels.device)]


class SymmetricNoise(Indiscriminate):
    """Any other class, all equally likely: P(j | i) = 1 / (C - 1) for j != i (Patrini et al., 2017).

    The rate of the noise is |S_m| / |S_tr|, exactly.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        seed: Draws S_m and its labels.
    """

    def relabel(self, labels: Tensor) -> Tensor:
        """Another class each."""
        if self.num_classes == 1:
            raise UserError(
                "SymmetricNoise gives samples another class, of which there is none: take data of two or more"
            )
        further = torch.randint(1, self.num_classes, labels.shape, generator=generator(self.seed, 1))
        return (labels + further.to(labels.device)) % self.num_classes


class AsymmetricNoise(Manipulation):
    """Each class labelled as one that is like it, y' = flips[y] (Patrini et al., 2017).

    For CIFAR-10 the source flips {9: 1, 2: 0, 4: 7, 3: 5, 5: 3}: truck to automobile, bird to airplane, deer to
    horse, cat to dog and back.

    Args:
        size: Number of manipulated samples, |S_m|; all of classes that are flipped.
        fraction: |S_m| as a fraction of S_tr, whatever share of that is flipped; give this or `size`.
        flips: What classes become; others stay. Default: every class becomes the next one (pair flip).
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        flips: dict[int, int] | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        if flips is not None and any(given == wrong for given, wrong in flips.items()):
            raise UserError(f"flips={flips} has a class that becomes itself: leave it out")
        if flips == {}:
            raise UserError("flips={} flips nothing: give what classes become, or leave it out")
        self.flips = flips

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from the classes that are flipped."""
        return self.draw(self.affected(labels))

    def relabel(self, labels: Tensor) -> Tensor:
        """What its class becomes."""
        return self._table(labels.device)[labels]

    def affected(self, labels: Tensor) -> Tensor:
        """The samples of classes that are flipped."""
        return self.target_labels(labels) != labels

    def unaffected(self, labels: Tensor) -> Tensor:
        """The samples of all other classes."""
        return ~self.affected(labels)

    def target_labels(self, labels: Tensor) -> Tensor:
        """What its class becomes."""
        return self.relabel(labels)

    def _table(self, device: torch.device) -> Tensor:
        """The class that each class becomes, shape (C,)."""
        classes = range(self.num_classes)
        flips = {label: (label + 1) % self.num_classes for label in classes} if self.flips is None else self.flips
        if unknown := flips.keys() - classes:
            raise UserError(f"flips has class {min(unknown)}, but the classes are 0 to {self.num_classes - 1}")
        return torch.tensor([flips.get(label, label) for label in classes], device=device)
