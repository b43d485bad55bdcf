"""What a network sees of an image."""

import torch
from torch import Tensor

from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.samples import to_device


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
