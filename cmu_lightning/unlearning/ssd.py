"""SSD: selective synaptic dampening (Foster et al., 2024; paper, A.2 (3))."""

from collections.abc import Callable
from math import inf
from typing import Literal

from torch import Tensor, nn

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.dampener import Dampener
from cmu_lightning.unlearning.procedure import Procedure


class SSD(Dampener):
    """Selects by a threshold on the ratio of two diagonals of the Fisher information, and dampens in proportion.

    With `dampening_ratio` >= 1 the result depends on `selection * dampening_ratio` alone.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: Procedure A; only its batch size matters here: importances are of batches of that size.
        original: Checkpoint of the original.
        seed: Without effect, unless `augment` is on.
        selection: Threshold; the paper's alpha.
        dampening_ratio: Strength of the dampening, the paper's gamma, as a multiple of `selection`.
        fisher: Squared gradients of each `batch` as in released code, or of each `sample`: the exact diagonal, which
            makes it SSD-Det (arXiv 2510.26714, appendix B).
        augment: Whether importances are of shuffled and augmented samples, as in the paper's released code.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        selection: float = 10.0,
        dampening_ratio: float = 0.1,
        fisher: Literal["batch", "sample"] = "batch",
        augment: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed, fisher, augment)
        if not (selection >= 0 and 0 <= dampening_ratio < inf):
            raise UserError(
                f"selection={selection} and dampening_ratio={dampening_ratio} must not be negative, nor the ratio "
                "infinite: they are a threshold and a factor on it"
            )
        self.selection, self.dampening_ratio = selection, dampening_ratio

    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """As given."""
        return self.selection, self.dampening_ratio * self.selection
