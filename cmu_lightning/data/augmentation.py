"""Random crop and flip of whole batches, each sample with its own parameters."""

import torch
from torch import Tensor
from torch.nn.functional import pad


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
