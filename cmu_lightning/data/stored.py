"""A data set as it is stored, in memory or in a file."""

import math
import os
import pickle
import zlib
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningDataModule

from cmu_lightning.data import mapped
from cmu_lightning.data.checks import check_splits
from cmu_lightning.data.decoding import decode
from cmu_lightning.data.mapped import Images
from cmu_lightning.data.samples import Split

Splits = tuple[Split, Split | None, Split | None]
"""Training, validation and test; None for one that there is not."""


class Read(NamedTuple):
    """The splits, images contiguous, and a checksum that tells other data apart."""

    train: Split
    validation: Split | None
    test: Split
    fingerprint: int


class StoredDataModule(LightningDataModule):
    """The splits of a data set.

    Args:
        root: Folder of the data; default the environment's CMU_DATA_DIR, else `./data`.
        memory_map: Folder for a file in which images stay; default in memory.
    """

    dataset: str
    num_classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    padding: int = 4
    flip: bool = True
    default_val_size: int = 1000
    names: list[str] | None = None
    """Of the files of the stored training samples, relative to the training folder; None if they have indices alone."""
    validation_names: list[str] | None = None
    """Of the files of a validation split of its own, likewise."""
    classes: list[str] | None = None
    """Names of the classes, if they have any."""
    fingerprint: int
    """Tells other data apart; not there before the data are read."""
    kept: ClassVar[dict[Any, Read] | None] = None
    """The data set that was read last, in a process that runs one stage after the other; None keeps nothing."""

    irrelevant_to_reading: ClassVar[frozenset[str]] = frozenset({"manipulation"})
    """Attributes that `load` does not look at."""

    def __init__(self, root: str | None, memory_map: str | None) -> None:
        super().__init__()
        self.root = Path(root or os.environ.get("CMU_DATA_DIR") or "data")
        self.memory_map = memory_map

    def load(self) -> Splits:
        """Read the training, the validation and the test split.

        Without a validation split, validation is held out of training; without a test split, nothing is tested.

        Raises:
            UserError: The data are not there.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no load()")

    def decoded(self, path: str | Path) -> np.ndarray:
        """An image file as this data set's images are, shape (H, W, C), uint8, never resized.

        Raises:
            UserError: It is no image.
        """
        return decode(path, grey=len(self.mean) == 1)

    def room(self, *shape: int) -> Images:
        """Room for the images that `load` reads, uint8: in memory, or in a file if there is a `memory_map`.

        Args:
            shape: n, H, W, C.
        """
        if self.memory_map is None:
            return torch.empty(shape, dtype=torch.uint8)
        return mapped.room(shape, self.memory_map)

    def _read(self) -> Read:
        """Images that `load` did not put into `room` follow here."""
        loaded = self.load()
        check_splits(self, loaded)
        train, validation, test = (split and self._placed(split) for split in loaded)
        assert train is not None
        test = train.take(torch.zeros(0, dtype=torch.long)) if test is None else test
        there = (train, test) if validation is None else (train, validation, test)
        return Read(train, validation, test, checksum(*there))

    def _placed(self, split: Split) -> Split:
        if self.memory_map is None:
            return Split(split.images.contiguous(), split.labels)
        return Split(mapped.mapped(split.images, self.memory_map), split.labels)

    def _loaded(self) -> Read:
        """From disk, or from the last time, if everything that `load` may look at is the same."""
        kept, of = self.kept, None if self.kept is None else self._depends()
        if kept is None or of is None:
            return self._read()
        if of not in kept:
            kept.clear()
            kept[of] = self._read()
        return kept[of]

    def _depends(self) -> Any:
        """Everything that `load` may look at; None if nobody can tell, so that it is read anew."""
        own = vars(self).keys() - vars(LightningDataModule()).keys() - self.irrelevant_to_reading
        try:
            return type(self), pickle.dumps([(name, vars(self)[name]) for name in sorted(own)]), self._file_digests()
        except (pickle.PicklingError, AttributeError, TypeError):
            return None

    def _file_digests(self) -> tuple[tuple[str, str], ...]:
        """What is known of the files that `load` reads, by the data module that knows; none of most data sets."""
        return ()

    def is_read(self) -> bool:
        """Whether this process has read the data set before, so that nobody need look for it."""
        return hasattr(self, "fingerprint") or (self.kept is not None and self._depends() in self.kept)

    def _place(self, *splits: Split) -> torch.device:
        """Where the images live: on the accelerator if they fit there, with as much left for the network."""
        device: torch.device = self.trainer.strategy.root_device if self.trainer else torch.device("cpu")
        if self.memory_map is not None:
            return torch.device("cpu")
        if device.type == "cuda":
            need = sum(math.prod(split.images.shape) for split in splits)
            return device if 2 * need < torch.cuda.mem_get_info(device)[0] else torch.device("cpu")
        return device


def checksum(*splits: Split) -> int:
    """Tells other data apart."""
    checksum = 0
    for split in splits:
        checksum = mapped.checksum(split.images, checksum)
        checksum = zlib.crc32(split.labels.contiguous().numpy().data, checksum)
    return checksum
