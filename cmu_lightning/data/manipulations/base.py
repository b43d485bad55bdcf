"""The base class of all manipulations of the training data (paper, section 3.1)."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError


class Manipulation(ABC):
    """Which samples an adversary manipulates, how, and which domain that affects.

    A subclass defines `select` and `relabel`, `stamp` if it changes pixels, and `affected` and `unaffected`, which
    describe its affected domain. Every sample that the adversary touches belongs to S_m, even if it keeps its label
    or its pixels.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        seed: Seed of the draw of S_m.
    """

    num_classes: int
    """Number of classes of the data; the data module sets it before it calls any method."""
    exposed: Tensor
    """Stored training samples of which `select` receives, bool, shape (n,); the data module sets it before `select`."""
    pair: tuple[int, int] | None = None
    """The two classes that it confuses, if exactly these are affected; `acc_pair` is measured between them."""

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

    def content(self) -> dict[str, str]:
        """Return a digest of each file that is read, by the argument that names the file."""
        return {}

    def true_labels(self, labels: Tensor, names: Sequence[str] | None, classes: Sequence[str] | None) -> Tensor:
        """Return the true classes of all stored training samples, before validation samples are held out.

        Args:
            labels: The data's own labels, shape (n,).
            names: Name of the file of each sample, relative to the training folder; None if samples have no names.
            classes: Names of the classes; None if they have none.

        Returns:
            Shape (n,); by default the data's own labels.
        """
        return labels

    def count(self, total: int) -> int:
        """Return |S_m| for a training set of `total` samples.

        Args:
            total: |S_tr|.

        Raises:
            UserError: |S_m| is 0 or more than `total`.
        """
        count = self.size if self.size is not None else round((self.fraction or 0) * total)
        if not 1 <= count <= total:
            raise UserError(f"{count} samples cannot be manipulated: the training set has {total}; change size")
        return count

    @abstractmethod
    def select(self, labels: Tensor) -> Tensor:
        """Draw S_m.

        Args:
            labels: True labels of S_tr, shape (n,).

        Returns:
            Indices into S_tr, ascending, shape (|S_m|,).
        """

    @abstractmethod
    def relabel(self, labels: Tensor) -> Tensor:
        """Return the labels that the adversary gives to S_m.

        Args:
            labels: True labels of S_m, in the order of `select`, shape (|S_m|,).

        Returns:
            Given labels, shape (|S_m|,).
        """

    def stamp(self, images: Tensor) -> Tensor:
        """Change the pixels of manipulated images, in training and in evaluation alike.

        Images are stamped after augmentation and before normalisation.

        Args:
            images: Shape (n, C, H, W), float, black 0 and white 1; must not be changed in place.

        Returns:
            Stamped images of the same shape.
        """
        return images

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Change the pixels of images of S_m, if the change depends on the sample or differs from unseen images.

        Args:
            images: As for `stamp`.
            index: Identity of each sample, int64, shape (n,): its index among the samples that `select` drew from. It
                is the same in every epoch and on every process.

        Returns:
            Stamped images of the same shape.
        """
        return self.stamp(images)

    @abstractmethod
    def affected(self, labels: Tensor) -> Tensor:
        """Return the mask of unseen samples that make up the affected domain D_m once they are stamped.

        Args:
            labels: True labels of unseen samples, shape (n,).

        Returns:
            Bool, shape (n,).
        """

    @abstractmethod
    def unaffected(self, labels: Tensor) -> Tensor:
        """Return the mask of unseen samples that lie outside the affected domain, without a stamp.

        Args:
            labels: True labels of unseen samples, shape (n,).

        Returns:
            Bool, shape (n,).
        """

    def target_labels(self, labels: Tensor) -> Tensor | None:
        """Return the class that the adversary aims at for each affected sample.

        Args:
            labels: True labels, shape (n,).

        Returns:
            Shape (n,); None for a manipulation without a single target class per sample.
        """
        return None

    def draw(self, among: Tensor, count: int | None = None) -> Tensor:
        """Draw samples uniformly without replacement; equals the released code's draw for seed 0.

        Args:
            among: Mask of the samples of S_tr that qualify, bool, shape (n,).
            count: Number of samples to draw; default |S_m|.

        Returns:
            Indices into S_tr, ascending, shape (count,). Draws of one seed are nested: a larger one contains every
            smaller one.

        Raises:
            UserError: Fewer samples qualify.
        """
        qualified = torch.nonzero(among).flatten()
        count = self.count(len(among)) if count is None else count
        if count > len(qualified):
            raise UserError(f"{count} samples cannot be manipulated: only {len(qualified)} qualify; change size")
        positions = np.random.RandomState(self.seed).choice(len(qualified), count, replace=False)
        return qualified[torch.from_numpy(np.sort(positions))]


class Unknown(Manipulation):
    """An unknown manipulation: labels are used as given, and no sample counts as manipulated.

    Metrics that need true labels or an affected domain (`acc_corr`, `acc_retain`, `acc_manipulated`, ...) are absent.
    S_f is a list (`Flagged`) or what a detector flags; listed samples are never used for validation.

    Args:
        seed: Without effect.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import Unknown
        >>> Unknown().select(torch.tensor([3, 1, 2]))
        tensor([], dtype=torch.int64)
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seed = 0 if seed is None else seed

    def select(self, labels: Tensor) -> Tensor:
        """Return no index."""
        return torch.empty(0, dtype=torch.long)

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the labels unchanged."""
        return labels

    def affected(self, labels: Tensor) -> Tensor:
        """Return an empty mask."""
        return torch.zeros_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Return an empty mask."""
        return torch.zeros_like(labels, dtype=torch.bool)
