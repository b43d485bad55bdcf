"""The stages: the original training, and every unlearner."""

from cmu_lightning.unlearning.badt import BadT
from cmu_lightning.unlearning.cf import CF
from cmu_lightning.unlearning.original import Original
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.rewod import RewoD
from cmu_lightning.unlearning.stage import Stage
from cmu_lightning.unlearning.unlearner import Unlearner

__all__ = ["CF", "BadT", "Original", "Procedure", "RewoD", "Stage", "Unlearner"]
