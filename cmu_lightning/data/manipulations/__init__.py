"""Manipulations of the training data by an adversary or a careless annotator."""

from cmu_lightning.data.manipulations.adaptive import AdapBlend, AdapPatch
from cmu_lightning.data.manipulations.base import Manipulation, Unknown
from cmu_lightning.data.manipulations.gaussian import GaussianPoison
from cmu_lightning.data.manipulations.label_file import LabelsFromFile
from cmu_lightning.data.manipulations.labels import (
    AsymmetricNoise,
    InterclassConfusion,
    OneWayConfusion,
    RandomSwap,
    SymmetricNoise,
)
from cmu_lightning.data.manipulations.triggers import SIG, AllToAll, Blended, Poison, TaCT, WaNet

__all__ = [
    "SIG",
    "AdapBlend",
    "AdapPatch",
    "AllToAll",
    "AsymmetricNoise",
    "Blended",
    "GaussianPoison",
    "InterclassConfusion",
    "LabelsFromFile",
    "Manipulation",
    "OneWayConfusion",
    "Poison",
    "RandomSwap",
    "SymmetricNoise",
    "TaCT",
    "Unknown",
    "WaNet",
]
