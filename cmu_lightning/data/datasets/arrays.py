"""Images in one file of arrays."""

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from cmu_lightning.data.datasets.chunked_arrays import header, pieces
from cmu_lightning.data.datasets.custom import CustomDataModule
from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.memmap import Images
from cmu_lightning.data.samples import Split
from cmu_lightning.data.validation import check_classes
from cmu_lightning.errors import UserError


class TensorDataModule(CustomDataModule):
    """An `.npz` or `.safetensors` file of `train_images` and `train_labels`, and of those of `val` and `test` if any.

    Images are uint8 of shape (n, H, W, C) or (n, H, W), labels are integers from 0 of shape (n,), in the order of the
    network's outputs.

    Args:
        manipulation: `Unknown`, or what a researcher does to the images.
        path: Path of the file.
        num_classes: The network's outputs; default the largest training label and one.
        mean: Mean of each channel, white being 1, as the network was trained with; default 0.5.
        std: Standard deviation of each channel, likewise; default 0.5.
        padding: Pixels by which training images are moved at most.
        flip: Whether training images are mirrored at random.
        more: `identified`, `seed`, `val_size`, `val_labels`, `discovery` and `memory_map`, as of every data module; by
            default a tenth of the training images validates, but no more than 1,000, unless there are `val_images`.
    """

    dataset = "arrays"

    def __init__(
        self,
        manipulation: Manipulation,
        path: str,
        num_classes: int | None = None,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        padding: int = 0,
        flip: bool = False,
        **more: Any,
    ) -> None:
        self.path = Path(path)
        labels = self._labels("train")
        if labels is None or not len(labels):
            raise UserError(f"{path} has no train_labels: give them and train_images")
        if num_classes is not None and num_classes < 1:
            raise UserError(f"data.num_classes={num_classes} is not possible: give the number of the network's outputs")
        classes = int(labels.max()) + 1 if num_classes is None else num_classes
        super().__init__(manipulation, classes, len(labels), mean, std, padding, flip, root=path, **more)

    def content(self) -> dict[str, str]:
        """A digest of the file stands for it."""
        state = self.path.stat()
        return super().content() | {"path": _digest(self.path, state.st_size, state.st_mtime_ns)}

    def load(self) -> tuple[Split, Split | None, Split | None]:
        """Read and check all arrays."""
        train = self._split("train")
        if train is None:
            raise UserError(f"{self.path} has no train_images: give them and train_labels")
        validation, test = self._split("val"), self._split("test")
        for name, split in (("val", validation), ("test", test)):
            if split is not None and split.images.shape[1:] != train.images.shape[1:]:
                here, there = tuple(split.images.shape), tuple(train.images.shape)
                raise UserError(f"{self.path} has {name}_images of shape {here} and train_images of shape {there}")
        return train, validation, test

    def _split(self, name: str) -> Split | None:
        images, labels = self._images(f"{name}_images"), self._labels(name)
        if images is None and labels is None:
            return None
        if images is None or labels is None:
            lacking, there = ("images", "labels") if images is None else ("labels", "images")
            raise UserError(f"{self.path} has {name}_{there} and no {name}_{lacking}: give both")
        if isinstance(images, Tensor) and (images.dtype != torch.uint8 or images.ndim not in (3, 4)):
            raise UserError(
                f"{self.path} has {name}_images of type {_kind(images)} and shape {tuple(images.shape)}: give uint8, "
                "black 0 and white 255, of shape (n, H, W, C) or (n, H, W)"
            )
        if len(images) != len(labels):
            raise UserError(f"{self.path} has {len(images)} {name}_images and {len(labels)} {name}_labels")
        location, hint = f"{name}_labels of {self.path}", "mend the label or set data.num_classes"
        check_classes(labels, self.num_classes, location, hint)
        return Split(images.unsqueeze(3) if isinstance(images, Tensor) and images.ndim == 3 else images, labels)

    def _images(self, name: str) -> Images | None:
        """Images in the file; into a `memory_map` they go in pieces, if they are what they should be."""
        if self.memory_map is None:
            return self._array(name)
        try:
            found = header(self.path, name)
            if found is None:
                return None
            if found.kind != "uint8" or len(found.shape) not in (3, 4) or not found.in_order:
                return self._array(name)
            count, height, width, *channels = found.shape
            room, start = self.room(count, height, width, *(channels or [1])), 0
            for part in pieces(self.path, name):
                room[start : start + len(part)] = part.view(len(part), *room.shape[1:])
                start += len(part)
        except UserError:
            raise
        except Exception as error:  # zip, pickle and format errors
            raise self._unreadable(error) from error
        return room

    def _labels(self, name: str) -> Tensor | None:
        labels = self._array(f"{name}_labels")
        if labels is None:
            return None
        if labels.ndim != 1 or labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise UserError(
                f"{self.path} has {name}_labels of type {_kind(labels)} and shape {tuple(labels.shape)}: "
                "give integers of shape (n,)"
            )
        return labels.long()

    def _array(self, name: str) -> Tensor | None:
        """One array of the file; None if it is not there."""
        try:
            if self.path.suffix == ".safetensors":
                return self._of_safetensors(name)
            with np.load(self.path, allow_pickle=False) as file:
                return torch.from_numpy(file[name]) if name in file else None
        except FileNotFoundError as error:
            raise UserError(f"there is no file {self.path}: give data.path") from error
        except UserError:
            raise
        except Exception as error:  # zip, pickle and format errors, and arrays that torch has no type for
            raise self._unreadable(error) from error

    def _unreadable(self, error: Exception) -> UserError:
        return UserError(f"{self.path} cannot be read ({error}): give a whole .npz or .safetensors file")

    def _of_safetensors(self, name: str) -> Tensor | None:
        with safe_open(self.path, framework="pt") as file:
            tensor: Tensor | None = file.get_tensor(name) if name in file.keys() else None  # noqa: SIM118
        return tensor


def _kind(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    """Of all bytes, once in a process as long as the file does not change."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
