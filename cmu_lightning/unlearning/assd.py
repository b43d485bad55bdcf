"""ASSD: SSD that finds its threshold by itself (Schoepf et al., 2024, arXiv 2402.10098)."""

from torch import Tensor

from cmu_lightning.unlearning.dampener import Dampener
from cmu_lightning.unlearning.dampening import percent, percentile, ratios


class ASSD(Dampener):
    """The threshold is a percentile of the ratios that follows from the size of S_f; the dampening is 1."""

    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """P = 100 - ln(1 + 100 |S_f| / N)."""
        share = self.data.samples.deleted.cpu().double().mean().item()
        return percentile(ratios(deleted, retain), percent(share)), 1.0
