"""The base class of a user's own images, wherever they are stored, and the digest of their files."""

import hashlib
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from cmu_lightning.console import bar
from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.manipulations import Manipulation
from cmu_lightning.data.samples import Read
from cmu_lightning.errors import UserError

T = TypeVar("T")
BAR_FROM = 1000
"""Number of files from which reading them shows a progress bar."""


class CustomDataModule(CorruptedDataModule):
    """Images whose classes and normalisation are found or given, not fixed by the data set.

    By default a tenth of the training images is held out for validation, but no more than 1,000.

    Args:
        manipulation: `Unknown`, or what a researcher does to the images.
        num_classes: Number of classes.
        count: Number of stored training samples.
        mean: Mean of each channel, white being 1, that the network was trained with; default 0.5.
        std: Standard deviation of each channel, likewise; default 0.5.
        padding: Pixels by which training images are shifted at most; default 0, no shift.
        flip: Whether training images are mirrored at random.
        kwargs: Arguments of every data module: `identified`, `seed`, `root`, `val_size`, `val_labels`, `discovery` and
            `memory_map`.
    """

    def __init__(
        self,
        manipulation: Manipulation,
        num_classes: int,
        count: int,
        mean: list[float] | None = None,
        std: list[float] | None = None,
        padding: int = 0,
        flip: bool = False,
        **kwargs: Any,
    ) -> None:
        self.num_classes = num_classes
        self.mean, self.std = tuple(mean or ()), tuple(std or ())
        if padding < 0:
            raise UserError(f"data.padding={padding} is negative: 0 leaves training images where they are")
        if any(value <= 0 for value in self.std):
            raise UserError(f"data.std={list(self.std)} is not positive, and pixels are divided by it: correct it")
        if any(not 0 <= value <= 1 for value in self.mean):
            raise UserError(f"data.mean={list(self.mean)} is not from 0 to 1, and white is 1: divide it and std by 255")
        self.padding, self.flip = padding, flip
        self.default_val_size = min(1000, count // 10)
        super().__init__(manipulation, **kwargs)

    def _loaded(self) -> Read:
        """Return the splits, after the mean and the standard deviation of every channel are settled."""
        read = super()._loaded()
        channels = read.train.images.shape[-1]
        self.mean, self.std = (given or (0.5,) * channels for given in (self.mean, self.std))
        return read


def files_digest(files: Iterable[tuple[Path, Path]]) -> str:
    """Return a digest of the names and the bytes of files.

    It is computed once per process as long as no size and no time of modification changes.

    Args:
        files: Each file, and the folder that its name is relative to.
    """
    states = []
    for path, folder in files:
        state = path.stat()
        states.append((path, path.relative_to(folder).as_posix(), state.st_size, state.st_mtime_ns))
    return _digest_of_states(tuple(states))


@cache
def _digest_of_states(states: tuple[tuple[Path, str, int, int], ...]) -> str:
    """Read all files and return the SHA-256 of their names, sizes and bytes."""
    digest = hashlib.sha256()
    for path, name, size, _ in show_progress(states, len(states), "checking whether the images have changed"):
        digest.update(os.fsencode(f"{name}\n{size}\n"))  # a name may be in another encoding
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror}): make it readable, or remove it") from error
    return digest.hexdigest()


def show_progress(items: Iterable[T], total: int, description: str) -> Iterable[T]:
    """Return the items, with a progress bar if there are many.

    Args:
        items: What is iterated over.
        total: Number of items.
        description: Text next to the bar.
    """
    return items if total < BAR_FROM else bar(items, description, total)
