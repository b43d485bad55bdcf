"""ASSD: SSD that finds its threshold by itself (Schoepf et al., 2024, arXiv 2402.10098)."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn

from cmu_lightning.unlearning.dampener import Dampener
from cmu_lightning.unlearning.dampening import percent, percentile, ratios
from cmu_lightning.unlearning.procedure import Procedure


class ASSD(Dampener):
    """The threshold is a percentile of the ratios that follows from the size of S_f; the dampening is 1.

    Args:
        network: Makes the network; the original's.
        procedure: Its batch size is the importances' too.
        original: Checkpoint of the original.
        seed: Without effect, unless `augment` is on.
        fisher: Squared gradients of each `batch`, or of each `sample`: the exact diagonal.
        augment: Whether importances are of shuffled and augmented samples.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        fisher: Literal["batch", "sample"] = "batch",
        augment: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed, augment)
        self.fisher = fisher

    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """P = 100 - ln(1 + 100 |S_f| / N)."""
        share = self.data.samples.deleted.cpu().double().mean().item()
        return percentile(ratios(deleted, retain), percent(share)), 1.0
