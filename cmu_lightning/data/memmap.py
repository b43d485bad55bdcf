"""Memory-mapped images, for data that do not fit into memory."""

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
"""Number of images in memory at once while all images are read or written."""


class MappedImages:
    """Some rows of a memory-mapped array of images, shape (n, H, W, C) uint8, read when they are indexed.

    Args:
        array: All images, shape (N, H, W, C), uint8.
        rows: Indices of the rows, int64, shape (n,).

    Example:
        >>> images = MappedImages(torch.zeros(4, 8, 8, 1, dtype=torch.uint8), torch.tensor([3, 1]))
        >>> images[torch.tensor([0])].shape
        torch.Size([1, 8, 8, 1])
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

    def take(self, chosen: Tensor) -> "MappedImages":
        """Return the images at some indices or under a mask, without reading them.

        Args:
            chosen: Indices, int64, or a mask, bool, shape (n,).
        """
        return MappedImages(self.array, self.rows[chosen])

    def to(self, device: torch.device) -> "MappedImages":
        """Return self; memory-mapped images stay in their file.

        Args:
            device: Ignored.
        """
        return self

    def contiguous(self) -> "MappedImages":
        """Return self; memory-mapped images are contiguous."""
        return self


Images = Tensor | MappedImages
"""Images of shape (n, H, W, C), uint8, in memory or in a file."""


def allocate(shape: tuple[int, ...], folder: str) -> MappedImages:
    """Return uninitialised images in a file that disappears with the process.

    Args:
        shape: (n, H, W, C).
        folder: Folder of the file, which has no name there.

    Raises:
        UserError: The folder cannot be written or the disk is too small.
    """
    size = math.prod(shape)
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            _reserve(file.fileno(), max(size, 1))
            array = torch.from_numpy(np.memmap(file, dtype=np.uint8, mode="r+", shape=shape))
            return MappedImages(array, torch.arange(shape[0]))
    except OSError as error:
        raise UserError(
            f"data.memory_map={folder} cannot hold {size / 2**30:.1f} GiB of images ({error.strerror}): give a folder "
            "that can be written to, on a larger disk"
        ) from error


def _reserve(file: int, size: int) -> None:
    """Reserve disk space where the system can (Linux); elsewhere set the length of the file."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, size)
    else:
        os.ftruncate(file, size)


def map_images(images: Images, folder: str) -> MappedImages:
    """Return the same images memory-mapped; images that are already mapped stay in their file.

    Args:
        images: Shape (n, H, W, C), uint8.
        folder: Folder of the file.

    Raises:
        UserError: The folder cannot be written or the disk is too small.
    """
    if isinstance(images, MappedImages):
        return images
    mapped = allocate(tuple(images.shape), folder)
    for start in range(0, len(images), CHUNK):
        mapped[start : start + CHUNK] = images[start : start + CHUNK]
    return mapped


def checksum(images: Images, before: int) -> int:
    """Return the CRC-32 of all bytes.

    Args:
        images: Shape (n, H, W, C), uint8, on the CPU.
        before: Checksum of the bytes that come before, which this one continues.
    """
    for start in range(0, len(images), CHUNK):
        before = zlib.crc32(images[start : start + CHUNK].contiguous().numpy().data, before)
    return before
