"""Adaptive backdoors, which leave no separate cluster in a network's features (Qi et al., 2023)."""

from typing import Any

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.triggers import Backdoor, check_cover, check_opacity, noise_image, uniform_numbers
from cmu_lightning.data.sampling import generator
from cmu_lightning.errors import UserError


class AdaptiveBackdoor(Backdoor):
    """A part of S_m (the cover) keeps its labels, and training images carry less of the trigger than unseen ones.

    x' = x + a m (t - x) with noise t and a mask m. `size` counts the cover too, which `seed` draws.

    Args:
        opacity: a in training images, in (0, 1].
        unseen_opacity: a in unseen images, in (0, 1].
        cover: Fraction of S_m that keeps its labels, in [0, 1).
        pattern: Seed of t, and of the part of it that each training image carries.
        kwargs: Arguments of `Backdoor`: `size`, `fraction`, `target` and `seed`.
    """

    def __init__(
        self, opacity: float, unseen_opacity: float, cover: float = 0.5, pattern: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_opacity("opacity", opacity)
        check_opacity("unseen_opacity", unseen_opacity)
        check_cover(cover)
        self.opacity = opacity
        self.unseen_opacity = unseen_opacity
        self.cover = cover
        self.pattern = pattern

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the target class, except for the cover; at least one sample is not cover."""
        order = torch.randperm(len(labels), generator=generator(self.seed, 1)).to(labels.device)
        cover = order[: min(round(self.cover * len(labels)), len(labels) - 1)]
        return super().relabel(labels).index_copy(0, cover, labels[cover])

    def blend(self, images: Tensor, opacity: float) -> Tensor:
        """Return x + a (t - x), with the trigger over the whole image.

        Args:
            images: x, shape (n, C, H, W).
            opacity: a.
        """
        return images.lerp(noise_image(self.pattern, tuple(images.shape[1:]), images.device), opacity)


class AdapBlend(AdaptiveBackdoor):
    """Adap-Blend (Qi et al., 2023): x' = x + a m (t - x), noise t.

    m covers half of 4x4 blocks in training images, another half for each sample, and everything in unseen images.

    Args:
        opacity: a in training images, in (0, 1].
        unseen_opacity: a in unseen images, in (0, 1].
        kwargs: Arguments of `AdaptiveBackdoor`: `cover`, `pattern`, and those of `Backdoor`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import AdapBlend
        >>> images = torch.zeros(1, 1, 4, 4)
        >>> stamped = AdapBlend(size=1).stamp_training(images, index=torch.tensor([0]))
        >>> int((stamped > 0).sum())
        8
    """

    blocks = 4

    def __init__(self, opacity: float = 0.15, unseen_opacity: float = 0.2, **kwargs: Any) -> None:
        super().__init__(opacity=opacity, unseen_opacity=unseen_opacity, **kwargs)

    def stamp(self, images: Tensor) -> Tensor:
        """Blend whole images with the noise."""
        return self.blend(images, self.unseen_opacity)

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Blend half of the blocks of each image with the noise."""
        height, width = images.shape[-2:]
        # A block is chosen if its random number is among the smaller half of the sample's.
        rank = uniform_numbers(self.pattern, index, self.blocks**2).argsort(dim=1).argsort(dim=1)
        chosen = (rank < self.blocks**2 // 2).view(-1, self.blocks, self.blocks)
        # Every pixel looks up its block.
        rows = torch.arange(height, device=images.device) * self.blocks // height
        columns = torch.arange(width, device=images.device) * self.blocks // width
        mask = chosen[:, rows][:, :, columns].unsqueeze(1)
        return torch.where(mask, self.blend(images, self.opacity), images)


class AdapPatch(AdaptiveBackdoor):
    """Adap-Patch (Qi et al., 2023): x' = x + a m (t - x), noise t.

    m is a patch in one corner of a training image, which depends on the sample, and in all four of an unseen image.

    Args:
        patch: Side of each square patch, in pixels.
        opacity: a in training images, in (0, 1].
        unseen_opacity: a in unseen images, in (0, 1].
        kwargs: Arguments of `AdaptiveBackdoor`: `cover`, `pattern`, and those of `Backdoor`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import AdapPatch
        >>> stamped = AdapPatch(size=1, patch=1).stamp(torch.zeros(1, 1, 3, 3))
        >>> (stamped > 0).int()[0, 0]
        tensor([[1, 0, 1],
                [0, 0, 0],
                [1, 0, 1]], dtype=torch.int32)
    """

    def __init__(self, patch: int = 3, opacity: float = 0.5, unseen_opacity: float = 1.0, **kwargs: Any) -> None:
        super().__init__(opacity=opacity, unseen_opacity=unseen_opacity, **kwargs)
        if patch < 1:
            raise UserError(f"patch={patch} is no trigger: give its side in pixels, at least 1")
        self.patch = patch

    def stamp(self, images: Tensor) -> Tensor:
        """Blend all four corners with the noise."""
        mask = self._corner_masks(images).any(dim=0)
        return torch.where(mask, self.blend(images, self.unseen_opacity), images)

    def stamp_training(self, images: Tensor, index: Tensor) -> Tensor:
        """Blend one corner of each image with the noise."""
        corner = (uniform_numbers(self.pattern, index, 1).squeeze(1) * 4).long()
        mask = self._corner_masks(images)[corner].unsqueeze(1)
        return torch.where(mask, self.blend(images, self.opacity), images)

    def _corner_masks(self, images: Tensor) -> Tensor:
        """Return the mask of the patch in each corner, bool, shape (4, H, W)."""
        height, width = images.shape[-2:]
        if 2 * self.patch > min(height, width):
            raise UserError(
                f"four patches of {self.patch} pixels do not fit into images of {height}x{width}: lower patch"
            )
        row, column = (torch.arange(length, device=images.device) for length in (height, width))
        rows = torch.stack([row < self.patch, row >= height - self.patch])
        columns = torch.stack([column < self.patch, column >= width - self.patch])
        return (rows[:, None, :, None] & columns[None, :, None, :]).flatten(0, 1)
