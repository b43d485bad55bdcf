"""Wrong labels without an adversary's target."""

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.data.manipulations.indiscriminate import Indiscriminate
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError


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
        return self.wanted(labels) != labels

    def unaffected(self, labels: Tensor) -> Tensor:
        """The samples of all other classes."""
        return ~self.affected(labels)

    def wanted(self, labels: Tensor) -> Tensor:
        """What its class becomes."""
        return self.relabel(labels)

    def _table(self, device: torch.device) -> Tensor:
        """The class that each class becomes, shape (C,)."""
        classes = range(self.num_classes)
        flips = {label: (label + 1) % self.num_classes for label in classes} if self.flips is None else self.flips
        if unknown := flips.keys() - classes:
            raise UserError(f"flips has class {min(unknown)}, but the classes are 0 to {self.num_classes - 1}")
        return torch.tensor([flips.get(label, label) for label in classes], device=device)
