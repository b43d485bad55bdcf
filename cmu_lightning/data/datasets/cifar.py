"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

from typing import Any, ClassVar

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.datasets.download import load_or_download
from cmu_lightning.data.samples import Split


class CIFAR10DataModule(CorruptedDataModule):
    """CIFAR-10: images of 32x32 pixels, 49,000 for training, 1,000 for validation and 10,000 for the test.

    The validation images are held out of the 50,000 of the official training split.

    Example:
        >>> from cmu_lightning.data import CIFAR10DataModule, Poison
        >>> CIFAR10DataModule(Poison(size=500)).num_classes
        10
    """

    dataset = "cifar10"
    num_classes = 10
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    source: ClassVar[type[CIFAR10]] = CIFAR10

    def prepare_data(self) -> None:
        """Download the files that are missing."""
        if not self.is_read():
            load_or_download(self.source, self.root, train=True)

    def load(self) -> tuple[Split, Split | None, Split]:
        """Read both splits; torchvision checks the MD5 of their files."""
        return self._split(train=True), None, self._split(train=False)

    def _split(self, train: bool) -> Split:
        """Return the training or the test split."""
        stored: Any = load_or_download(self.source, self.root, train=train)
        return Split(torch.from_numpy(stored.data), torch.tensor(stored.targets))


class CIFAR100DataModule(CIFAR10DataModule):
    """CIFAR-100: as CIFAR-10, with 100 classes.

    Example:
        >>> from cmu_lightning.data import CIFAR100DataModule, InterclassConfusion
        >>> CIFAR100DataModule(InterclassConfusion(pair=(47, 52), size=250)).num_classes
        100
    """

    dataset = "cifar100"
    num_classes = 100
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    source = CIFAR100
