"""Selective Synaptic Dampening (SSD) and its variants LFSSD, ASSD and TunedSSD.

This file holds the arithmetic; `importance.py` and `fisher.py` estimate importances, and `dampener.py` computes them
once per original and S_f, keeps them beside the original and multiplies the parameters.
"""

from collections.abc import Iterator
from math import inf, log
from typing import Any, ClassVar

import torch
from torch import Tensor

from cmu_lightning.data import evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.metrics import selection_score
from cmu_lightning.unlearning.dampener import Dampener, Dampening
from cmu_lightning.unlearning.importance import informative, squared_norm
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.stage import RECORD


def select_and_dampen(deleted: Tensor, retain: Tensor, selection: float, dampening: float) -> Dampening:
    """Return beta = min(gamma I_r / I_f, 1) where I_f > alpha I_r, and 1 elsewhere (Foster et al., eqs. 5 and 6).

    Args:
        deleted: I_f, importances over S_f, shape (P,).
        retain: I_r, importances over the retain data, shape (P,).
        selection: Threshold alpha on the ratio I_f / I_r.
        dampening: Strength gamma; the papers on SSD call it lambda.

    Example:
        >>> select_and_dampen(torch.tensor([4.0, 1.0]), torch.tensor([1.0, 4.0]), selection=2.0, dampening=1.0).factors
        tensor([0.2500, 1.0000])
    """
    # Compared as a ratio, in the arithmetic of `ratios`, so that a threshold taken from the ratios is not above itself.
    selected = informative(deleted, retain) & (deleted / retain > selection)
    # At most 1: the most important parameters shrink most, and none grows.
    factors = torch.where(selected, (dampening * retain / deleted).clamp(max=1), 1)
    return Dampening(factors, selected, selection)


def ratios(deleted: Tensor, retain: Tensor) -> Tensor:
    """Return the finite ratios I_f / I_r, ascending, shape (at most P,).

    Args:
        deleted: I_f, importances over S_f, shape (P,).
        retain: I_r, importances over the retain data, shape (P,).
    """
    values = (deleted / retain)[informative(deleted, retain)]
    return values[values.isfinite()].sort().values


def percentile(ascending: Tensor, percent: float) -> float:
    """Return a percentile, interpolated linearly; unlike `torch.quantile`, for any number of elements.

    Args:
        ascending: Sorted values, shape (n,).
        percent: Percentage of the values that lie below, from 0 to 100.

    Raises:
        UserError: There are no values.
    """
    if not len(ascending):
        raise UserError("no parameter has importances that are finite and not zero: look at the original's weights")
    position = percent / 100 * (len(ascending) - 1)
    low = int(position)
    below, above = ascending[low].item(), ascending[min(low + 1, len(ascending) - 1)].item()
    return below + (above - below) * (position - low)


def adaptive_percent(share: float) -> float:
    """Return P = 100 - ln(1 + 100 share), ASSD's percentile of the ratios (Schoepf et al., 2024, arXiv 2402.10098).

    Args:
        share: |S_f| / |S_tr|, the share of samples to forget; Potion's search goes beyond 1.
    """
    return 100 - log(1 + 100 * share)


class SSD(Dampener):
    """Selective Synaptic Dampening (Foster et al., AAAI 2024, arXiv 2308.07707).

    No training. Three steps:
      1. I_f, I_r: diagonal Fisher information of every parameter theta on the deletion set and on the retain data,
         I = mean (d loss / d theta)^2, over batches or over samples (`fisher`).
      2. Select the parameters with I_f > alpha I_r, alpha = `selection`.
      3. Scale them by min(gamma I_r / I_f, 1), gamma = `dampening_ratio` * `selection`.

    With `dampening_ratio` >= 1 every result depends on gamma only: the parameters between alpha and gamma keep
    their value.

    Args:
        selection: Threshold on the ratio of importances; the paper's alpha.
        dampening_ratio: Strength of the dampening, the paper's gamma, as a multiple of `selection`.

    Example:
        >>> from cmu_lightning.models import ResNet9
        >>> from cmu_lightning.unlearning import SSD, Procedure
        >>> stage = SSD(ResNet9, Procedure(batch_size=128), "original/last.ckpt", selection=10.0)
    """

    def __init__(self, *args: Any, selection: float = 10.0, dampening_ratio: float = 0.1, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not (selection >= 0 and 0 <= dampening_ratio < inf):
            raise UserError(
                f"selection={selection} and dampening_ratio={dampening_ratio} must not be negative, nor the ratio "
                "infinite: they are a threshold and a factor on it"
            )
        self.selection, self.dampening_ratio = selection, dampening_ratio

    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return the paper's dampening at the given threshold and strength."""
        # Step 1 has been done: `deleted` is I_f and `retain` is I_r, of the original in evaluation mode.
        # Steps 2 and 3: select by alpha, then scale by gamma.
        return select_and_dampen(deleted, retain, self.selection, self.dampening_ratio * self.selection)


class LFSSD(SSD):
    """Label-free SSD (Foster et al., 2024, arXiv 2402.19308): SSD with I = mean |d ||f(x)||^2 / d theta|."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, fisher="batch", **kwargs)

    def objective(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the squared norm of the outputs, shape (n,)."""
        return squared_norm(logits, labels)

    def measure(self, gradient: Tensor) -> Tensor:
        """Return the absolute value of a gradient, shape (P,)."""
        return gradient.abs()


class ASSD(Dampener):
    """Adaptive SSD (Schoepf et al., 2024, arXiv 2402.10098): nothing to tune.

    alpha is the percentile P = 100 - ln(1 + 100 |S_f| / |S_tr|) of the ratios I_f / I_r, and gamma is 1.
    """

    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return SSD's dampening at the percentile that follows from the size of S_f."""
        share = self.data.samples.deleted.cpu().double().mean().item()
        return select_and_dampen(deleted, retain, percentile(ratios(deleted, retain), adaptive_percent(share)), 1.0)


class TunedSSD(Dampener):
    """SSD at the point of the paper's grid with the largest `selection_score`, tried in memory within one run.

    It ends where the best of as many runs of `SSD` does: it looks at what their selection looks at, which is the
    validation samples and the classes predicted for S_f. `importance_ratios.json` holds the score of each point.
    """

    selections: ClassVar[tuple[float, ...]] = (0.1, 1, 10, 50, 100, 500, 1e3, 1e4, 1e5, 1e6)
    """Thresholds; the paper's alpha."""
    dampening_ratios: ClassVar[tuple[float, ...]] = (0.1, 0.5, 1, 5, 10)
    """Strengths of the dampening, as multiples of a threshold."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chosen: dict[str, float] = {}
        """`selection` and `dampening_ratio` of the best point, once it is known."""

    def setup(self, stage: str) -> None:
        """Check that there are validation samples to choose by.

        Args:
            stage: Lightning's name of what is run, such as "fit".

        Raises:
            UserError: There are none.
        """
        if stage == "fit" and not len(self.data.validation.given_labels):
            raise UserError("TunedSSD chooses by validation samples, and val_size=0 leaves none: give more, or use SSD")
        super().setup(stage)

    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return the dampening of the best point; of equal points the first in the order of the grid."""
        points = list(self.points())
        shown = track_parts(self.trainer, points, "SSD's grid", len(points))
        tried = [self._score(deleted, retain, *point) for point in shown]
        best = max(tried, key=lambda point: point["selection_score"])
        self.summary["grid"] = tried
        self.chosen = {name: best[name] for name in ("selection", "dampening_ratio")}
        return select_and_dampen(deleted, retain, best["selection"], best["dampening_ratio"] * best["selection"])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the chosen point, as a run may be measured by another process than chose it."""
        super().on_save_checkpoint(checkpoint)
        checkpoint[RECORD]["chosen"] = self.chosen

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up the chosen point."""
        super().on_load_checkpoint(checkpoint)
        self.chosen = checkpoint[RECORD].get("chosen", {})

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
        val_acc = self.accuracies(evaluation.of_validation(self.data))[0].item()
        changed = 1 - self.accuracies(evaluation.of_deleted(self.data, self.reference))[0].item()
        scores = {"val_acc": val_acc, "changed": changed, "selection_score": selection_score(val_acc, changed)}
        return {"selection": selection, "dampening_ratio": ratio} | scores
