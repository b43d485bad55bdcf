"""SSD with the paper's whole grid of hyperparameters tried in memory."""

from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from cmu_lightning.data import evaluation
from cmu_lightning.metrics import selection_score
from cmu_lightning.unlearning.candidates import ChoosingUnlearner
from cmu_lightning.unlearning.dampener import Dampener, Dampening
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.ssd import select_and_dampen


class TunedSSD(ChoosingUnlearner, Dampener):
    """SSD at the point of the paper's grid with the largest `selection_score`, tried in memory within one run.

    It chooses the same point as a selection among as many runs of `SSD`, because it uses the same data: the
    validation samples and the predicted classes of S_f. `importance_ratios.json` holds the score of each point.
    """

    selections: ClassVar[tuple[float, ...]] = (0.1, 1, 10, 50, 100, 500, 1e3, 1e4, 1e5, 1e6)
    """Thresholds; the paper's alpha."""
    dampening_ratios: ClassVar[tuple[float, ...]] = (0.1, 0.5, 1, 5, 10)
    """Strengths of the dampening, as multiples of a threshold."""

    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return the dampening of the best point; of equal points the first in the order of the grid."""
        points = list(self.points())
        shown = track_parts(self.trainer, points, "SSD's grid", len(points))
        tried = [self._score(deleted, retain, *point) for point in shown]
        best = max(tried, key=lambda point: point["selection_score"])
        self.summary["grid"] = tried
        self.chosen = {name: best[name] for name in ("selection", "dampening_ratio")}
        return select_and_dampen(deleted, retain, best["selection"], best["dampening_ratio"] * best["selection"])

    @classmethod
    def points(cls) -> Iterator[tuple[float, float]]:
        """Yield distinct pairs of threshold and ratio; with ratios >= 1 equal products are one point."""
        seen = set()
        for ratio in cls.dampening_ratios:
            for selection in cls.selections:
                point = f"{selection * ratio:.9g}" if ratio >= 1 else (selection, ratio)
                if point not in seen:
                    seen.add(point)
                    yield selection, ratio

    def _score(self, deleted: Tensor, retain: Tensor, selection: float, ratio: float) -> dict[str, Any]:
        """Return a point of the grid with its scores, after dampening the network at it."""
        self.dampen(select_and_dampen(deleted, retain, selection, ratio * selection).factors)
        assert self.reference is not None
        val_acc = self.accuracies(evaluation.of_validation(self.data, by_class=False))[0].item()
        changed = 1 - self.accuracies(evaluation.of_deleted(self.data, self.reference))[0].item()
        scores = {"val_acc": val_acc, "changed": changed, "selection_score": selection_score(val_acc, changed)}
        return {"selection": selection, "dampening_ratio": ratio} | scores
