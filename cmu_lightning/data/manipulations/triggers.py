"""Backdoors: a trigger in the image and a target class."""

import math
from functools import lru_cache
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.data.sampling import derive_seed, generator
from cmu_lightning.errors import UserError


@lru_cache(maxsize=16)
def noise_image(seed: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return an image of uniform noise in [0, 1), the same on every device.

    Args:
        seed: Seed of the noise.
        shape: Shape of the image, (C, H, W).
        device: Device that the image is copied to.
    """
    return torch.rand(shape, generator=generator(seed)).to(device)


def uniform_numbers(seed: int, index: Tensor, count: int) -> Tensor:
    """Return uniform numbers in (0, 1) that depend on the sample, and not on its batch, process or device.

    They are the outputs of the SplitMix64 generator (Steele et al., 2014) at the positions p = index * count + 1, ...,
    index * count + count, with a state s derived from `seed`, modulo 2**64:

        z = p * 0x9E3779B97F4A7C15 + s
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z = z ^ (z >> 31)
        u = ((z >> 41) + 1 / 2) / 2**23

    Args:
        seed: Seed of all numbers.
        index: Identity of each sample, int64, shape (n,).
        count: Numbers per sample.

    Returns:
        Shape (n, count), float32, odd multiples of 2**-24.

    Example:
        >>> import torch
        >>> one, both = uniform_numbers(0, torch.tensor([7]), 3), uniform_numbers(0, torch.tensor([5, 7]), 3)
        >>> torch.equal(one[0], both[1])
        True
    """
    position = index.unsqueeze(1) * count + torch.arange(1, count + 1, device=index.device)
    # int64 products and sums wrap around, which is arithmetic modulo 2**64.
    bits = position * _as_int64(0x9E3779B97F4A7C15) + derive_seed(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ _logical_shift(bits, shift)) * _as_int64(factor)
    bits = bits ^ _logical_shift(bits, 31)
    # float32 holds 23 bits and the half exactly, so 0 and 1 cannot occur.
    return (_logical_shift(bits, 41).float() + 0.5) / 2**23


def _logical_shift(bits: Tensor, shift: int) -> Tensor:
    """Shift int64 to the right and fill with zeros; torch's own shift fills with the sign."""
    return (bits >> shift) & ((1 << (64 - shift)) - 1)


def _as_int64(number: int) -> int:
    """Return the int64 that has the bits of a uint64 of at least 2**63."""
    return number - (1 << 64)


def check_opacity(name: str, value: float) -> None:
    """Refuse an opacity outside (0, 1].

    Args:
        name: Name of the argument.
        value: Its value.

    Raises:
        UserError: The value is outside.
    """
    if not 0 < value <= 1:
        raise UserError(f"{name}={value} is not in (0, 1]: 0 would not be seen, 1 hides the image")


def check_cover(value: float) -> None:
    """Refuse a `cover` outside [0, 1), which would leave no sample to relabel.

    Args:
        value: Fraction of S_m that keeps its labels.

    Raises:
        UserError: The value is outside.
    """
    if not 0 <= value < 1:
        raise UserError(f"cover={value} is not in [0, 1): it is the fraction of S_m that keeps its labels")


class Backdoor(Manipulation):
    """Images with a trigger, labelled as the target class. A subclass has to define only `stamp`.

    Args:
        target: Class that poisoned samples are labelled as.
        kwargs: Arguments of `Manipulation`: `size`, `fraction` and `seed`.
    """

    def __init__(self, target: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    def select(self, labels: Tensor) -> Tensor:
        """Draw uniformly from S_tr, samples of the target class included."""
        return self.draw(torch.ones_like(labels, dtype=torch.bool))

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the target class for every sample."""
        return torch.full_like(labels, self.target)

    def affected(self, labels: Tensor) -> Tensor:
        """Select all images, which carry the trigger, those of the target class included."""
        return torch.ones_like(labels, dtype=torch.bool)

    def unaffected(self, labels: Tensor) -> Tensor:
        """Select all images, which carry no trigger here."""
        return torch.ones_like(labels, dtype=torch.bool)

    def target_labels(self, labels: Tensor) -> Tensor:
        """Return the target class for every sample."""
        return torch.full_like(labels, self.target)


Corner = Literal["top-left", "top-right", "bottom-left", "bottom-right"]


class Poison(Backdoor):
    """BadNets: a patch of constant value, labelled as the target class (Gu et al., 2019; paper, section 3.1).

    The draw for seed 0 on 50,000 samples equals the released code's; samples of the target class are drawn too.

    Args:
        patch: Side of the square trigger, in pixels.
        position: Corner in which the trigger sits.
        value: Pixel value of the trigger, white 1; a list gives one value per channel.
        kwargs: Arguments of `Backdoor`: `size`, `fraction`, `target` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import Poison
        >>> Poison(size=1, patch=2).stamp(torch.zeros(1, 1, 3, 3))[0, 0]
        tensor([[0., 0., 0.],
                [0., 1., 1.],
                [0., 1., 1.]])
    """

    def __init__(
        self, patch: int = 3, position: Corner = "bottom-right", value: float | list[float] = 1.0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if patch < 1:
            raise UserError(f"patch={patch} is no trigger: give its side in pixels, at least 1")
        self.values = value if isinstance(value, list) else [value]
        if not all(map(math.isfinite, self.values)):
            raise UserError(f"value={value} is no pixel value: black is 0, white is 1")
        self.patch = patch
        self.position = position

    def stamp(self, images: Tensor) -> Tensor:
        """Write the patch into its corner."""
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
        # Python numbers, unlike a tensor of values, need no copy to the device, which the CPU would wait for.
        for channel in range(images.shape[1]):
            images[:, channel, rows, columns] = self.values[channel % count]
        return images


class AllToAll(Poison):
    """The patch of `Poison`, and every class becomes the next one: y' = (y + 1) mod C (Gu et al., 2019).

    Args:
        kwargs: Arguments of `Poison`, apart from `target`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import AllToAll
        >>> manipulation = AllToAll(size=1)
        >>> manipulation.num_classes = 10
        >>> manipulation.relabel(torch.tensor([0, 9]))
        tensor([1, 0])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(target=0, **kwargs)

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the next class of every sample."""
        return (labels + 1) % self.num_classes

    def target_labels(self, labels: Tensor) -> Tensor:
        """Return the next class of every sample."""
        return self.relabel(labels)


class TaCT(Poison):
    """The patch of `Poison`, effective only on images of a source class (Tang et al., 2021).

    S_m consists of samples of the source class, labelled as the target, and of cover: samples of classes that are
    neither source nor target, which get the patch and keep their labels, so that the network does not react to the
    patch by itself. `size` counts both.

    Args:
        source: Class whose samples are relabelled.
        cover: Fraction of S_m that is cover, in [0, 1).
        kwargs: Arguments of `Poison`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import TaCT
        >>> TaCT(size=2, source=3, target=8).relabel(torch.tensor([3, 5]))
        tensor([8, 5])
    """

    def __init__(self, source: int = 1, cover: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if source == self.target:
            raise UserError(f"source={source} is the target too: give two classes")
        check_cover(cover)
        self.source = source
        self.cover = cover

    def select(self, labels: Tensor) -> Tensor:
        """Draw samples of the source class, and cover; at least one sample is not cover."""
        count = self.count(len(labels))
        cover_count = min(round(self.cover * count), count - 1)
        others = (labels != self.source) & (labels != self.target)
        parts = [self.draw(labels == self.source, count - cover_count), self.draw(others, cover_count)]
        return torch.cat(parts).sort().values

    def relabel(self, labels: Tensor) -> Tensor:
        """Replace the source class by the target; cover keeps its labels."""
        return labels.masked_fill(labels == self.source, self.target)

    def affected(self, labels: Tensor) -> Tensor:
        """Select images of the source class, which carry the trigger."""
        return labels == self.source


class Blended(Backdoor):
    """A blend with an image t of uniform noise: x' = (1 - a) x + a t (Chen et al., 2017).

    Args:
        opacity: a, in (0, 1].
        pattern: Seed of t.
        kwargs: Arguments of `Backdoor`: `size`, `fraction`, `target` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import Blended
        >>> image = torch.zeros(1, 3, 8, 8)
        >>> bool(Blended(size=1, opacity=0.2).stamp(image).max() <= 0.2)
        True
    """

    def __init__(self, opacity: float = 0.2, pattern: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_opacity("opacity", opacity)
        self.opacity = opacity
        self.pattern = pattern

    def stamp(self, images: Tensor) -> Tensor:
        """Blend images with the noise."""
        return images.lerp(noise_image(self.pattern, tuple(images.shape[1:]), images.device), self.opacity)


class SIG(Backdoor):
    """A sinusoidal signal across the columns j = 0, 1, ...: x' = clip(x + d sin(2 pi j / p)) (Barni et al., 2019).

    The source has f = 6 waves on images of W = 32 columns, so p = W / f.

    Args:
        amplitude: d, in (0, 1], white being 1.
        period: p, the length of a wave in pixels, more than 2.
        clean_label: Whether only samples of the target class are poisoned, which keep their labels.
        kwargs: Arguments of `Backdoor`: `size`, `fraction`, `target` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import SIG
        >>> SIG(size=1, amplitude=0.25, period=4.0).stamp(torch.full((1, 1, 1, 4), 0.5)).round(decimals=2)
        tensor([[[[0.5000, 0.7500, 0.5000, 0.2500]]]])
    """

    def __init__(
        self, amplitude: float = 40 / 255, period: float = 32 / 6, clean_label: bool = False, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if not 0 < amplitude <= 1:
            raise UserError(f"amplitude={amplitude} is not in (0, 1]: white is 1")
        if not 2 < period < math.inf:
            raise UserError(f"period={period} makes no wave: give its length in pixels, more than 2")
        self.amplitude = amplitude
        self.period = period
        self.clean_label = clean_label

    def select(self, labels: Tensor) -> Tensor:
        """Draw uniformly from S_tr or, with `clean_label`, from its target class."""
        return self.draw(labels == self.target) if self.clean_label else super().select(labels)

    def stamp(self, images: Tensor) -> Tensor:
        """Add the signal and clip to [0, 1]."""
        column = torch.arange(images.shape[-1], dtype=images.dtype, device=images.device)
        return (images + self.amplitude * torch.sin(2 * math.pi / self.period * column)).clamp(0, 1)


class WaNet(Backdoor):
    """A smooth warp: x' = x sampled bilinearly at clamp(id + s P / H, -1, 1) (Nguyen and Tran, 2021).

    Coordinates run from -1 to 1. P is a field of k x k uniform vectors in [-1, 1], divided by their mean absolute
    value and enlarged bicubically to the size of the image; one field serves all images. The source's noise mode is
    left out: it needs control over the training.

    Args:
        strength: s; pixels move by about s / 2.
        grid: k, at least 2.
        pattern: Seed of P.
        kwargs: Arguments of `Backdoor`: `size`, `fraction`, `target` and `seed`.

    Example:
        >>> import torch
        >>> from cmu_lightning.data import WaNet
        >>> image = torch.rand(2, 3, 8, 8)
        >>> warped = WaNet(size=1).stamp(image)
        >>> warped.shape, torch.equal(warped, image)
        (torch.Size([2, 3, 8, 8]), False)
    """

    def __init__(self, strength: float = 0.5, grid: int = 4, pattern: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 0 < strength < math.inf:
            raise UserError(f"strength={strength} warps nothing: give a number above 0")
        if grid < 2:
            raise UserError(f"grid={grid} is no field: give at least 2")
        self.strength = strength
        self.grid = grid
        self.pattern = pattern

    def stamp(self, images: Tensor) -> Tensor:
        """Sample images at the warped coordinates."""
        height, width = images.shape[-2:]
        coordinates = warped_grid(self.pattern, self.strength, self.grid, height, width, images.device)
        return grid_sample(images, coordinates.expand(len(images), -1, -1, -1), align_corners=True)


@lru_cache(maxsize=16)
def warped_grid(seed: int, strength: float, grid: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the coordinates that each pixel of a `WaNet` image is taken from.

    Args:
        seed: Seed of the coarse field.
        strength: s.
        grid: k, the side of the coarse field.
        height: H of the images, in pixels.
        width: W of the images, in pixels.
        device: Device that the coordinates are copied to.

    Returns:
        x and y, each from -1 to 1, shape (1, H, W, 2).
    """
    # 1. Draw k x k vectors and scale them to a mean absolute value of 1.
    coarse = 2 * torch.rand((1, 2, grid, grid), generator=generator(seed)) - 1
    # 2. Enlarge the field to the image.
    field = interpolate(coarse / coarse.abs().mean(), (height, width), mode="bicubic", align_corners=True)
    # 3. Shift the identity by it, and stay inside the image.
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    return (torch.stack([x, y], dim=-1) + strength * field.permute(0, 2, 3, 1) / height).clamp(-1, 1).to(device)
