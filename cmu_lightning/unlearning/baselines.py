"""The original training and the baselines: CF, RewoD and Keep."""

from typing import ClassVar, Literal

from torch import nn

from cmu_lightning.data.batches import FullPasses
from cmu_lightning.unlearning.stage import Stage, View
from cmu_lightning.unlearning.unlearner import Unlearner


class Original(Stage):
    """M_o: trained with procedure A on all of S_tr, including the manipulated samples.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import Original, Procedure
        >>> Original(ResNet9, Procedure(steps=4000)).steps
        4000
    """


class CF(Unlearner):
    """Catastrophic forgetting: the original, fine-tuned with procedure A on the retain data (paper, A.2 (2)).

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import CF, Procedure
        >>> CF(ResNet9, Procedure(unlearn_steps=1000), "original/last.ckpt").steps
        1000
    """

    view: ClassVar[View] = "retain"


class RewoD(Unlearner):
    """Retraining without deleted data: a fresh network, trained with procedure A on the retain data (paper, A.2 (1)).

    The original is needed only to measure which predictions have changed.
    """

    view: ClassVar[View] = "retain"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def start(self, original: nn.Module) -> None:
        """Keep the freshly initialised weights.

        Args:
            original: Not used.
        """


class Keep(Unlearner):
    """The unchanged original, measured like an unlearner: the level that unlearners must exceed.

    It turns a model that was trained elsewhere into a run of this project. `procedure` and `seed` have no effect.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def training_step(self, batch: FullPasses, batch_idx: int) -> None:  # type: ignore[override]
        """Leave the network unchanged.

        Args:
            batch: Not used.
            batch_idx: Not used.
        """
