"""Labels of one class given as another."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.errors import UserError


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

    def wanted(self, labels: Tensor) -> Tensor:
        """The second class."""
        return torch.full_like(labels, self.pair[1])
