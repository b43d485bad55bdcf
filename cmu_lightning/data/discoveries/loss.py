"""Samples whose given labels the original did not believe, or believed at once."""

from typing import Literal

import numpy as np
from torch import Tensor

from cmu_lightning.data.discoveries.detector import Detector
from cmu_lightning.data.discoveries.inspection import Inspection


class LossRanking(Detector):
    """By the original's cross-entropy with the labels as given, without augmentation.

    Wrong labels are learned last (Arpit et al., 2017), triggers are learned first (Li et al., 2021): the former have
    the highest losses, the latter the lowest.

    Args:
        first: `highest` flags large losses, `lowest` small ones.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(
        self, first: Literal["highest", "lowest"] = "highest", count: int | None = None, fraction: float | None = None
    ) -> None:
        super().__init__(count, fraction)
        self.first = first

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Losses, or their negatives."""
        return seen.losses() if self.first == "highest" else -seen.losses()
