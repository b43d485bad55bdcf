"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009)."""

from typing import Any, ClassVar

import torch
from torchvision.datasets import CIFAR10, CIFAR100

from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.datasets.download import found_or_downloaded
from cmu_lightning.data.samples import Split


class CIFAR10DataModule(CorruptedDataModule):
    """50,000 training images of 32x32 pixels, 1,000 of them held out for validation, and 10,000 to test."""

    dataset = "cifar10"
    num_classes = 10
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    source: ClassVar[type[CIFAR10]] = CIFAR10

    def prepare_data(self) -> None:
        """Download what is not there."""
        if not self.is_read():
            found_or_downloaded(self.source, self.root, train=True)

    def load(self) -> tuple[Split, Split | None, Split]:
        """Torchvision checks the files' md5 and reads them."""
        return self._split(train=True), None, self._split(train=False)

    def _split(self, train: bool) -> Split:
        stored: Any = found_or_downloaded(self.source, self.root, train=train)
        return Split(torch.from_numpy(stored.data), torch.tensor(stored.targets))


class CIFAR100DataModule(CIFAR10DataModule):
    """As CIFAR-10, of 100 classes."""

    dataset = "cifar100"
    num_classes = 100
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    source = CIFAR100
