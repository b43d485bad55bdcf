"""Potion: dampening until the trigger has no effect (Schoepf et al., 2024, arXiv 2406.09173)."""

from collections.abc import Callable
from typing import ClassVar

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.dampener import Dampener, factors, percent, percentile, ratios
from cmu_lightning.unlearning.importance import norm
from cmu_lightning.unlearning.procedure import Procedure


class Potion(Dampener):
    """Importances by the norm of the outputs (XLF), and a search for the weakest dampening that suffices (PTN).

    The search takes percentiles of the ratios as thresholds, from the mildest on, until S_f is classified as labelled
    no more often than `rho` times as often as by the original.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: Procedure A; only its batch size matters here: importances are of batches of that size.
        original: Checkpoint of the original.
        seed: Without effect, unless `augment` is on.
        rho: Fraction of the original's accuracy on S_f, by the labels as given, at which the search ends.
        augment: Whether importances are of shuffled and augmented samples.
    """

    tries: ClassVar[int] = 500
    growth: ClassVar[float] = 1.1

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        rho: float = 0.2,
        augment: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed, augment=augment)
        if not 0 <= rho <= 1:
            raise UserError(f"rho={rho} is not in [0, 1]: it is a fraction of the original's accuracy on S_f")
        self.rho = rho

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The norm of the outputs."""
        return norm(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """Its absolute value."""
        return gradient.abs()

    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """Search from |S_f| / N / 25 on, by steps of a tenth."""
        ascending = ratios(deleted, retain)
        known = self.data.all_deleted()
        enough = self.rho * self.accuracies(known)[0]
        share = self.data.samples.deleted.cpu().double().mean().item() / 25
        for _ in self.tracked(range(self.tries), "dampening, at most", self.tries):
            selection = percentile(ascending, percent(share))
            self.dampen(factors(deleted, retain, selection, 1.0))
            if self.accuracies(known)[0] <= enough:
                return selection, 1.0
            share *= self.growth
        rank_zero_warn(f"no dampening of {self.tries} brought the accuracy on S_f to {enough:.3f}; the last one stays")
        return selection, 1.0
