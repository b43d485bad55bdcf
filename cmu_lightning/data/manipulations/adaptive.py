"""Backdoors that leave no cluster of their own in a network's features (Qi et al., 2023)."""

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.triggers import Backdoor, check_cover, check_opacity, noise_image, uniform_numbers
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError


class Adaptive(Backdoor):
    """Some of S_m keep their labels (cover), and training images carry less of the trigger than unseen ones.

    Args:
        size: Number of manipulated samples, |S_m|, cover included.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        opacity: Opacity of the trigger in training images, in (0, 1].
        unseen_opacity: Opacity of the trigger in unseen images, in (0, 1].
        cover: Fraction of S_m that keeps its labels, in [0, 1).
        pattern: Draws the trigger, and which part of it each training image carries.
        seed: Draws S_m and its cover.
    """

    def __init__(
        self,
        size: int | None,
        fraction: float | None,
        target: int,
        opacity: float,
        unseen_opacity: float,
        cover: float,
        pattern: int,
        seed: int | None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        check_opacity("opacity", opacity)
        check_opacity("unseen_opacity", unseen_opacity)
        check_cover(cover)
        self.opacity = opacity
        self.unseen_opacity = unseen_opacity
        self.cover = cover
        self.pattern = pattern

    def relabel(self, labels: Tensor) -> Tensor:
        """The target class, but for cover."""
        order = torch.randperm(len(labels), generator=generator(self.seed, 1)).to(labels.device)
        covering = order[: min(round(self.cover * len(labels)), len(labels) - 1)]
        return super().relabel(labels).index_copy(0, covering, labels[covering])

    def picture(self, images: Tensor) -> Tensor:
        """The trigger over a whole image, shape (C, H, W)."""
        return noise_image(self.pattern, tuple(images.shape[1:]), images.device)


class AdapBlend(Adaptive):
    """Adap-Blend (Qi et al., 2023): x' = x + a m (t - x), noise t.

    m is half of 4x4 blocks for training images, and everything for unseen ones.

    Args:
        size: Number of manipulated samples, |S_m|, cover included.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        opacity: a in training images, in (0, 1].
        unseen_opacity: a in unseen images, in (0, 1].
        cover: Fraction of S_m that keeps its labels, in [0, 1).
        pattern: Draws t, and the blocks that each training image carries.
        seed: Draws S_m and its cover.
    """

    blocks = 4

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        opacity: float = 0.15,
        unseen_opacity: float = 0.2,
        cover: float = 0.5,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, opacity, unseen_opacity, cover, pattern, seed)

    def stamp(self, images: Tensor) -> Tensor:
        """The whole picture."""
        return images.lerp(self.picture(images), self.unseen_opacity)

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Half of the blocks, each image with its own."""
        height, width = images.shape[-2:]
        rank = uniform_numbers(self.pattern, index, self.blocks**2).argsort(dim=1).argsort(dim=1)
        chosen = (rank < self.blocks**2 // 2).view(-1, self.blocks, self.blocks)
        rows = torch.arange(height, device=images.device) * self.blocks // height
        columns = torch.arange(width, device=images.device) * self.blocks // width
        mask = chosen[:, rows][:, :, columns].unsqueeze(1)
        return torch.where(mask, images.lerp(self.picture(images), self.opacity), images)


class AdapPatch(Adaptive):
    """Adap-Patch (Qi et al., 2023): x' = x + a m (t - x), noise t.

    m is a patch in one corner for training images, and in all four for unseen ones.

    Args:
        size: Number of manipulated samples, |S_m|, cover included.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        patch: Side of each square patch, in pixels.
        opacity: a in training images, in (0, 1].
        unseen_opacity: a in unseen images, in (0, 1].
        cover: Fraction of S_m that keeps its labels, in [0, 1).
        pattern: Draws the patches, and the corner of each training image.
        seed: Draws S_m and its cover.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        patch: int = 3,
        opacity: float = 0.5,
        unseen_opacity: float = 1.0,
        cover: float = 0.5,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, opacity, unseen_opacity, cover, pattern, seed)
        if patch < 1:
            raise UserError(f"patch={patch} is no trigger: give its side in pixels, at least 1")
        self.patch = patch

    def stamp(self, images: Tensor) -> Tensor:
        """All four corners."""
        mask = self._corners(images).any(dim=0)
        return torch.where(mask, images.lerp(self.picture(images), self.unseen_opacity), images)

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """One corner, each image its own."""
        corner = (uniform_numbers(self.pattern, index, 1).squeeze(1) * 4).long()
        mask = self._corners(images)[corner].unsqueeze(1)
        return torch.where(mask, images.lerp(self.picture(images), self.opacity), images)

    def _corners(self, images: Tensor) -> Tensor:
        """Bool, shape (4, H, W)."""
        height, width = images.shape[-2:]
        if 2 * self.patch > min(height, width):
            raise UserError(f"four patches of {self.patch} pixels do not fit into images of {height}x{width}")
        row, column = (torch.arange(length, device=images.device) for length in (height, width))
        rows = torch.stack([row < self.patch, row >= height - self.patch])
        columns = torch.stack([column < self.patch, column >= width - self.patch])
        return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)
