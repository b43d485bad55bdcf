"""What all detectors share: S_f is what looks most suspicious to someone who has the original."""

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor

from cmu_lightning.data.checks import check_scores
from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.inspection import Inspection
from cmu_lightning.errors import UserError


class Detector(Discovery, ABC):
    """S_f is exactly what is flagged, clean samples included; how much of S_m that is, turns out.

    A detector of one's own overrides `scores`. A larger S_f of one detector holds every smaller one.

    Args:
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(self, count: int | None = None, fraction: float | None = None) -> None:
        if count is not None and count < 1:
            raise UserError(f"discovery.count={count} flags nothing: give at least 1")
        if (count is None) == (fraction is None):
            said = "neither is" if count is None else f"count={count} and fraction={fraction} are"
            raise UserError(f"a detector flags discovery.count samples or discovery.fraction of S_tr, and {said} given")
        if fraction is not None and not 0 < fraction <= 1:
            raise UserError(f"discovery.fraction={fraction} is not in (0, 1]: it is the fraction of S_tr to flag")
        self.count, self.fraction = count, fraction

    @property
    def extent(self) -> str:
        """Says how large S_f is."""
        return f"fraction={self.fraction}" if self.count is None else f"count={self.count}"

    @abstractmethod
    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """How suspicious each sample is.

        Args:
            seen: The original's features and losses, and the labels as given.
            random: To draw from, if anything is random.

        Returns:
            Shape (n,), the largest flagged first, of equal ones the first; it must not depend on how many are wanted.
        """

    def detect(self, seen: Inspection, seed: int) -> Tensor:
        """S_f as indices into S_tr, the most suspicious first.

        Args:
            seen: The original, looking at S_tr.
            seed: Of all that is random.

        Raises:
            UserError: There are not as many samples, or a fraction of them is none.
        """
        total = len(seen.labels)
        count = round(total * self.fraction) if self.fraction is not None else self.count
        if not count or count > total:
            raise UserError(f"discovery.{self.extent} cannot be flagged of {total} samples: give 1 to {total} of them")
        scores = self.scores(seen, np.random.RandomState(seed))
        check_scores(self, scores, total)
        return scores.argsort(descending=True, stable=True)[:count]


def classes_to_look_at(labels: Tensor, classes: list[int] | None) -> list[int]:
    """Those that were asked for, or all that there are.

    Args:
        labels: As given, shape (n,).
        classes: None for all.

    Raises:
        UserError: One of them has no sample.
    """
    there = sorted(set(labels.tolist()))
    for label in classes or []:
        if label not in there:
            raise UserError(f"discovery.classes={classes}: no sample is labelled {label}, so give others")
    return there if classes is None else classes
