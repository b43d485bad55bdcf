"""Wide residual networks (Zagoruyko and Komodakis, 2016), for the paper's CIFAR-100 and PCam experiments."""

from torch import Tensor, nn
from torch.nn.functional import relu

from cmu_lightning.errors import UserError
from cmu_lightning.models.factory import check_sizes


class Block(nn.Module):
    """The pre-activation basic block B(3, 3): shortcut(x) + conv(relu(norm(conv(relu(norm(x)))))).

    The shortcut is the identity or, where the shape changes, a 1x1 convolution of relu(norm(x)).

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        same = in_channels == channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(in_channels, channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output.

        Args:
            x: Shape (n, in_channels, h, w).

        Returns:
            Shape (n, channels, h / stride, w / stride).
        """
        active = relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        out: Tensor = shortcut + self.conv2(relu(self.norm2(self.conv1(active))))
        return out


class WideResNet(nn.Module):
    """WRN-depth-width: the published network, without convolution biases and with a final batch norm and ReLU.

    WRN-28-10 is `WideResNet(depth=28, width=10)`: 36,479,194 parameters with 10 classes.

    Args:
        depth: Number of convolutions from input to output, 6 n + 4 with n blocks in each of three groups.
        width: Widening factor k.
        num_classes: Number of classes.
        in_channels: Channels of an image.

    Example:
        >>> import torch
        >>> from cmu_lightning.models import WideResNet
        >>> WideResNet(depth=10, width=1, num_classes=3)(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    def __init__(self, depth: int = 28, width: int = 10, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise UserError(f"depth={depth} is not 6 n + 4: give 10, 16, 22, 28, ...")
        check_sizes(width=width, num_classes=num_classes, in_channels=in_channels)
        channels = [16, 16 * width, 32 * width, 64 * width]
        # Three groups of blocks; the first block of the second and of the third halves height and width.
        layers: list[nn.Module] = [nn.Conv2d(in_channels, channels[0], 3, padding=1, bias=False)]
        for group, stride in enumerate((1, 2, 2)):
            layers.append(Block(channels[group], channels[group + 1], stride))
            layers += [Block(channels[group + 1], channels[group + 1], 1) for _ in range((depth - 4) // 6 - 1)]
        layers += [nn.BatchNorm2d(channels[3]), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits.

        Args:
            x: Images, shape (n, in_channels, H, W).

        Returns:
            Shape (n, num_classes).
        """
        logits: Tensor = self.classifier(self.features(x))
        return logits
