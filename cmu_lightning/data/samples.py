"""Images with their labels: files that are decoded, splits, training samples, batches."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from cmu_lightning.data.memmap import Images, Mapped
from cmu_lightning.errors import UserError


def decode(path: str | Path, grey: bool, size: int | None = None, resize: int | None = None) -> np.ndarray:
    """An image's pixels.

    Args:
        path: Path of the file.
        grey: One channel in place of three.
        size: Side of the square that is cut out of its centre; default as it is.
        resize: Shorter side to which it is resized before.

    Returns:
        Shape (H, W, C), uint8, writable.

    Raises:
        UserError: It is no image, or one of more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            mode, picture = image.mode, image.convert("L" if grey else "RGB")
    except Exception as error:  # PIL raises whatever the bytes lead it to
        raise UserError(f"the image {path} cannot be read ({error}): mend it or take it away") from error
    if mode[0] in "IF":
        raise UserError(f"the image {path} has more than 8 bits a channel (mode {mode}): convert it to 8")
    if size is not None:
        picture = functional.center_crop(functional.resize(picture, [resize or size]), [size])
    pixels = np.asarray(picture)
    return np.array(pixels[..., None] if pixels.ndim == 2 else pixels)


def taken(images: Images, chosen: Tensor) -> Images:
    """The images at these indices or under this mask."""
    return images.take(chosen) if isinstance(images, Mapped) else images[chosen]


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor on a device; a GPU fetches it by itself, for which memory has to be pinned, and nobody waits for it."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


class Split(NamedTuple):
    """Images of one split, shape (n, H, W, C) uint8, and their true classes, shape (n,) int64."""

    images: Images
    labels: Tensor

    def take(self, chosen: Tensor) -> "Split":
        """The samples at these indices or under this mask."""
        return Split(taken(self.images, chosen), self.labels[chosen])

    def to(self, device: torch.device) -> "Split":
        """The same on a device."""
        return Split(self.images.to(device), self.labels.to(device))


class Samples(NamedTuple):
    """Images (n, H, W, C) uint8, true classes, labels as given, and bool masks of S_m and S_f, each (n,).

    `manipulation_index` (n,) tells samples apart to the manipulation: their places among those of which it drew S_m.
    """

    images: Images
    true_labels: Tensor
    given_labels: Tensor
    manipulated: Tensor
    deleted: Tensor
    manipulation_index: Tensor

    def take(self, chosen: Tensor) -> "Samples":
        """The samples at these indices or under this mask."""
        return Samples(taken(self.images, chosen), *(field[chosen] for field in self[1:]))

    def to(self, device: torch.device) -> "Samples":
        """The same on a device."""
        return Samples(self.images.to(device), *(field.to(device) for field in self[1:]))


class Batch(NamedTuple):
    """This process's slice of a global batch, shape (n, ...); n can be 0.

    `label` is what the model is told, `clean` the truth, which no method may use. `deleted` marks S_f. `train_index`
    is the position of a sample in S_tr, for methods that keep something of each. `total` is the size of the global
    batch.
    """

    image: Tensor
    label: Tensor
    clean: Tensor
    deleted: Tensor
    train_index: Tensor
    total: int
