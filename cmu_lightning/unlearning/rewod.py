"""RewoD: retraining without the deletion set (paper, A.2 (1))."""

from typing import ClassVar, Literal

from torch import nn

from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner


class RewoD(Unlearner):
    """A fresh network, trained with procedure A on the retain data; the original only tells what has changed."""

    view: ClassVar[View] = "retain"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def start(self, original: nn.Module) -> None:
        """Take nothing."""
