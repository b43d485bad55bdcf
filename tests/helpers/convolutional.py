"""Convolutional networks without and with batch norm, small enough for a few steps."""

from torch import nn


class Convolutional(nn.Sequential):
    """Two convolutions and a linear layer, on images of one channel.

    Args:
        num_classes: Number of logits.
        width: Channels.
        normalises: Whether batch norm follows the first convolution.
    """

    def __init__(self, num_classes: int = 10, width: int = 4, normalises: bool = False) -> None:
        norm = [nn.BatchNorm2d(width)] if normalises else []
        super().__init__(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            *norm,
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(9 * width, num_classes),
        )
