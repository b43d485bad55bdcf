"""Selective synaptic dampening (SSD) and its variants: LFSSD, ASSD, TunedSSD."""

from collections.abc import Callable, Iterator
from math import inf
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from cmu_lightning.data import evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import selection_score
from cmu_lightning.unlearning.dampener import Dampener, factors, percent, percentile, ratios
from cmu_lightning.unlearning.importance import squared_norm
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


class LFSSD(SSD):
    """SSD by the absolute gradients of the squared norm of the outputs.

    Args:
        network: Constructor of the network, the same as the original's.
        procedure: Procedure A; only its batch size matters here: importances are of batches of that size.
        original: Checkpoint of the original.
        seed: Without effect, unless `augment` is on.
        selection: Threshold on the ratio of importances.
        dampening_ratio: Strength of the dampening, as a multiple of `selection`.
        augment: Whether importances are of shuffled and augmented samples.
    """

    def __init__(
        self,
        network: Callable[[], nn.Module],
        procedure: Procedure,
        original: str | None = None,
        seed: int | None = None,
        selection: float = 10.0,
        dampening_ratio: float = 0.1,
        augment: bool = False,
    ) -> None:
        super().__init__(network, procedure, original, seed, selection, dampening_ratio, augment=augment)

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The squared norm of the outputs."""
        return squared_norm(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """Its absolute value."""
        return gradient.abs()


class ASSD(Dampener):
    """The threshold is a percentile of the ratios that follows from the size of S_f; the dampening is 1."""

    def choose(self, deleted: Tensor, retain: Tensor) -> tuple[float, float]:
        """P = 100 - ln(1 + 100 |S_f| / N)."""
        share = self.data.samples.deleted.cpu().double().mean().item()
        return percentile(ratios(deleted, retain), percent(share)), 1.0


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
        if stage == "fit" and not len(self.data.validation.given_labels):
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
