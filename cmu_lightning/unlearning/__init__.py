"""The stages: the original training and every unlearner."""

from cmu_lightning.unlearning.badt import BadT
from cmu_lightning.unlearning.baselines import CF, Keep, Original, RewoD
from cmu_lightning.unlearning.dampener import Dampener, Dampening
from cmu_lightning.unlearning.distillation import DistillationUnlearner
from cmu_lightning.unlearning.etd import ETD
from cmu_lightning.unlearning.potion import Potion
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.pure import PURE
from cmu_lightning.unlearning.relabel import Relabel
from cmu_lightning.unlearning.rem import REM
from cmu_lightning.unlearning.sap import SAP
from cmu_lightning.unlearning.scrub import Scrub
from cmu_lightning.unlearning.ssd import ASSD, LFSSD, SSD
from cmu_lightning.unlearning.stage import Stage, View
from cmu_lightning.unlearning.task_vector import NegMerge, TaskVector
from cmu_lightning.unlearning.tuned_ssd import TunedSSD
from cmu_lightning.unlearning.unlearner import Unlearner

Distilling = DistillationUnlearner  # the name before 0.2

__all__ = [
    "ASSD",
    "CF",
    "ETD",
    "LFSSD",
    "PURE",
    "REM",
    "SAP",
    "SSD",
    "BadT",
    "Dampener",
    "Dampening",
    "DistillationUnlearner",
    "Distilling",
    "Keep",
    "NegMerge",
    "Original",
    "Potion",
    "Procedure",
    "Relabel",
    "RewoD",
    "Scrub",
    "Stage",
    "TaskVector",
    "TunedSSD",
    "Unlearner",
    "View",
]
