"""Spectral signatures (Tran, Li and Madry, 2018)."""

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.discoveries.detector import Detector, classes_to_look_at
from cmu_lightning.data.discoveries.inspection import Inspection


class SpectralSignatures(Detector):
    """Samples that stand out along the direction in which the features of their class vary most.

    For each class of the labels as given, features are centred, and the score is the squared projection on their top
    right singular vector (algorithm 1 of the source, which removes the same number from every class). Here the scores
    of all classes are ranked together, so that what a class holds decides how much of it is flagged.

    Args:
        classes: Given labels that are looked at, default all; samples of others are flagged last.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(
        self, classes: list[int] | None = None, count: int | None = None, fraction: float | None = None
    ) -> None:
        super().__init__(count, fraction)
        self.classes = classes

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Squared projections."""
        features = seen.features()
        scores = torch.full((len(features),), -torch.inf, dtype=torch.float64)
        for label in classes_to_look_at(seen.labels, self.classes):
            own = seen.labels == label
            centred = features[own] - features[own].mean(dim=0)
            scores[own] = (centred @ torch.linalg.svd(centred, full_matrices=False).Vh[0]).square()
        return scores
