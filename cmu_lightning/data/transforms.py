"""From stored images to a network's input: crops and flips, triggers, normalisation."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.samples import to_device


class CropAndFlip:
    """Augmentation: pad with black, cut out images of the same size, mirror some.

    Parameters are drawn for all samples of an epoch at once and applied later, so that they depend neither on the
    number of processes nor on the device.

    Args:
        padding: Pixels added on each side.
        flip: Whether half of the images are mirrored.

    Example:
        >>> augmentation = CropAndFlip(padding=4, flip=True)
        >>> images = torch.zeros(5, 32, 32, 3, dtype=torch.uint8)
        >>> augmentation(images, augmentation.draw(5, torch.Generator().manual_seed(0))).shape
        torch.Size([5, 32, 32, 3])
    """

    def __init__(self, padding: int, flip: bool) -> None:
        self.padding = padding
        self.flip = flip

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw the parameters of some samples.

        Args:
            count: Number of samples.
            generator: Generator to draw from.

        Returns:
            Shape (count, 3): the row and the column at which the crop starts, each in [0, 2 * padding], and
            whether it is mirrored.
        """
        start = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        mirrored = torch.randint(0, 2, (count, 1), generator=generator) * int(self.flip)
        return torch.cat([start, mirrored], dim=1)

    def __call__(self, images: Tensor, crops: Tensor) -> Tensor:
        """Augment images.

        Args:
            images: Shape (n, H, W, C).
            crops: Parameters from `draw`, shape (n, 3), on the device of the images.
        """
        count, height, width, channels = images.shape
        if not (self.padding or self.flip):
            return images
        padded = pad(images, (0, 0, *[self.padding] * 4))
        top, left, mirrored = crops.unsqueeze(-1).unbind(1)
        # The row and the column of the padded image that each pixel of the result comes from, (n, H) and (n, W).
        rows = top + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        columns = left + torch.where(mirrored > 0, columns.flip(0), columns)
        # One flat index gathers all pixels in one kernel, even if every sample has another crop.
        sample = torch.arange(count, device=images.device).view(-1, 1, 1)
        pixel = (sample * padded.shape[1] + rows.unsqueeze(2)) * padded.shape[2] + columns.unsqueeze(1)
        return padded.reshape(-1, channels).index_select(0, pixel.flatten()).view(images.shape)


class Pixels:
    """From stored images to a network's input: stamp those that carry a trigger, normalise all.

    Args:
        mean: Mean of each channel, white being 1.
        std: Standard deviation of each channel.
        manipulation: Stamps images.
        device: Device of the arithmetic and of the result.
        contiguous: Whether the result is laid out as (n, C, H, W) in memory; default channels last, which is faster.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        manipulation: Manipulation,
        device: torch.device,
        contiguous: bool = False,
    ) -> None:
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)
        self.manipulation = manipulation
        self.device = device
        self.contiguous = contiguous

    def __call__(self, images: Tensor, stamped: Tensor, number: Tensor | None = None) -> Tensor:
        """Stamp some images and normalise all.

        Args:
            images: Shape (n, H, W, C), uint8.
            stamped: Which images to stamp, bool, shape (n,), on the CPU, so that no step waits for the device.
            number: `manipulation_index` of training samples, shape (n,); None stamps all as unseen images.

        Returns:
            Shape (n, C, H, W), float32, channels last in memory unless `contiguous`.
        """
        pixels = to_device(images, self.device).float().div_(255)
        picture = pixels.permute(0, 3, 1, 2)
        # 1. Stamp between black 0 and white 1.
        rows = torch.nonzero(stamped).flatten()
        if len(rows):
            rows = to_device(rows, self.device)
            own_number = None if number is None else to_device(number, self.device)[rows]
            picture[rows] = self._stamped(picture[rows], own_number)
        # 2. Normalise rows of W * C numbers: broadcasting over 3 channels is slow.
        count, height, width, channels = pixels.shape
        lines = pixels.view(count * height, width * channels)
        lines.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        # A copy: images of one channel are laid out in both ways at once, and convolutions take them as channels last.
        return picture.clone(memory_format=torch.contiguous_format) if self.contiguous else picture

    def _stamped(self, images: Tensor, number: Tensor | None) -> Tensor:
        adversary = self.manipulation
        stamped = adversary.stamp(images) if number is None else adversary.stamp_training(images, number)
        return stamped.to(images.dtype)
