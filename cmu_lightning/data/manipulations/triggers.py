"""Backdoors: a trigger in the image and a target class."""

import math
from functools import lru_cache
from math import inf, isfinite
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.data.sampling import derive_seed, generator
from cmu_lightning.errors import UserError


@lru_cache(maxsize=16)
def noise_image(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Uniform noise in [0, 1), the same on every device."""
    return torch.rand(shape, generator=generator(seed)).to(device)


def uniform_numbers(seed: int, index: Tensor, count: int) -> Tensor:
    """Uniform numbers in (0, 1) that depend on the sample, not on its batch, process or device.

    They are the SplitMix64 generator's (Steele et al., 2014) at positions index * count, index * count + 1, ...

    Args:
        seed: Seed of all of them.
        index: Tells samples apart, int64, shape (n,).
        count: Numbers for each sample.

    Returns:
        Shape (n, count), float32, multiples of 2**-24.
    """
    position = index.unsqueeze(1) * count + torch.arange(1, count + 1, device=index.device)
    bits = position * _signed(0x9E3779B97F4A7C15) + derive_seed(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ _right(bits, shift)) * _signed(factor)
    bits = bits ^ _right(bits, 31)
    return (_right(bits, 41).float() + 0.5) / 2**23


def _right(bits: Tensor, shift: int) -> Tensor:
    """Shift as an unsigned number does; torch's own shift repeats the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


def _signed(number: int) -> int:
    """The int64 of the same 64 bits."""
    return number - (1 << 64)


def check_opacity(name: str, value: float) -> None:
    """Refuse what no picture can be blended with."""
    if not 0 < value <= 1:
        raise UserError(f"{name}={value} is not in (0, 1]: 0 would not be seen, 1 hides the image")


def check_cover(value: float) -> None:
    """Refuse what is no fraction, or leaves nothing that is relabelled."""
    if not 0 <= value < 1:
        raise UserError(f"cover={value} is not in [0, 1): it is the fraction of S_m that keeps its labels")


class Backdoor(Manipulation):
    """Images with a trigger, labelled as the target class; a backdoor of one's own defines `stamp` alone.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, seed)
        self.target = target

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr, samples of the target class included."""
        return self.draw(torch.ones_like(labels, dtype=torch.bool))

    def relabel(self, labels: Tensor) -> Tensor:
        """All become the target class."""
        return torch.full_like(labels, self.target)

    def affected(self, labels: Tensor) -> Tensor:
        """Every image with the trigger, those of the target class too."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Every image without it."""
        return torch.ones_like(labels, dtype=torch.bool)

    def target_labels(self, labels: Tensor) -> Tensor:
        """The target class."""
        return torch.full_like(labels, self.target)


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

    def target_labels(self, labels: Tensor) -> Tensor:
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


class Blended(Backdoor):
    """x' = (1 - a) x + a t, with a picture t of uniform noise (Chen et al., 2017).

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        opacity: a, in (0, 1].
        pattern: Draws t.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        opacity: float = 0.2,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        check_opacity("opacity", opacity)
        self.opacity = opacity
        self.pattern = pattern

    def stamp(self, images: Tensor) -> Tensor:
        """Blend with the noise."""
        return images.lerp(noise_image(self.pattern, tuple(images.shape[1:]), images.device), self.opacity)


class SIG(Backdoor):
    """x' = clip(x + d sin(2 pi j / p)) in column j = 0, 1, ... (Barni et al., 2019).

    The source counts f = 6 waves in the W = 32 columns of its images, so p = W / f.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        amplitude: d, in (0, 1].
        period: p, the columns of one wave.
        clean_label: Whether samples of the target class alone are poisoned, which keep their labels.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        amplitude: float = 40 / 255,
        period: float = 32 / 6,
        clean_label: bool = False,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        if not 0 < amplitude <= 1:
            raise UserError(f"amplitude={amplitude} is not in (0, 1]: white is 1")
        if not 2 < period < math.inf:
            raise UserError(f"period={period} makes no wave: give its length in pixels, more than 2")
        self.amplitude = amplitude
        self.period = period
        self.clean_label = clean_label

    def select(self, labels: Tensor) -> Tensor:
        """A uniform draw from S_tr, or from its target class."""
        return self.draw(labels == self.target) if self.clean_label else super().select(labels)

    def stamp(self, images: Tensor) -> Tensor:
        """Add the waves."""
        column = torch.arange(images.shape[-1], dtype=images.dtype, device=images.device)
        return (images + self.amplitude * torch.sin(2 * math.pi / self.period * column)).clamp(0, 1)


class WaNet(Backdoor):
    """x' = x sampled bilinearly at clamp(id + s P / H, -1, 1), coordinates being -1 to 1 (Nguyen and Tran, 2021).

    P is a field of k x k uniform vectors in [-1, 1], over their mean absolute value, enlarged bicubically to the
    image's size; it is drawn once. The source's noise mode, for which it controls the training, is left out.

    Args:
        size: Number of manipulated samples, |S_m|.
        fraction: |S_m| as a fraction of S_tr; give this or `size`.
        target: Class that poisoned samples are labelled as.
        strength: s; pixels move by about s / 2.
        grid: k.
        pattern: Draws P.
        seed: Draws S_m.
    """

    def __init__(
        self,
        size: int | None = None,
        fraction: float | None = None,
        target: int = 0,
        strength: float = 0.5,
        grid: int = 4,
        pattern: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(size, fraction, target, seed)
        if not 0 < strength < inf:
            raise UserError(f"strength={strength} warps nothing: give a number above 0")
        if grid < 2:
            raise UserError(f"grid={grid} is no field: give at least 2")
        self.strength = strength
        self.grid = grid
        self.pattern = pattern

    def stamp(self, images: Tensor) -> Tensor:
        """Warp."""
        height, width = images.shape[-2:]
        where = places(self.pattern, self.strength, self.grid, height, width, images.device)
        return grid_sample(images, where.expand(len(images), -1, -1, -1), align_corners=True)


@lru_cache(maxsize=16)
def places(seed: int, strength: float, grid: int, height: int, width: int, device: torch.device) -> Tensor:
    """Where each pixel is taken from, as x and y from -1 to 1, shape (1, H, W, 2)."""
    coarse = 2 * torch.rand((1, 2, grid, grid), generator=generator(seed)) - 1
    field = interpolate(coarse / coarse.abs().mean(), (height, width), mode="bicubic", align_corners=True)
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (torch.stack([x, y], dim=-1) + strength * field.permute(0, 2, 3, 1) / height).clamp(-1, 1).to(device)
