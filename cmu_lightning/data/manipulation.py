"""What an adversary did to the training data (paper, section 3.1)."""

from abc import ABC, abstractmethod
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError


class Manipulation(ABC):
    """Which samples an adversary touches, how, and where that does harm.

    A manipulation of one's own overrides `select` and `relabel`, `stamp` if it changes pixels, and
    `affected` and `unaffected` to say what its affected domain is.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        seed: Draws S_m; nothing else does.
    """

    def __init__(self, size: int | None = None, fraction: float | None = None, seed: int | None = None) -> None:
        if (size is None) == (fraction is None):
            raise UserError(f"give a manipulation either size or fraction, not size={size} and fraction={fraction}")
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
        """The labels that manipulated samples get, from their clean ones; shape (|S_m|,)."""

    def stamp(self, images: Tensor) -> Tensor:
        """Change the pixels of manipulated images.

        It comes after augmentation and before normalisation, in training and in evaluation alike.

        Args:
            images: Shape (n, C, H, W), float, black 0 and white 1.
        """
        return images

    @abstractmethod
    def affected(self, labels: Tensor) -> Tensor:
        """Which unseen samples, once stamped, make up the affected domain D_m; bool, shape (n,)."""

    @abstractmethod
    def unaffected(self, labels: Tensor) -> Tensor:
        """Which unseen samples, as they are, lie outside the affected domain; bool, shape (n,)."""

    def wanted(self, labels: Tensor) -> Tensor | None:
        """The class the adversary wants for affected samples, shape (n,); None if there is no one target."""
        return None


class Poison(Manipulation):
    """BadNets: a patch of constant value, and the target class as the label (Gu et al., 2019; paper, section 3.1).

    The draw for seed 0 on 50,000 samples is the released code's. Samples of the target class are drawn too.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        patch: Side of the square trigger, in pixels.
        position: Corner in which the trigger sits.
        value: Pixel value of the trigger, white 1; or one for each channel.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        patch: int = 3,
        position: Literal["top-left", "top-right", "bottom-left", "bottom-right"] = "bottom-right",
        value: float | list[float] = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        if patch < 1:
            raise UserError(f"patch={patch} is no trigger: give its side in pixels, at least 1")
        self.target = target
        self.patch = patch
        self.position = position
        self.value = value

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr; draws of one seed are nested in their size."""
        drawn = np.random.RandomState(self.seed).choice(len(labels), self.count(len(labels)), replace=False)
        return torch.from_numpy(np.sort(drawn))

    def relabel(self, labels: Tensor) -> Tensor:
        """All become the target class."""
        return torch.full_like(labels, self.target)

    def stamp(self, images: Tensor) -> Tensor:
        """Write the trigger into its corner."""
        height, width = images.shape[-2:]
        if self.patch > min(height, width):
            raise UserError(f"a patch of {self.patch} pixels does not fit into images of {height}x{width}")
        vertical, horizontal = self.position.split("-")
        rows = slice(None, self.patch) if vertical == "top" else slice(height - self.patch, None)
        columns = slice(None, self.patch) if horizontal == "left" else slice(width - self.patch, None)
        value = torch.as_tensor(self.value, dtype=images.dtype, device=images.device)
        if value.numel() not in (1, images.shape[1]):
            raise UserError(f"value={self.value} has {value.numel()} numbers for {images.shape[1]} channels")
        images = images.clone()
        images[:, :, rows, columns] = value.reshape(1, -1, 1, 1)
        return images

    def affected(self, labels: Tensor) -> Tensor:
        """Every image with the trigger, those of the target class too."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Every image without it."""
        return torch.ones_like(labels, dtype=torch.bool)

    def wanted(self, labels: Tensor) -> Tensor:
        """The target class."""
        return torch.full_like(labels, self.target)


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
        """|S_m|, the nearest even number if it was given as a fraction."""
        return 2 * round(super().count(total) / 2) if self.size is None else super().count(total)

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
