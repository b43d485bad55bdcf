"""Keep: nothing is unlearned."""

from collections.abc import Callable
from typing import ClassVar, Literal

from torch import nn

from cmu_lightning.data.training import Passes
from cmu_lightning.unlearning.procedure import Procedure
from cmu_lightning.unlearning.stage import View
from cmu_lightning.unlearning.unlearner import Unlearner


class Keep(Unlearner):
    """The original as it is, measured as unlearners are: what they have to be better than.

    Of a model that was trained elsewhere it makes a run.

    Args:
        network: Makes the network; the original's.
        procedure: Without effect.
        original: Checkpoint of the original.
        seed: Without effect.
    """

    view: ClassVar[View] = "passes"
    uses: ClassVar[Literal["steps", "unlearn_steps"]] = "steps"

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__(network, procedure, original, seed)
        self.automatic_optimization = False

    def configure_optimizers(self) -> None:
        """None: nothing is trained."""

    def training_step(self, batch: Passes, batch_idx: int) -> None:  # type: ignore[override]
        """Nothing."""
