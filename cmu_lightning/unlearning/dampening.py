"""Selecting and dampening parameters by two importances (Foster et al., 2024, equations 5 and 6).

Importances are flat tensors, shape (number of parameters,). A parameter whose importances are both zero, or one of
which is not finite, is left alone: there is nothing to tell it by.
"""

from math import log

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.errors import UserError

HISTOGRAM = np.linspace(-6, 12, 73)
"""Edges of the bins for decimal logarithms of ratios."""


def informative(deleted: Tensor, retain: Tensor) -> Tensor:
    """Which parameters the importances say anything of, bool."""
    return deleted.isfinite() & retain.isfinite() & ((deleted != 0) | (retain != 0))


def selected(deleted: Tensor, retain: Tensor, selection: float) -> Tensor:
    """Whose ratio is over the threshold, bool; compared as a ratio, so that a threshold that is one is not over it."""
    return informative(deleted, retain) & (deleted / retain > selection)


def factors(deleted: Tensor, retain: Tensor, selection: float, dampening: float) -> Tensor:
    """What each parameter is multiplied by: min(dampening I_D / I_f, 1) where I_f > selection I_D, elsewhere 1.

    Args:
        deleted: I_f, over S_f.
        retain: I_D, over the retain data.
        selection: Threshold on the ratio of both; the paper's alpha.
        dampening: The paper's gamma.
    """
    chosen = selected(deleted, retain, selection)
    return torch.where(chosen, (dampening * retain / deleted).clamp(max=1), 1)


def ratios(deleted: Tensor, retain: Tensor) -> Tensor:
    """I_f / I_D of the parameters for which it is finite, ascending."""
    values = (deleted / retain)[informative(deleted, retain)]
    return values[values.isfinite()].sort().values


def percentile(ascending: Tensor, percent: float) -> float:
    """The value that so many percent are below, interpolated; unlike torch's, of any number of elements.

    Raises:
        UserError: There is none.
    """
    if not len(ascending):
        raise UserError("no parameter has importances that are finite and not zero: look at the original's weights")
    place = percent / 100 * (len(ascending) - 1)
    low = int(place)
    below, above = ascending[low].item(), ascending[min(low + 1, len(ascending) - 1)].item()
    return below + (above - below) * (place - low)


def percent(share: float) -> float:
    """Which percentile of the ratios is the threshold (ASSD: Schoepf et al., 2024, arXiv 2402.10098).

    Args:
        share: Share of the samples that is to be forgotten; in a search (PTN) it also goes beyond 1.
    """
    return 100 - log(1 + 100 * share)


def histogram(deleted: Tensor, retain: Tensor) -> dict[str, list[float] | list[int]]:
    """How many ratios lie where, by decimal logarithm (the paper's Figure 3).

    Those beyond are in the last bins, infinite ones too; a ratio of zero is in none.
    """
    values = (deleted / retain)[informative(deleted, retain)]
    logarithms = values[values > 0].log10().clamp(HISTOGRAM[0], HISTOGRAM[-1]).cpu().numpy()
    counts, edges = np.histogram(logarithms, HISTOGRAM)
    return {"log10_edges": edges.tolist(), "counts": counts.tolist()}
