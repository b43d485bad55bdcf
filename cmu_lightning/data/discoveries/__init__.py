"""Discoveries determine the deletion set S_f: which samples of S_m are found and which are flagged by mistake."""

from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.detectors import (
    ActivationClustering,
    Detector,
    Inspection,
    LossRanking,
    PULearning,
    Similarity,
    SpectralSignatures,
)
from cmu_lightning.data.discoveries.flagged import Flagged
from cmu_lightning.data.discoveries.orders import ByDifficulty, ClassBiased, OrderedDiscovery, Uniform

__all__ = [
    "ActivationClustering",
    "ByDifficulty",
    "ClassBiased",
    "Detector",
    "Discovery",
    "Flagged",
    "Inspection",
    "LossRanking",
    "OrderedDiscovery",
    "PULearning",
    "Similarity",
    "SpectralSignatures",
    "Uniform",
]
