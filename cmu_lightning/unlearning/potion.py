"""Potion: dampening until the trigger has no effect (Schoepf et al., 2024, arXiv 2406.09173)."""

from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.dampener import Dampener, Dampening
from cmu_lightning.unlearning.importance import norm
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.ssd import adaptive_percent, percentile, ratios, select_and_dampen


class Potion(Dampener):
    """Importances without labels (XLF) and a search for the weakest sufficient dampening (PTN).

    XLF: I = mean |d ||f(x)|| / d theta|, over batches. PTN: for shares s = s_0, 1.1 s_0, 1.1^2 s_0, ... with
    s_0 = |S_f| / |S_tr| / 25, dampen as SSD does with gamma = 1 and alpha the percentile 100 - ln(1 + 100 s) of the
    ratios I_f / I_r, until the accuracy on S_f, by labels as given, is at most `rho` times the original's.

    Args:
        rho: Fraction of the original's accuracy on S_f, by labels as given, at which the search ends.
    """

    tries: ClassVar[int] = 500
    """Largest number of dampenings."""
    growth: ClassVar[float] = 1.1
    """Factor from one share to the next."""

    def __init__(self, *args: Any, rho: float = 0.2, **kwargs: Any) -> None:
        super().__init__(*args, fisher="batch", **kwargs)
        if not 0 <= rho <= 1:
            raise UserError(f"rho={rho} is not in [0, 1]: it is a fraction of the original's accuracy on S_f")
        self.rho = rho

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the norm of the outputs, shape (n,)."""
        return norm(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """Return the absolute value of a gradient, shape (P,)."""
        return gradient.abs()

    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return the first sufficient dampening, or the last one with a warning that none was sufficient."""
        ascending, known = ratios(deleted, retain), self.data.all_deleted()
        # The network still is the original: its accuracy sets the level to reach.
        enough = self.rho * self.accuracies(known)[0]
        share = self.data.samples.deleted.cpu().double().mean().item() / 25
        for _ in track_parts(self.trainer, range(self.tries), "dampening, at most", self.tries):
            # Dampen the original, not the result of the step before, at a lower percentile each time.
            dampening = select_and_dampen(deleted, retain, percentile(ascending, adaptive_percent(share)), 1.0)
            self.dampen(dampening.factors)
            if self.accuracies(known)[0] <= enough:
                return dampening
            share *= self.growth
        rank_zero_warn(f"no dampening of {self.tries} brought the accuracy on S_f to {enough:.3f}; the last one stays")
        return dampening
