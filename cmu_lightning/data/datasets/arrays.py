"""Images and labels in arrays: one `.npz` or `.safetensors` file, or a folder of `.npy` files."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cmu_lightning.data.datasets.custom import CustomDataModule, files_digest
from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Split
from cmu_lightning.data.validation import check_classes
from cmu_lightning.errors import UserError

SLICE_BYTES = 2**24
"""Bytes of images that are in memory at once while they are copied into a `memory_map`."""


class TensorDataModule(CustomDataModule):
    """Arrays `train_images` and `train_labels`, and optionally those of `val` and `test`.

    They are in one `.npz` or `.safetensors` file, or in a folder as `train_images.npy`, `train_labels.npy` and so on.
    Images are uint8 of shape (n, H, W, C) or (n, H, W), black 0 and white 255; labels are integers from 0 of shape
    (n,), in the order of the network's outputs. Without `val_images`, a tenth of the training images is held out for
    validation, but no more than 1,000.

    With `memory_map`, images of a `.safetensors` file and of `.npy` files are read slice by slice, so they need
    not fit into memory. Arrays of an `.npz` file are always read whole, one at a time.

    Args:
        manipulation: `Unknown`, or what a researcher does to the images.
        path: Path of the file, or of the folder.
        num_classes: Number of the network's outputs; default the largest training label plus one.
        kwargs: Arguments of `CustomDataModule`, apart from `count` and `root`: `mean`, `std`, `padding`, `flip` and
            those of every data module.

    Example:
        >>> import os, tempfile
        >>> import numpy as np
        >>> from cmu_lightning.data import Poison, TensorDataModule
        >>> images, labels = np.zeros((20, 8, 8), dtype=np.uint8), np.arange(20) % 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = os.path.join(folder, "mine.npz")
        ...     np.savez(path, train_images=images, train_labels=labels)
        ...     data = TensorDataModule(Poison(size=4), path)
        ...     data.setup()
        >>> data.num_classes, len(data.samples.images), len(data.validation.images)
        (3, 18, 2)
    """

    dataset = "arrays"

    def __init__(self, manipulation: Manipulation, path: str, num_classes: int | None = None, **kwargs: Any) -> None:
        self.path = Path(path)
        labels = self._labels("train")
        if labels is None or not len(labels):
            raise UserError(f"{path} has no train_labels: give them and train_images")
        if num_classes is not None and num_classes < 1:
            raise UserError(f"data.num_classes={num_classes} is not possible: give the number of the network's outputs")
        num_classes = int(labels.max()) + 1 if num_classes is None else num_classes
        super().__init__(manipulation, num_classes=num_classes, count=len(labels), root=path, **kwargs)

    def content(self) -> dict[str, str]:
        """Return a digest of the file, or of all `.npy` files of the folder; it replaces the path in the identity."""
        if self.path.is_dir():
            digest = files_digest((file, self.path) for file in sorted(self.path.glob("*.npy")))
        else:
            state = self.path.stat()
            digest = _file_digest(self.path, state.st_size, state.st_mtime_ns)
        return super().content() | {"path": digest}

    def load(self) -> tuple[Split, Split | None, Split | None]:
        """Read and check the arrays of all splits."""
        train = self._split("train")
        if train is None:
            raise UserError(f"{self.path} has no train_images: give them and train_labels")
        validation, test = self._split("val"), self._split("test")
        for name, split in (("val", validation), ("test", test)):
            if split is not None and split.images.shape[1:] != train.images.shape[1:]:
                shape, train_shape = tuple(split.images.shape), tuple(train.images.shape)
                raise UserError(
                    f"{self.path} has {name}_images of shape {shape} and train_images of shape {train_shape}: "
                    "give all images one height, width and number of channels"
                )
        return train, validation, test

    def _split(self, name: str) -> Split | None:
        """Return the images and labels of a split; None if the file has neither.

        Args:
            name: `train`, `val` or `test`.

        Raises:
            UserError: One of the two is missing or of another type, shape or length.
        """
        images, labels = self._images(f"{name}_images"), self._labels(name)
        if images is None and labels is None:
            return None
        if images is None or labels is None:
            missing, present = ("images", "labels") if images is None else ("labels", "images")
            raise UserError(f"{self.path} has {name}_{present} and no {name}_{missing}: give both")
        if isinstance(images, Tensor) and (images.dtype != torch.uint8 or images.ndim not in (3, 4)):
            raise UserError(
                f"{self.path} has {name}_images of type {_type(images)} and shape {tuple(images.shape)}: give uint8, "
                "black 0 and white 255, of shape (n, H, W, C) or (n, H, W)"
            )
        if len(images) != len(labels):
            raise UserError(
                f"{self.path} has {len(images)} {name}_images and {len(labels)} {name}_labels: give as many of both"
            )
        location, hint = f"{name}_labels of {self.path}", "correct the label or set data.num_classes"
        check_classes(labels, self.num_classes, location, hint)
        return Split(images.unsqueeze(3) if isinstance(images, Tensor) and images.ndim == 3 else images, labels)

    def _labels(self, name: str) -> Tensor | None:
        """Return the labels of a split as int64; None if the file has none.

        Args:
            name: `train`, `val` or `test`.

        Raises:
            UserError: They are no integers of shape (n,).
        """
        with self._read_errors():
            array = self._array(f"{name}_labels")
            if array is None:
                return None
            labels = _tensor(array[...])
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(
                f"{self.path} has {name}_labels of type {_type(labels)} and shape {tuple(labels.shape)}: "
                "give integers of shape (n,)"
            )
        return labels.long()

    def _images(self, name: str) -> Images | None:
        """Return an array of images, copied slice by slice if they go into a `memory_map`; None if it is missing."""
        with self._read_errors():
            array = self._array(name)
            if array is None:
                return None
            shape = tuple(array.shape if isinstance(array, np.ndarray) else array.get_shape())
            # Anything that is not an array of images is returned unchanged: `_split` describes what is wrong with it.
            if self.memory_map is None or len(shape) not in (3, 4) or _tensor(array[:0]).dtype != torch.uint8:
                return _tensor(array[...])
            count, height, width, channels = (*shape, 1)[:4]
            images = self.room(count, height, width, channels)
            rows = max(1, SLICE_BYTES // max(1, math.prod(shape[1:])))
            for start in range(0, count, rows):
                part = _tensor(array[start : start + rows])
                images[start : start + rows] = part.reshape(len(part), height, width, channels)
            return images

    def _array(self, name: str) -> Any:
        """Return an array that is read when it is indexed, numpy's or safetensors'; None if it is missing.

        An array of an `.npz` file is read here: numpy cannot map a member of a zip archive.
        """
        if self.path.is_dir():
            file = self.path / f"{name}.npy"
            return np.load(file, mmap_mode="r", allow_pickle=False) if file.exists() else None
        if self.path.suffix == ".safetensors":
            with safe_open(self.path, framework="pt") as file:
                return file.get_slice(name) if name in file.keys() else None  # noqa: SIM118
        # numpy leaves a damaged file open that it opened itself.
        with self.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return file.get(name)

    @contextmanager
    def _read_errors(self) -> Iterator[None]:
        """Replace an error of zip, pickle, numpy or safetensors by a `UserError` that names the file."""
        try:
            yield
        except UserError:
            raise
        except FileNotFoundError as error:
            raise UserError(f"there is no file {self.path}: give data.path") from error
        except Exception as error:
            raise UserError(
                f"{self.path} cannot be read ({error}): give a whole .npz or .safetensors file, or a folder of whole "
                ".npy files"
            ) from error


def _tensor(part: np.ndarray | Tensor) -> Tensor:
    """Return an array, or a slice of one, as a tensor in memory."""
    # "W" copies what is mapped from a file, which is not writable, and nothing else.
    return part if isinstance(part, Tensor) else torch.from_numpy(np.require(part, requirements="W"))


def _type(tensor: Tensor) -> str:
    """Return the name of a tensor's type, without the module."""
    return str(tensor.dtype).removeprefix("torch.")


@cache
def _file_digest(path: Path, size: int, modified: int) -> str:
    """Return the SHA-256 of a file, computed once per process as long as size and time of modification stay."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
