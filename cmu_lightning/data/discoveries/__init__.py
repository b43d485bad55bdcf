"""How the deletion set S_f comes about: which manipulated samples are found, and what is flagged by mistake."""

from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.biased import ClassBiased
from cmu_lightning.data.discoveries.difficulty import ByDifficulty
from cmu_lightning.data.discoveries.flagged import Flagged
from cmu_lightning.data.discoveries.uniform import Uniform

__all__ = ["ByDifficulty", "ClassBiased", "Discovery", "Flagged", "Uniform"]
