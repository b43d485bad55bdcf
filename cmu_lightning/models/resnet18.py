"""ResNet-18 (He et al., 2016) for images of 32 pixels, as the field trains it on CIFAR."""

from torch import nn
from torchvision.models import resnet

from cmu_lightning.models.factory import check_sizes


class ResNet18(resnet.ResNet):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's ResNet-18 with a CIFAR stem: a 3x3 convolution of stride 1 and no max-pooling.

    11,173,962 parameters at width 64 with 10 classes and 3 channels. Parameters have the names that they have in
    `torchvision.models.resnet18`, whose weights differ in the shapes of the stem and of the last layer only.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of an image.
        width: Channels of the first layer.

    Example:
        >>> import torch
        >>> from cmu_lightning.models import ResNet18
        >>> ResNet18(num_classes=10, in_channels=1, width=4)(torch.zeros(2, 1, 12, 12)).shape
        torch.Size([2, 10])
    """

    def __init__(self, num_classes: int = 10, in_channels: int = 3, width: int = 64) -> None:
        check_sizes(num_classes=num_classes, in_channels=in_channels, width=width)
        super().__init__(resnet.BasicBlock, [2, 2, 2, 2], num_classes)
        # The ImageNet stem, 7x7 of stride 2 and a pooling, would leave 8x8 places of 32x32.
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
        if width != 64:  # which torchvision has written into its constructor
            self.bn1, self.inplanes = nn.BatchNorm2d(width), width
            self.layer1 = self._make_layer(resnet.BasicBlock, width, 2)
            self.layer2 = self._make_layer(resnet.BasicBlock, 2 * width, 2, stride=2)
            self.layer3 = self._make_layer(resnet.BasicBlock, 4 * width, 2, stride=2)
            self.layer4 = self._make_layer(resnet.BasicBlock, 8 * width, 2, stride=2)
            self.fc = nn.Linear(8 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
