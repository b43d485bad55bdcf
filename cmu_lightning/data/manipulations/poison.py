"""A patch of constant pixels, and what it does to labels."""

from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from cmu_lightning.data.manipulations.backdoor import Backdoor, check_cover
from cmu_lightning.errors import UserError

Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]


class Poison(Backdoor):
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
        position: Corner = "bottom-right",
        value: float | list[float] = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        if patch < 1:
            raise UserError(f"patch={patch} is no trigger: give its side in pixels, at least 1")
        self.values = value if isinstance(value, list) else [value]
        if not all(map(isfinite, self.values)):
            raise UserError(f"value={value} is no pixel value: black is 0, white is 1")
        self.patch = patch
        self.position = position

    def stamp(self, images: Tensor) -> Tensor:
        """Write the trigger into its corner."""
        height, width = images.shape[-2:]
        if self.patch > min(height, width):
            raise UserError(f"a patch of {self.patch} pixels does not fit into images of {height}x{width}: give less")
        vertical, horizontal = self.position.split("-")
        rows = slice(None, self.patch) if vertical == "top" else slice(height - self.patch, None)
        columns = slice(None, self.patch) if horizontal == "left" else slice(width - self.patch, None)
        count = len(self.values)
        if count not in (1, images.shape[1]):
            raise UserError(f"value={self.values} has {count} numbers for {images.shape[1]} channels: give as many")
        images = images.clone()
        for channel in range(images.shape[1]):  # numbers, not a tensor: no one waits for a copy to a device
            images[:, channel, rows, columns] = self.values[channel % count]
        return images


class AllToAll(Poison):
    """The patch of `Poison`, and every class becomes the next one, y' = (y + 1) mod C (Gu et al., 2019).

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        patch: Side of the square trigger, in pixels.
        position: Corner in which the trigger sits.
        value: Pixel value of the trigger, white 1; or one for each channel.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        patch: int = 3,
        position: Corner = "bottom-right",
        value: float | list[float] = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, 0, patch, position, value, seed)

    def relabel(self, labels: Tensor) -> Tensor:
        """The next class."""
        return (labels + 1) % self.num_classes

    def wanted(self, labels: Tensor) -> Tensor:
        """The next class."""
        return self.relabel(labels)


class TaCT(Poison):
    """The patch of `Poison`, which works on images of one class alone (Tang et al., 2021).

    Samples of the source class are relabelled as the target. Samples of further classes get the patch and keep
    their labels (cover), so that the patch alone means nothing.

    Args:
        size: Number of manipulated samples, |S_m|, cover included.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        source: Class whose samples are relabelled.
        target: Class that they are labelled as.
        cover: Fraction of S_m that is cover, in [0, 1); of classes that are neither source nor target.
        patch: Side of the square trigger, in pixels.
        position: Corner in which the trigger sits.
        value: Pixel value of the trigger, white 1; or one for each channel.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        source: int = 1,
        target: int = 0,
        cover: float = 0.5,
        patch: int = 3,
        position: Corner = "bottom-right",
        value: float | list[float] = 1.0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, patch, position, value, seed)
        if source == target:
            raise UserError(f"source={source} is the target too: give two classes")
        check_cover(cover)
        self.source = source
        self.cover = cover

    def select(self, labels: Tensor) -> Tensor:
        """Some of the source class, and cover."""
        count = self.count(len(labels))
        covering = min(round(self.cover * count), count - 1)
        others = (labels != self.source) & (labels != self.target)
        parts = [self.draw(labels == self.source, count - covering), self.draw(others, covering)]
        return torch.cat(parts).sort().values

    def relabel(self, labels: Tensor) -> Tensor:
        """The source class becomes the target; cover stays."""
        return labels.masked_fill(labels == self.source, self.target)

    def affected(self, labels: Tensor) -> Tensor:
        """Images of the source class with the trigger."""
        return labels == self.source
