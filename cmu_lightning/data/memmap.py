"""Images that stay in a file, for data that fit no memory."""

import math
import os
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError

CHUNK = 4096
"""Images that are in memory at once when all are gone through."""


class Mapped:
    """Some rows of a memory-mapped array of images, shape (n, H, W, C) uint8, read as they are asked for.

    Args:
        array: Array of all images.
        rows: Which of them, in order, int64, shape (n,).
    """

    device = torch.device("cpu")

    def __init__(self, array: Tensor, rows: Tensor) -> None:
        self.array, self.rows = array, rows

    @property
    def shape(self) -> torch.Size:
        """(n, H, W, C)."""
        return torch.Size([len(self.rows), *self.array.shape[1:]])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor | slice) -> Tensor:
        return self.array[self.rows[index]]

    def __setitem__(self, index: int | slice, images: Tensor) -> None:
        self.array[self.rows[index]] = images

    def take(self, chosen: Tensor) -> "Mapped":
        """The images at these indices or under this mask, without reading them."""
        return Mapped(self.array, self.rows[chosen])

    def to(self, device: torch.device) -> "Mapped":
        """They stay where they are."""
        return self

    def contiguous(self) -> "Mapped":
        """They are."""
        return self


Images = Tensor | Mapped


def room(shape: tuple[int, ...], folder: str) -> Mapped:
    """Room for images in a file that goes with the process.

    Args:
        shape: (n, H, W, C).
        folder: Where the file lies; it has no name there.

    Raises:
        UserError: There is not as much room.
    """
    size = math.prod(shape)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), max(size, 1))
            array = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=shape))
            return Mapped(array, torch.arange(shape[0]))
    except OSError as error:
        raise UserError(
            f"data.memory_map={folder} cannot hold {size / 2**30:.1f} GiB of images ({error.strerror}): give a folder "
            "that can be written to, on a larger disk"
        ) from error


def _reserve(file: int, size: int) -> None:
    """Room on the disk, where it can be had at once, as on Linux; else the file only gets its size."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def mapped(images: Images, folder: str) -> Mapped:
    """The same images from a file, unless they are in one already."""
    if isinstance(images, Mapped):
        return images
    there = room(tuple(images.shape), folder)
    for start in range(0, len(images), CHUNK):
        there[start : start + CHUNK] = images[start : start + CHUNK]
    return there


def checksum(images: Images, before: int) -> int:
    """Goes on with a CRC-32 of all bytes."""
    for start in range(0, len(images), CHUNK):
        before = zlib.crc32(images[start : start + CHUNK].contiguous().numpy().data, before)
    return before
