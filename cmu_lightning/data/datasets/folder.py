"""Images in folders, one folder for each class: torchvision's ImageFolder."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS, find_classes, make_dataset

from cmu_lightning.console import bar
from cmu_lightning.data.datasets.custom import CustomDataModule
from cmu_lightning.data.manipulations import Manipulation, Unknown
from cmu_lightning.data.samples import Split, decode
from cmu_lightning.errors import UserError

MANY = 1000
"""Files from which on reading them shows how far it is."""

Found = list[tuple[str, int]]
"""Paths and classes."""


class FolderDataModule(CustomDataModule):
    """`root/train/<class>/*.png` and so on; classes are numbered in alphabetical order unless `classes` says otherwise.

    `root/val/<class>/` is optional: images to validate on, which the network was not trained on and whose labels are
    right. So is `root/test/<class>/`, which is of use with a known manipulation alone.

    Args:
        manipulation: `Unknown`, or what a researcher does to the images.
        root: Folder that holds `train`.
        image_size: Side of the square that is cut out of each image's centre; default as they are, which needs all of
            one size.
        resize: Shorter side to which images are resized before; default `image_size`.
        classes: Names of the folders in the order of the network's outputs; default alphabetical, as torchvision's.
        grey: One channel in place of three.
        mean: Mean of each channel, white being 1, as the network was trained with; default 0.5.
        std: Standard deviation of each channel, likewise; default 0.5.
        padding: Pixels by which training images are moved at most.
        flip: Whether training images are mirrored at random.
        more: `identified`, `seed`, `val_size`, `val_labels`, `discovery` and `memory_map`, as of every data module; by
            default a tenth of the training images validates, but no more than 1,000, unless there is `val`.
    """

    dataset = "folder"

    def __init__(
        self,
        manipulation: Manipulation,
        root: str,
        image_size: int | None = None,
        resize: int | None = None,
        classes: list[str | int] | None = None,
        grey: bool = False,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        padding: int = 0,
        flip: bool = False,
        **more: Any,
    ) -> None:
        if image_size is not None and image_size < 1:
            raise UserError(f"data.image_size={image_size} is no size: give a number of pixels")
        if resize is not None and (image_size is None or resize < image_size):
            raise UserError(f"data.resize={resize} needs a data.image_size that is not larger, to cut out of that")
        self.image_size, self.resize, self.grey = image_size, resize or image_size, grey
        self.folder = Path(root)
        self.classes, train = self._train(None if classes is None else [str(name) for name in classes])
        self.numbers = {name: number for number, name in enumerate(self.classes)}
        test = [] if isinstance(manipulation, Unknown) else self._files("test")  # nobody could say what is right there
        self.files = {"train": train, "val": self._files("val"), "test": test}
        self.names, self.validation_names = (
            [Path(path).relative_to(self.folder / split).as_posix() for path, _ in self.files[split]]
            for split in ("train", "val")
        )
        super().__init__(manipulation, len(self.classes), len(train), mean, std, padding, flip, root=root, **more)

    def _train(self, order: list[str] | None) -> tuple[list[str], Found]:
        folder = self.folder / "train"
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: give data.root, which holds train/<class>/<image>")
        try:
            classes, numbers = find_classes(folder)
        except FileNotFoundError as error:
            raise UserError(f"{folder} has no folders: put the images of each class into one of its own") from error
        if order is not None:
            if sorted(order) != classes:
                raise UserError(f"data.classes={order} are not the folders {classes} of {folder}: name each once")
            classes, numbers = order, {name: number for number, name in enumerate(order)}
        found: Found = make_dataset(folder, numbers, IMG_EXTENSIONS, allow_empty=True)
        empty = sorted(set(classes) - {classes[number] for _, number in found})
        if empty:
            raise UserError(f"the class folder {folder / empty[0]} has no image: put some there or take it away")
        return classes, found

    def _files(self, split: str) -> Found:
        """Of an optional split, whose classes are the training folder's or fewer."""
        folder = self.folder / split
        if not folder.is_dir():
            return []
        own = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
        strange = [name for name in own if name not in self.numbers]
        if strange:
            raise UserError(f"{folder / strange[0]} is of a class that {self.folder / 'train'} lacks: take it away")
        numbers = {name: self.numbers[name] for name in own}
        found: Found = make_dataset(folder, numbers, IMG_EXTENSIONS, allow_empty=True) if numbers else []
        if not found:
            raise UserError(f"{folder} has no images in class folders: put some there or take it away")
        return found

    def content(self) -> dict[str, str]:
        """A digest of all files stands for their folder."""
        files = [(path, self.folder) for found in self.files.values() for path, _ in found]
        return super().content() | {"root": _digest(tuple(_stated(Path(path), folder) for path, folder in files))}

    def load(self) -> tuple[Split, Split | None, Split | None]:
        """Decode all images, several at once."""
        validation, test = (self._split(name) if self.files[name] else None for name in ("val", "test"))
        return self._split("train"), validation, test

    def _split(self, name: str) -> Split:
        found = self.files[name]
        first = self.decoded(self.files["train"][0][0])
        images = self.room(len(found), *first.shape)

        def fill(row: int) -> None:
            image = self.decoded(found[row][0])
            if image.shape != first.shape:
                raise UserError(
                    f"{found[row][0]} has {_size(image)} pixels and {self.files['train'][0][0]} has {_size(first)}: "
                    "set data.image_size, to which all are resized"
                )
            images[row] = torch.from_numpy(image)

        with ThreadPoolExecutor() as pool:
            for _ in _shown(range(len(found)), pool.map(fill, range(len(found))), f"reading {self.folder / name}"):
                pass
        return Split(images, torch.tensor([number for _, number in found]))

    def decoded(self, path: str | Path) -> np.ndarray:
        """One image, shape (H, W, C), uint8, resized if the others are."""
        return decode(path, self.grey, self.image_size, self.resize)


def _size(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _shown(rows: Sequence[Any], done: Iterable[Any], description: str) -> Iterable[Any]:
    """With a bar, if it takes long."""
    if len(rows) < MANY:
        return done
    return bar(done, description, len(rows))


def _stated(path: Path, folder: Path) -> tuple[str, str, int, int]:
    state = path.stat()
    return str(path), path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns


@cache
def _digest(files: tuple[tuple[str, str, int, int], ...]) -> str:
    """Of names and bytes, once in a process as long as no file changes."""
    digest = hashlib.sha256()
    for path, name, size, _ in _shown(files, files, "looking whether the images are other ones"):
        digest.update(f"{name}\n{size}\n".encode())
        digest.update(Path(path).read_bytes())
    return digest.hexdigest()
