"""Data sets, manipulations of their training samples, and discoveries of the deletion set."""

from cmu_lightning.data.datamodule import CorruptedDataModule
from cmu_lightning.data.datasets.arrays import TensorDataModule
from cmu_lightning.data.datasets.cifar import CIFAR10DataModule, CIFAR100DataModule
from cmu_lightning.data.datasets.digits import DigitsDataModule
from cmu_lightning.data.datasets.folder import FolderDataModule
from cmu_lightning.data.datasets.pcam import PCAMDataModule
from cmu_lightning.data.discoveries import (
    ActivationClustering,
    ByDifficulty,
    ClassBiased,
    Detector,
    Discovery,
    Flagged,
    Inspection,
    LossRanking,
    OrderedDiscovery,
    PULearning,
    Similarity,
    SpectralSignatures,
    Uniform,
)
from cmu_lightning.data.manipulations import (
    SIG,
    AdapBlend,
    AdapPatch,
    AllToAll,
    AsymmetricNoise,
    Blended,
    GaussianPoison,
    InterclassConfusion,
    LabelsFromFile,
    Manipulation,
    OneWayConfusion,
    Poison,
    RandomSwap,
    SymmetricNoise,
    TaCT,
    Unknown,
    WaNet,
)
from cmu_lightning.data.samples import Batch, Samples, Split
from cmu_lightning.data.transforms import Pixels

Ordered = OrderedDiscovery  # the name before 0.2

__all__ = [
    "SIG",
    "ActivationClustering",
    "AdapBlend",
    "AdapPatch",
    "AllToAll",
    "AsymmetricNoise",
    "Batch",
    "Blended",
    "ByDifficulty",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "ClassBiased",
    "CorruptedDataModule",
    "Detector",
    "DigitsDataModule",
    "Discovery",
    "Flagged",
    "FolderDataModule",
    "GaussianPoison",
    "Inspection",
    "InterclassConfusion",
    "LabelsFromFile",
    "LossRanking",
    "Manipulation",
    "OneWayConfusion",
    "Ordered",
    "OrderedDiscovery",
    "PCAMDataModule",
    "PULearning",
    "Pixels",
    "Poison",
    "RandomSwap",
    "Samples",
    "Similarity",
    "SpectralSignatures",
    "Split",
    "SymmetricNoise",
    "TaCT",
    "TensorDataModule",
    "Uniform",
    "Unknown",
    "WaNet",
]
