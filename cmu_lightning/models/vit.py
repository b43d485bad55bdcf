"""A small vision transformer (Dosovitskiy et al., 2021), by the sizes of REM's experiments."""

from torch import nn
from torchvision.models import vision_transformer

from cmu_lightning.errors import UserError
from cmu_lightning.models.factory import check_sizes


class ViT(vision_transformer.VisionTransformer):  # type: ignore[misc]  # torchvision ships no types
    """torchvision's vision transformer, with the sizes of REM's network for images of 32 pixels.

    By default 512 features, 4 blocks of 8 heads, hidden layers of 1,536 features, and patches of 8x8 pixels: 10,624,522
    parameters with 10 classes. There is no batch norm, so one process and several train alike, and no dropout. As
    torchvision initialises it, the last layer is zero: a network that was never trained, such as BadT's teacher, gives
    every class the same probability.

    Args:
        num_classes: Number of classes.
        in_channels: Channels of an image.
        image_size: Height and width of an image, in pixels; no other size is taken.
        patch: Height and width of a patch, in pixels; divides `image_size`.
        width: Features of a token; a multiple of `heads`.
        depth: Number of blocks.
        heads: Heads of a block's attention.
        hidden: Features of a block's hidden layer.

    Raises:
        UserError: Patches do not tile the image, or heads do not share the features.

    Example:
        >>> import torch
        >>> from cmu_lightning.models import ViT
        >>> network = ViT(num_classes=10, in_channels=1, image_size=12, patch=4, width=16, depth=2, heads=2, hidden=32)
        >>> network(torch.zeros(2, 1, 12, 12)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        num_classes: int = 10,
        in_channels: int = 3,
        image_size: int = 32,
        patch: int = 8,
        width: int = 512,
        depth: int = 4,
        heads: int = 8,
        hidden: int = 1536,
    ) -> None:
        check_sizes(num_classes=num_classes, in_channels=in_channels, image_size=image_size, patch=patch)
        check_sizes(width=width, depth=depth, heads=heads, hidden=hidden)
        if image_size % patch:
            raise UserError(
                f"network.patch={patch} does not divide network.image_size={image_size}: give another patch"
            )
        if width % heads:
            raise UserError(f"network.width={width} is no multiple of network.heads={heads}: give one that is")
        super().__init__(image_size, patch, depth, heads, width, hidden, num_classes=num_classes)
        if in_channels != 3:
            # torchvision's projection of patches takes three channels; this is its initialisation for others.
            self.conv_proj = nn.Conv2d(in_channels, width, patch, patch)
            nn.init.trunc_normal_(self.conv_proj.weight, std=(in_channels * patch**2) ** -0.5)
            assert self.conv_proj.bias is not None
            nn.init.zeros_(self.conv_proj.bias)
