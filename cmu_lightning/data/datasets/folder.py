"""Images in folders, one folder per class, as in torchvision's ImageFolder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.datasets.folder import IMG_EXTENSIONS

from cmu_lightning.console import say_once
from cmu_lightning.data.datasets.custom import CustomDataModule, files_digest, show_progress
from cmu_lightning.data.datasets.image_files import LeftOut, describe, find_class_folders, find_images
from cmu_lightning.data.manipulations import Manipulation, Unknown
from cmu_lightning.data.samples import Split, decode
from cmu_lightning.errors import UserError

LabelledPaths = list[tuple[str, int]]
"""Paths of images, and their classes."""


class FolderDataModule(CustomDataModule):
    """Images `root/train/<class>/<image>`; classes are numbered alphabetically unless `classes` gives their order.

    `root/val/<class>/` is optional: images with correct labels that the network was not trained on, which are used for
    validation. Without it, a tenth of the training images is held out, but no more than 1,000. `root/test/<class>/` is
    optional too, and read only with a known manipulation. Broken links, hidden files and folders, and formats that
    torchvision does not read are skipped, which one line reports.

    Args:
        manipulation: `Unknown`, or what a researcher does to the images.
        root: Folder that contains `train`.
        image_size: Side of the square that is cut out of the centre of each image, in pixels; default the whole image,
            which requires images of equal size.
        resize: Length to which the shorter side is resized before, in pixels; default `image_size`.
        classes: Names of the class folders in the order of the network's outputs; default alphabetical, as in
            torchvision.
        grey: Whether images are converted to one channel.
        kwargs: Arguments of `CustomDataModule`, apart from `num_classes` and `count`: `mean`, `std`, `padding`, `flip`
            and those of every data module.
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
        **kwargs: Any,
    ) -> None:
        if image_size is not None and image_size < 1:
            raise UserError(f"data.image_size={image_size} is no size: give a number of pixels")
        if resize is not None and (image_size is None or resize < image_size):
            raise UserError(f"data.resize={resize} needs a data.image_size that is not larger, to cut out of that")
        self.image_size, self.resize, self.grey = image_size, resize or image_size, grey
        self.folder = Path(root)
        self.left_out: LeftOut = {}
        self.classes, train = self._find_training_files(None if classes is None else [str(name) for name in classes])
        self.numbers = {name: number for number, name in enumerate(self.classes)}
        # With an unknown manipulation nothing can be measured on test images.
        test = [] if isinstance(manipulation, Unknown) else self._find_files("test")
        self.files = {"train": train, "val": self._find_files("val"), "test": test}
        self.names, self.validation_names = (
            [Path(path).relative_to(self.folder / split).as_posix() for path, _ in self.files[split]]
            for split in ("train", "val")
        )
        super().__init__(manipulation, num_classes=len(self.classes), count=len(train), root=root, **kwargs)

    def _find_training_files(self, order: list[str] | None) -> tuple[list[str], LabelledPaths]:
        """Return the classes and the training images.

        Args:
            order: Names of the classes in the order of the network's outputs; None for alphabetical.

        Raises:
            UserError: There are no classes, other ones than in `order`, or classes without images.
        """
        folder = self.folder / "train"
        if not folder.is_dir():
            raise UserError(f"there is no folder {folder}: give data.root, which holds train/<class>/<image>")
        classes = find_class_folders(folder, self.left_out)
        if not classes:
            raise UserError(f"{folder} has no folders: put the images of each class into a separate folder")
        if order is not None:
            if sorted(order) != classes:
                raise UserError(f"data.classes={order} are not the folders {classes} of {folder}: name each once")
            classes = order
        files = self._labelled(folder, {name: number for number, name in enumerate(classes)})
        empty = sorted(set(classes) - {classes[number] for _, number in files})
        if empty:
            left_out: LeftOut = {}
            find_images(folder / empty[0], IMG_EXTENSIONS, left_out)
            other = f" (left out: {describe(left_out)})" if left_out else ""
            raise UserError(f"the class folder {folder / empty[0]} has no image{other}: put some there or remove it")
        return classes, files

    def _find_files(self, split: str) -> LabelledPaths:
        """Return the images of an optional split, which may lack some of the training classes.

        Args:
            split: `val` or `test`.

        Raises:
            UserError: The split has a class that training lacks, or no image.
        """
        folder = self.folder / split
        if not folder.is_dir():
            return []
        present = find_class_folders(folder, self.left_out)
        unknown = [name for name in present if name not in self.numbers]
        if unknown:
            raise UserError(f"{folder / unknown[0]} is of a class that {self.folder / 'train'} lacks: remove it")
        files = self._labelled(folder, {name: self.numbers[name] for name in present})
        if not files:
            raise UserError(f"{folder} has no images in class folders: put some there or remove it")
        return files

    def _labelled(self, folder: Path, numbers: dict[str, int]) -> LabelledPaths:
        """Return the images of a split with their classes, in the order of torchvision's ImageFolder.

        Args:
            folder: Folder of the split.
            numbers: Class of each folder in it.
        """
        return [
            (path, numbers[name])
            for name in sorted(numbers)
            for path in find_images(folder / name, IMG_EXTENSIONS, self.left_out)
        ]

    def content(self) -> dict[str, str]:
        """Return a digest of all images, which replaces their folder in the identity."""
        files = ((Path(path), self.folder) for split in self.files.values() for path, _ in split)
        return super().content() | {"root": files_digest(files)}

    def load(self) -> tuple[Split, Split | None, Split | None]:
        """Decode the images of all splits, and report skipped files."""
        if self.left_out:
            say_once(f"of the files in {self.folder} are left out: {describe(self.left_out)}")
        validation, test = (self._split(name) if self.files[name] else None for name in ("val", "test"))
        return self._split("train"), validation, test

    def _split(self, name: str) -> Split:
        """Decode the images of a split, several at once."""
        files, first_path = self.files[name], self.files["train"][0][0]
        first = self.decoded(first_path)
        images = self.room(len(files), *first.shape)

        def fill(row: int) -> None:
            image = self.decoded(files[row][0])
            if image.shape != first.shape:
                raise UserError(
                    f"{files[row][0]} has {_size(image)} pixels and {first_path} has {_size(first)}: "
                    "set data.image_size, to which all are resized"
                )
            images[row] = torch.from_numpy(image)

        with ThreadPoolExecutor() as pool:
            # map raises the first error of `fill` here.
            for _ in show_progress(pool.map(fill, range(len(files))), len(files), f"reading {self.folder / name}"):
                pass
        return Split(images, torch.tensor([number for _, number in files]))

    def decoded(self, path: str | Path) -> np.ndarray:
        """Return the pixels of an image file, resized and cut out as all are, shape (H, W, C), uint8."""
        return decode(path, self.grey, self.image_size, self.resize)


def _size(image: np.ndarray) -> str:
    """Return width x height, as messages give it."""
    return f"{image.shape[1]}x{image.shape[0]}"
