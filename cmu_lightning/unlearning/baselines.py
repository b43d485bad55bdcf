"""The original training and the baselines: CF, RewoD and Keep."""

from typing import ClassVar, Literal

from torch import nn

from cmu_lightning.data.batches import FullPasses
from cmu_lightning.unlearning.stage import Stage, View
from cmu_lightning.unlearning.unlearner import Unlearner


class Original(Stage):
    """M_o: trained with procedure A on all of S_tr."""


class CF(Unlearner):
    """The original, fine-tuned with procedure A on the retain data."""

    view: ClassVar[View] = "retain"


class RewoD(Unlearner):
    """A fresh network, trained with procedure A on the retain data; the original only tells what has changed."""

    view: ClassVar[View] = "retain"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def start(self, original: nn.Module) -> None:
        """Take nothing."""


class Keep(Unlearner):
    """The original as it is, measured as unlearners are: what they have to be better than.

    It turns a model that was trained elsewhere into a run of this project. `procedure` and `seed` have no effect.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def training_step(self, batch: FullPasses, batch_idx: int) -> None:  # type: ignore[override]
        """Nothing."""
