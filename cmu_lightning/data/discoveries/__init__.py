"""How the deletion set S_f comes about: which manipulated samples are found, and what is flagged by mistake."""

from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.biased import ClassBiased
from cmu_lightning.data.discoveries.clustering import ActivationClustering
from cmu_lightning.data.discoveries.detector import Detector
from cmu_lightning.data.discoveries.difficulty import ByDifficulty
from cmu_lightning.data.discoveries.flagged import Flagged
from cmu_lightning.data.discoveries.inspection import Inspection
from cmu_lightning.data.discoveries.loss import LossRanking
from cmu_lightning.data.discoveries.ordered import Ordered
from cmu_lightning.data.discoveries.similarity import Similarity
from cmu_lightning.data.discoveries.spectral import SpectralSignatures
from cmu_lightning.data.discoveries.uniform import Uniform

__all__ = [
    "ActivationClustering",
    "ByDifficulty",
    "ClassBiased",
    "Detector",
    "Discovery",
    "Flagged",
    "Inspection",
    "LossRanking",
    "Ordered",
    "Similarity",
    "SpectralSignatures",
    "Uniform",
]
