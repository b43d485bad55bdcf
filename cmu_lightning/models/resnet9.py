"""ResNet-9, the network of the paper's CIFAR-10 experiments."""

from torch import Tensor, nn
from torch.nn.functional import max_pool2d

from cmu_lightning.models.factory import check_sizes


def conv_bn(in_channels: int, channels: int, kernel_size: int = 3, stride: int = 1, padding: int = 1) -> nn.Sequential:
    """Convolution, batch norm and CELU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, channels, kernel_size, stride, padding),
        nn.BatchNorm2d(channels),
        nn.CELU(alpha=0.075),
    )


class Residual(nn.Module):
    """Two `conv_bn` around which the input is added; nothing follows the sum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(conv_bn(channels, channels), conv_bn(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, channels, h, w), unchanged."""
        out: Tensor = x + self.branch(x)
        return out


class LargestOfMap(nn.Module):
    """What nn.AdaptiveMaxPool2d(1) does, which torch 2.11 does not write as ONNX."""

    def forward(self, x: Tensor) -> Tensor:
        """Shape (n, channels, h, w), to (n, channels, 1, 1)."""
        return max_pool2d(x, x.shape[2:])


class ResNet9(nn.Module):
    """The released code's ResNet-9: 2,276,224 parameters at width 64 with 10 classes and 3 channels.

    The paper cites another network. Convolutions have a bias, which starts at zero; the linear layer has none.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of an image.
        width: Channels of the first layer.
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
            LargestOfMap(),
            nn.Flatten(),
        )
        self.classifier = nn.Linear(2 * width, num_classes, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, in_channels, H, W), H and W at least 12, to logits (n, num_classes)."""
        logits: Tensor = self.classifier(self.features(x))
        return logits
