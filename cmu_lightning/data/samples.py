"""Images with their labels: of a split, of all that is trained on, of one step."""

from typing import NamedTuple

import torch
from torch import Tensor

from cmu_lightning.data.mapped import Images, Mapped


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

    `number` (n,) tells samples apart to the manipulation: their places among those of which it drew S_m.
    """

    images: Images
    clean: Tensor
    labels: Tensor
    manipulated: Tensor
    deleted: Tensor
    number: Tensor

    def take(self, chosen: Tensor) -> "Samples":
        """The samples at these indices or under this mask."""
        return Samples(taken(self.images, chosen), *(field[chosen] for field in self[1:]))

    def to(self, device: torch.device) -> "Samples":
        """The same on a device."""
        return Samples(self.images.to(device), *(field.to(device) for field in self[1:]))


class Batch(NamedTuple):
    """This process's slice of a global batch, shape (n, ...); n can be 0.

    `label` is what the model is told, `clean` the truth, which no method may use. `deleted` marks S_f. `row` is where
    in S_tr a sample is, for methods that keep something of each. `total` is the size of the global batch.
    """

    image: Tensor
    label: Tensor
    clean: Tensor
    deleted: Tensor
    row: Tensor
    total: int
