"""Keep: nothing is unlearned."""

from typing import ClassVar, Literal

from cmu_lightning.data.training import Passes
from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner


class Keep(Unlearner):
    """The original as it is, measured as unlearners are: what they have to be better than.

    It turns a model that was trained elsewhere into a run of this project. `procedure` and `seed` have no effect.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def training_step(self, batch: Passes, batch_idx: int) -> None:  # type: ignore[override]
        """Nothing."""
