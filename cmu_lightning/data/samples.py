"""Images with their labels: decoded files, splits, training samples and batches."""

import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional

from cmu_lightning.data import memmap
from cmu_lightning.data.memmap import Images, MappedImages
from cmu_lightning.errors import UserError


def decode(path: str | Path, grey: bool, size: int | None = None, resize: int | None = None) -> np.ndarray:
    """Return the pixels of an image file.

    Args:
        path: Path of the file.
        grey: Whether to return one channel instead of three.
        size: Side of the square to cut out of the centre; default the whole image.
        resize: Length to which the shorter side is resized before the cut; default `size`.

    Returns:
        Shape (H, W, C), uint8, writable.

    Raises:
        UserError: The file is no image, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as image:
            mode, picture = image.mode, image.convert("L" if grey else "RGB")
    except Exception as error:  # PIL raises many types, depending on the bytes
        raise UserError(f"the image {path} cannot be read ({error}): repair it or remove it") from error
    if mode[0] in "IF":
        raise UserError(f"the image {path} has more than 8 bits a channel (mode {mode}): convert it to 8")
    if size is not None:
        picture = functional.center_crop(functional.resize(picture, [resize or size]), [size])
    pixels = np.asarray(picture)
    return np.array(pixels[..., None] if pixels.ndim == 2 else pixels)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor on a device without making the CPU wait.

    A copy to a GPU runs in the background only from pinned memory.

    Args:
        tensor: Tensor to copy, if it is not on the device.
        device: Device to copy it to.
    """
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def take_images(images: Images, chosen: Tensor) -> Images:
    """Return the images at some indices or under a mask; memory-mapped images are not read.

    Args:
        images: Shape (n, H, W, C).
        chosen: Indices, int64, or a mask, bool, shape (n,).
    """
    return images.take(chosen) if isinstance(images, MappedImages) else images[chosen]


class Split(NamedTuple):
    """Images of one split and their true classes.

    `images` has shape (n, H, W, C), uint8; `labels` has shape (n,), int64.

    Example:
        >>> split = Split(torch.zeros(3, 8, 8, 1, dtype=torch.uint8), torch.tensor([0, 1, 0]))
        >>> split.take(torch.tensor([2])).labels
        tensor([0])
    """

    images: Images
    labels: Tensor

    def take(self, chosen: Tensor) -> "Split":
        """Return the samples at some indices or under a mask.

        Args:
            chosen: Indices, int64, or a mask, bool, shape (n,).
        """
        return Split(take_images(self.images, chosen), self.labels[chosen])

    def to(self, device: torch.device) -> "Split":
        """Return the same split on a device.

        Args:
            device: Device of the result.
        """
        return Split(self.images.to(device), self.labels.to(device))


Splits = tuple[Split, Split | None, Split | None]
"""Training, validation and test split; None where the data set has none."""


class Read(NamedTuple):
    """The splits as read from disk, and a checksum that distinguishes them from other data."""

    train: Split
    validation: Split | None
    test: Split
    fingerprint: int


def read_splits(splits: Splits, folder: str | None) -> Read:
    """Return splits with contiguous images and their fingerprint; a missing test split becomes an empty one.

    Args:
        splits: Result of a data module's `load`.
        folder: Folder to keep the images in, memory-mapped; None keeps them in memory.
    """

    def placed(split: Split) -> Split:
        images = split.images.contiguous() if folder is None else memmap.map_images(split.images, folder)
        return Split(images, split.labels)

    train, validation, test = (split and placed(split) for split in splits)
    assert train is not None
    test = train.take(torch.zeros(0, dtype=torch.long)) if test is None else test
    there = (train, test) if validation is None else (train, validation, test)
    return Read(train, validation, test, checksum(*there))


def checksum(*splits: Split) -> int:
    """Return the CRC-32 of all images and labels.

    Args:
        splits: Splits to read through, in this order.
    """
    result = 0
    for split in splits:
        result = memmap.checksum(split.images, result)
        result = zlib.crc32(split.labels.contiguous().numpy().data, result)
    return result


def choose_device(device: torch.device, *splits: Split) -> torch.device:
    """Return the device on which to keep images: a GPU only where they take at most half of its free memory.

    Args:
        device: Device that the network runs on.
        splits: Splits to keep.
    """
    if any(isinstance(split.images, MappedImages) for split in splits):
        return torch.device("cpu")
    if device.type == "cuda":
        need = sum(math.prod(split.images.shape) for split in splits)
        return device if 2 * need < torch.cuda.mem_get_info(device)[0] else torch.device("cpu")
    return device


class Samples(NamedTuple):
    """Images (n, H, W, C) uint8, true and given labels (n,) int64, and bool masks (n,) of S_m and S_f.

    `true_labels` are the true classes, `given_labels` what the adversary made of them. `manipulation_index` (n,)
    identifies a sample to the manipulation: its position among the samples of which S_m was drawn.
    """

    images: Images
    true_labels: Tensor
    given_labels: Tensor
    manipulated: Tensor
    deleted: Tensor
    manipulation_index: Tensor

    def take(self, chosen: Tensor) -> "Samples":
        """Return the samples at some indices or under a mask.

        Args:
            chosen: Indices, int64, or a mask, bool, shape (n,).
        """
        return Samples(take_images(self.images, chosen), *(field[chosen] for field in self[1:]))

    def to(self, device: torch.device) -> "Samples":
        """Return the same samples on a device.

        Args:
            device: Device of the result.
        """
        return Samples(self.images.to(device), *(field.to(device) for field in self[1:]))


def unmanipulated(split: Split) -> Samples:
    """Return the samples of a split that no adversary has touched.

    Args:
        split: A split such as the data set's own validation split.
    """
    nothing = torch.zeros_like(split.labels, dtype=torch.bool)
    return Samples(split.images.contiguous(), split.labels, split.labels, nothing, nothing, torch.arange(len(nothing)))


class Batch(NamedTuple):
    """This process's slice of a global training batch; each field but `total` has shape (n, ...), and n can be 0.

    `image` is the network's input (n, C, H, W), float32. `label` (n,) is the label as given, `clean` (n,) the true
    class, which no method may use. `deleted` (n,) marks S_f. `train_index` (n,) is the position in S_tr, for methods
    that keep something of each sample. `total` is the size of the global batch.

    Example:
        >>> image, label = torch.zeros(2, 1, 8, 8), torch.tensor([0, 1])
        >>> batch = Batch(image, label, clean=label, deleted=label > 0, train_index=torch.arange(2), total=2)
        >>> batch.label[batch.deleted]
        tensor([1])
    """

    image: Tensor
    label: Tensor
    clean: Tensor
    deleted: Tensor
    train_index: Tensor
    total: int

    def joined(self, other: "Batch") -> "Batch":
        """Return this batch followed by another one.

        Args:
            other: A slice of another global batch on the same device.
        """
        fields = [torch.cat(pair) for pair in zip(self[:-1], other[:-1], strict=True)]
        return Batch._make([*fields, self.total + other.total])
