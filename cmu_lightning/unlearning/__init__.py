"""The stages: the original training and every unlearner."""

from cmu_lightning.unlearning.ascent import NPO, GradientAscent, NegGradPlus
from cmu_lightning.unlearning.badt import BadT
from cmu_lightning.unlearning.baselines import CF, Keep, Original, RewoD
from cmu_lightning.unlearning.dampener import Dampener, Dampening
from cmu_lightning.unlearning.distillation import DistillationUnlearner
from cmu_lightning.unlearning.etd import ETD
from cmu_lightning.unlearning.fine_tuning import NGD, L1Sparse
from cmu_lightning.unlearning.forgetting import AscentUnlearner, ForgettingUnlearner
from cmu_lightning.unlearning.last_layers import CFk, EUk
from cmu_lightning.unlearning.masking import MaskedUnlearner, ParameterMask
from cmu_lightning.unlearning.potion import Potion
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.pure import PURE
from cmu_lightning.unlearning.random_label import RandomLabel, SalUn
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
    "NGD",
    "NPO",
    "PURE",
    "REM",
    "SAP",
    "SSD",
    "AscentUnlearner",
    "BadT",
    "CFk",
    "Dampener",
    "Dampening",
    "DistillationUnlearner",
    "Distilling",
    "EUk",
    "ForgettingUnlearner",
    "GradientAscent",
    "Keep",
    "L1Sparse",
    "MaskedUnlearner",
    "NegGradPlus",
    "NegMerge",
    "Original",
    "ParameterMask",
    "Potion",
    "Procedure",
    "RandomLabel",
    "Relabel",
    "RewoD",
    "SalUn",
    "Scrub",
    "Stage",
    "TaskVector",
    "TunedSSD",
    "Unlearner",
    "View",
]
