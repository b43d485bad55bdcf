"""What an adversary did to the training data (paper, section 3.1)."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError


class Manipulation(ABC):
    """Which samples an adversary touches, how, and where that does harm.

    A manipulation of one's own overrides `select` and `relabel`, `stamp` if it changes pixels, and
    `affected` and `unaffected` to say what its affected domain is. Every sample it touches is in S_m, also one that
    keeps its label or its pixels.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        seed: Draws S_m; nothing else does.
    """

    num_classes: int
    """Of the data, which say so before they are manipulated."""

    def __init__(self, size: int | None = None, fraction: float | None = None, seed: int | None = None) -> None:
        if (size is None) == (fraction is None):
            raise UserError(
                f"give a manipulation either size or fraction, not size={size} and fraction={fraction}: set one to null"
            )
        if size is not None and size < 1:
            raise UserError(f"size={size} manipulates nothing: give at least 1")
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"fraction={fraction} is not in (0, 1]: give a fraction of the training samples, or size")
        self.size = size
        self.fraction = fraction
        self.seed = 0 if seed is None else seed

    def count(self, total: int) -> int:
        """|S_m| for a training set of `total` samples.

        Raises:
            UserError: There are fewer than |S_m| training samples.
        """
        count = self.size if self.size is not None else round((self.fraction or 0) * total)
        if not 1 <= count <= total:
            raise UserError(f"{count} samples cannot be manipulated, for the training set has {total}: change size")
        return count

    @abstractmethod
    def select(self, labels: Tensor) -> Tensor:
        """Draw S_m.

        Args:
            labels: Clean labels of S_tr, shape (n,).

        Returns:
            Indices into S_tr, ascending, shape (|S_m|,).
        """

    @abstractmethod
    def relabel(self, labels: Tensor) -> Tensor:
        """The labels that manipulated samples get.

        Args:
            labels: Clean labels of S_m, in the order of `select`, shape (|S_m|,).

        Returns:
            Shape (|S_m|,).
        """

    def stamp(self, images: Tensor) -> Tensor:
        """Change the pixels of manipulated images.

        It comes after augmentation and before normalisation, in training and in evaluation alike.

        Args:
            images: Shape (n, C, H, W), float, black 0 and white 1.
        """
        return images

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Change the pixels of images of S_m, where that differs from sample to sample or from unseen ones.

        Args:
            images: As for `stamp`.
            index: Tells samples apart, int64, shape (n,), as the indices that `select` gives do; the same in every
                epoch and on every process.
        """
        return self.stamp(images)

    @abstractmethod
    def affected(self, labels: Tensor) -> Tensor:
        """Which unseen samples, once stamped, make up the affected domain D_m; bool, shape (n,)."""

    @abstractmethod
    def unaffected(self, labels: Tensor) -> Tensor:
        """Which unseen samples, as they are, lie outside the affected domain; bool, shape (n,)."""

    def target_labels(self, labels: Tensor) -> Tensor | None:
        """The class the adversary wants for affected samples, shape (n,); None if there is no one target."""
        return None

    def draw(self, among: Tensor, count: int | None = None) -> Tensor:
        """Draw some samples uniformly; draws of one seed are nested in their size.

        Args:
            among: Which samples of S_tr can be drawn, bool, shape (n,).
            count: How many; default |S_m|.

        Returns:
            Indices into S_tr, ascending.
        """
        members = torch.nonzero(among).flatten()
        count = self.count(len(among)) if count is None else count
        if count > len(members):
            raise UserError(f"{count} samples cannot be manipulated, for only {len(members)} qualify: change size")
        drawn = np.random.RandomState(self.seed).choice(len(members), count, replace=False)
        return members[torch.from_numpy(np.sort(drawn))]


class Unknown(Manipulation):
    """Nobody knows what was done to the data, so labels are taken as they are and no sample counts as manipulated.

    What needs clean labels or an affected domain is not measured: `acc_corr`, `acc_retain`, `acc_manipulated` and the
    like are absent. S_f is what a list flags (`Flagged`), and flagged samples never validate.

    Args:
        seed: Without effect.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = 0 if seed is None else seed

    def select(self, labels: Tensor) -> Tensor:
        """None of them."""
        return torch.empty(0, dtype=torch.long)

    def relabel(self, labels: Tensor) -> Tensor:
        """As they are."""
        return labels

    def affected(self, labels: Tensor) -> Tensor:
        """Nobody knows."""
        return torch.zeros_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Nobody knows."""
        return torch.zeros_like(labels, dtype=torch.bool)
