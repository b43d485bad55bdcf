"""What an adversary, or a careless annotator, did to the training data; one file for each kind."""

from cmu_lightning.data.manipulations.adaptive import AdapBlend, AdapPatch
from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.data.manipulations.blended import Blended
from cmu_lightning.data.manipulations.confusion import InterclassConfusion, OneWayConfusion
from cmu_lightning.data.manipulations.gaussian import GaussianPoison
from cmu_lightning.data.manipulations.noise import AsymmetricNoise, RandomSwap, SymmetricNoise
from cmu_lightning.data.manipulations.poison import AllToAll, Poison, TaCT
from cmu_lightning.data.manipulations.sig import SIG
from cmu_lightning.data.manipulations.unknown import Unknown
from cmu_lightning.data.manipulations.wanet import WaNet

__all__ = [
    "SIG",
    "AdapBlend",
    "AdapPatch",
    "AllToAll",
    "AsymmetricNoise",
    "Blended",
    "GaussianPoison",
    "InterclassConfusion",
    "Manipulation",
    "OneWayConfusion",
    "Poison",
    "RandomSwap",
    "SymmetricNoise",
    "TaCT",
    "Unknown",
    "WaNet",
]
