"""From stored images to a network's input: crops and flips, triggers, normalisation."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.samples import to_device


class CropAndFlip:
    """Pads with black, cuts out images of the same size, mirrors some.

    The parameters are drawn apart from their use: for all samples of an epoch at once, so that they depend
    neither on the number of processes nor on the device.

    Args:
        padding: Pixels added on each side.
        flip: Whether half of the images are mirrored.
    """

    def __init__(self, padding: int, flip: bool) -> None:
        self.padding = padding
        self.flip = flip

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw parameters.

        Returns:
            Shape (count, 3): the row and the column at which the crop starts, each in [0, 2 * padding], and
            whether it is mirrored.
        """
        start = torch.randint(0, 2 * self.padding + 1, (count, 2), generator=generator)
        mirrored = torch.randint(0, 2, (count, 1), generator=generator) * int(self.flip)
        return torch.cat([start, mirrored], dim=1)

    def __call__(self, images: Tensor, crops: Tensor) -> Tensor:
        """Augment.

        Args:
            images: Shape (n, H, W, C).
            crops: Shape (n, 3), from `draw`.
        """
        count, height, width, channels = images.shape
        if not (self.padding or self.flip):
            return images
        padded = pad(images, (0, 0, *[self.padding] * 4))
        top, left, mirrored = crops.unsqueeze(-1).unbind(1)
        rows = top + torch.arange(height, device=images.device)
        columns = torch.arange(width, device=images.device)
        columns = left + torch.where(mirrored > 0, columns.flip(0), columns)
        sample = torch.arange(count, device=images.device).view(-1, 1, 1)
        pixel = (sample * padded.shape[1] + rows.unsqueeze(2)) * padded.shape[2] + columns.unsqueeze(1)
        return padded.reshape(-1, channels).index_select(0, pixel.flatten()).view(images.shape)


class Pixels:
    """From stored images to a network's input.

    Args:
        mean: Mean of each channel, white being 1.
        std: Standard deviation of each channel.
        manipulation: Stamps the images it is asked to.
        device: Where the arithmetic is done.
    """

    def __init__(
        self,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        manipulation: Manipulation,
        device: torch.device,
    ) -> None:
        self.mean = torch.tensor(mean, device=device)
        self.std = torch.tensor(std, device=device)
        self.manipulation = manipulation
        self.device = device

    def __call__(self, images: Tensor, stamped: Tensor, number: Tensor | None = None) -> Tensor:
        """Stamp some and normalise all.

        Args:
            images: Shape (n, H, W, C), uint8.
            stamped: Which ones to stamp, bool, shape (n,), on the CPU, so that no one waits for a device to tell.
            number: Tells training samples apart, shape (n,); None stamps them as unseen images.

        Returns:
            Shape (n, C, H, W), float32, channels last in memory.
        """
        pixels = to_device(images, self.device).float().div_(255)
        picture = pixels.permute(0, 3, 1, 2)
        rows = torch.nonzero(stamped).flatten()
        if len(rows):
            rows = to_device(rows, self.device)
            own = None if number is None else to_device(number, self.device)[rows]
            picture[rows] = self._stamped(picture[rows], own)
        count, height, width, channels = pixels.shape
        lines = pixels.view(count * height, width * channels)  # long rows: broadcasting over 3 channels is slow
        lines.sub_(self.mean.repeat(width)).div_(self.std.repeat(width))
        return picture

    def _stamped(self, images: Tensor, number: Tensor | None) -> Tensor:
        own = self.manipulation
        stamped = own.stamp(images) if number is None else own.stamp_training(images, number)
        return stamped.to(images.dtype)
