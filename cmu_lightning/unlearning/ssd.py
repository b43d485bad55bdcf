"""Selective Synaptic Dampening (SSD) and its variants LFSSD and ASSD.

This file holds the arithmetic; `importance.py` and `fisher.py` estimate importances, and `dampener.py` computes them
once per original and S_f, stores them next to the original and multiplies the parameters.
"""

from math import inf, log
from typing import Any

import torch
from torch import Tensor

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.dampener import Dampener, Dampening
from cmu_lightning.unlearning.importance import informative, squared_norm


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
        raise UserError("no parameter has importances that are finite and not zero: check the original's weights")
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
    """Adaptive SSD (Schoepf et al., 2024, arXiv 2402.10098), without hyperparameters to tune.

    alpha is the percentile P = 100 - ln(1 + 100 |S_f| / |S_tr|) of the ratios I_f / I_r, and gamma is 1.
    """

    def choose(self, deleted: Tensor, retain: Tensor) -> Dampening:
        """Return SSD's dampening at the percentile that follows from the size of S_f."""
        share = self.data.samples.deleted.cpu().double().mean().item()
        return select_and_dampen(deleted, retain, percentile(ratios(deleted, retain), adaptive_percent(share)), 1.0)
