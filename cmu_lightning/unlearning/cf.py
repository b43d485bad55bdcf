"""CF: catastrophic forgetting (paper, A.2 (2))."""

from typing import ClassVar

from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner


class CF(Unlearner):
    """The original, fine-tuned with procedure A on the retain data."""

    view: ClassVar[View] = "retain"
