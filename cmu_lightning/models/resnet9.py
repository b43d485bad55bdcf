"""ResNet-9, the network of the paper's CIFAR-10 experiments."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from cmu_lightning.models.factory import check_sizes


def conv_bn(in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """Return a convolution, batch norm and CELU with alpha = 0.075.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        kernel_size: Side of the kernel, in pixels.
        stride: Stride of the convolution.
        padding: Zeros added on each side, in pixels.
    """
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding),
        nn.BatchNorm2d(channels),
        nn.CELU(alpha=0.075),
    )


class Residual(nn.Module):
    """A residual block of two `conv_bn`: x + branch(x), with no activation after the sum.

    Args:
        channels: Channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv_bn(channels, channels), conv_bn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return x + branch(x).

        Args:
            x: Shape (n, channels, h, w).

        Returns:
            Shape (n, channels, h, w).
        """
        out: Tensor = x + self.branch(x)
        return out


class GlobalMaxPool(nn.Module):
    """The maximum of each channel, as nn.AdaptiveMaxPool2d(1), which torch 2.11 cannot export to ONNX."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima.

        Args:
            x: Shape (n, channels, h, w).

        Returns:
            Shape (n, channels, 1, 1).
        """
        return max_pool2d(x, x.shape[2:])


class ResNet9(nn.Module):
    """The released code's ResNet-9: 2,276,224 parameters at width 64 with 10 classes and 3 channels.

    It has convolution biases, initialised to zero, and none in the linear layer. The paper cites another network.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of an image.
        width: Channels of the first layer.

    Example:
        >>> import torch
        >>> from cmu_lightning.models import ResNet9
        >>> ResNet9(num_classes=10, in_channels=1, width=8)(torch.zeros(2, 1, 12, 12)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        super().__init__()
        check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        self.features = nn.Sequential(
            conv_bn(in_channels, width),
            conv_bn(width, 2 * width, kernel_size=5, stride=2, padding=2),
            Residual(2 * width),
            conv_bn(2 * width, 4 * width),
            nn.MaxPool2d(2),
            Residual(4 * width),
            conv_bn(4 * width, 2 * width, padding=0),
            GlobalMaxPool(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * width, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits.

        Args:
            x: Images, shape (n, in_channels, H, W), H and W at least 12.

        Returns:
            Shape (n, num_classes).
        """
        logits: Tensor = self.classifier(self.features(x))
        return logits
