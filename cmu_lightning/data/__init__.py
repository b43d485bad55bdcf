"""Data sets and what an adversary does to them."""

from cmu_lightning.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.digits import DigitsDataModule
from cmu_lightning.data.loading import Batch, Split
from cmu_lightning.data.manipulation import InterclassConfusion, Manipulation, Poison
from cmu_lightning.data.pcam import PCAMDataModule

__all__ = [
    "Batch",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "CorruptedDataModule",
    "DigitsDataModule",
    "InterclassConfusion",
    "Manipulation",
    "PCAMDataModule",
    "Poison",
    "Split",
]
