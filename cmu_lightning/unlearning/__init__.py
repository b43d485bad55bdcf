"""The stages: the original training, and every unlearner."""

from cmu_lightning.unlearning.assd import ASSD
from cmu_lightning.unlearning.badt import BadT
from cmu_lightning.unlearning.cf import CF
from cmu_lightning.unlearning.dampener import Dampener
from cmu_lightning.unlearning.distilling import Distilling
from cmu_lightning.unlearning.keep import Keep
from cmu_lightning.unlearning.lfssd import LFSSD
from cmu_lightning.unlearning.original import Original
from cmu_lightning.unlearning.potion import Potion
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.rewod import RewoD
from cmu_lightning.unlearning.scrub import Scrub
from cmu_lightning.unlearning.ssd import SSD
from cmu_lightning.unlearning.stage import Stage, View
from cmu_lightning.unlearning.tuned_ssd import TunedSSD
from cmu_lightning.unlearning.unlearner import Unlearner

__all__ = [
    "ASSD",
    "CF",
    "LFSSD",
    "SSD",
    "BadT",
    "Dampener",
    "Distilling",
    "Keep",
    "Original",
    "Potion",
    "Procedure",
    "RewoD",
    "Scrub",
    "Stage",
    "TunedSSD",
    "Unlearner",
    "View",
]
