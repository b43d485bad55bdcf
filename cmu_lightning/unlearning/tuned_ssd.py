"""SSD's whole grid in one run (paper, A.2 (3) and section 3.2)."""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from cmu_lightning.data import evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import selection_score
from cmu_lightning.unlearning.dampener import Dampener
from cmu_lightning.unlearning.dampening import factors


class TunedSSD(Dampener):
    """Tries every point of SSD's grid in memory, and takes the one with the largest `selection_score`.

    It ends where the best of as many runs of `SSD` does. What it looks at is what their choice looks at: validation
    samples, and the classes predicted for S_f. `importance_ratios.json` holds the score of each point.
    """

    selections: ClassVar[tuple[float, ...]] = (0.1, 1, 10, 50, 100, 500, 1e3, 1e4, 1e5, 1e6)
    """Thresholds; the paper's alpha."""
    dampening_ratios: ClassVar[tuple[float, ...]] = (0.1, 0.5, 1, 5, 10)
    """Strengths of the dampening, as multiples of a threshold."""

    def setup(self, stage: str) -> None:
        """There has to be something to choose by."""
        if stage == "fit" and not len(self.data.validation.labels):
            raise UserError("TunedSSD chooses by validation samples, and val_size=0 leaves none: give more, or use SSD")
        super().setup(stage)

    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """The first of the best."""
        points = list(self.points())
        tried = [self._score(deleted, retain, *each) for each in self.tracked(points, "SSD's grid", len(points))]
        best = max(tried, key=lambda point: point["selection_score"])
        self.summary["grid"] = tried
        return best["selection"], best["dampening_ratio"] * best["selection"]

    @classmethod
    def points(cls) -> Iterator[tuple[float, float]]:
        """Thresholds and ratios; of those that give the same (ratios from 1 on, one product) the first alone."""
        seen = set()
        for ratio in cls.dampening_ratios:
            for selection in cls.selections:
                point = f"{selection * ratio:.9g}" if ratio >= 1 else (selection, ratio)
                if point not in seen:
                    seen.add(point)
                    yield selection, ratio

    def _score(self, deleted: Tensor, retain: Tensor, selection: float, ratio: float) -> dict[str, Any]:
        """Dampen and measure."""
        self.dampen(factors(deleted, retain, selection, ratio * selection))
        assert self.reference is not None
        val_acc = self.accuracies(evaluation.of_validation(self.data))[0].item()
        changed = 1 - self.accuracies(evaluation.of_deleted(self.data, self.reference))[0].item()
        scores = {"val_acc": val_acc, "changed": changed, "selection_score": selection_score(val_acc, changed)}
        return {"selection": selection, "dampening_ratio": ratio} | scores
