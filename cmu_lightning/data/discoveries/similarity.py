"""From a few samples that someone has found to others that look like them to the original."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from cmu_lightning.data.discoveries.detector import Detector
from cmu_lightning.data.discoveries.flagged import Flagged
from cmu_lightning.data.discoveries.inspection import Inspection
from cmu_lightning.errors import UserError


class Similarity(Detector):
    """Some of S_m are known, from a list or a uniform draw as the paper's S_f; the rest of S_tr is ranked by likeness.

    Likeness is the cosine of two samples' features, of the same given label. The known ones are part of S_f, and
    flagged first; samples whose given label none of them has are flagged last.

    Args:
        known: How many of S_m are known; give this, `known_fraction` or `path`.
        known_fraction: The same as a fraction of S_m, in (0, 1]; rounded.
        path: Path of a list of the known ones, as of `Flagged`; in the order of the data.
        to: `nearest` compares with the most alike known sample, `mean` with the mean of their directions.
        count: How many samples are flagged in all; give this or `fraction`.
        fraction: The same as a fraction of S_tr, in (0, 1]; rounded.
    """

    def __init__(
        self,
        known: int | None = None,
        known_fraction: float | None = None,
        path: str | None = None,
        to: Literal["nearest", "mean"] = "nearest",
        count: int | None = None,
        fraction: float | None = None,
    ) -> None:
        super().__init__(count, fraction)
        if [known, known_fraction, path].count(None) != 2:
            raise UserError(
                "give one of discovery.known (samples of S_m), discovery.known_fraction (of S_m) and discovery.path"
            )
        if known_fraction is not None and not 0 < known_fraction <= 1:
            raise UserError(f"discovery.known_fraction={known_fraction} is not in (0, 1]: it is a fraction of S_m")
        self.known, self.known_fraction, self.to = known, known_fraction, to
        self.list = None if path is None else Flagged(path)

    def content(self) -> dict[str, str]:
        """A digest of the list, if there is one."""
        return {} if self.list is None else self.list.content()

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor | None:
        """What the list says; S_f is more than that."""
        return None if self.list is None else self.list.flagged(total, names)

    def scores(self, seen: Inspection, random: np.random.RandomState) -> Tensor:
        """Cosines; 2 and more for the known ones, in their order."""
        if self.list is None:
            known = self.known_ones(torch.nonzero(seen.samples.manipulated.cpu()).flatten(), random)
        else:
            known = torch.nonzero(seen.samples.deleted.cpu()).flatten()
        directions = normalize(seen.features())
        scores = torch.full((len(directions),), -torch.inf, dtype=torch.float64)
        for label in set(seen.labels[known].tolist()):
            own, examples = seen.labels == label, directions[known[seen.labels[known] == label]]
            if self.to == "mean":
                scores[own] = directions[own] @ normalize(examples.mean(dim=0), dim=0)
            else:
                scores[own] = (directions[own] @ examples.T).amax(dim=1)
        scores[known] = 2 + torch.arange(len(known), 0, -1, dtype=torch.float64)
        return scores

    def known_ones(self, members: Tensor, random: np.random.RandomState) -> Tensor:
        """The first of the paper's permutation of S_m."""
        total, fraction = len(members), self.known_fraction
        known = self.known if fraction is None else round(total * fraction)
        if not known or not 0 < known <= total:
            given = f"known={known}" if fraction is None else f"known_fraction={fraction}"
            raise UserError(f"discovery.{given} of {total} manipulated samples cannot be: give 1 to {total} of them")
        return members[torch.from_numpy(random.permutation(total))[:known]]
