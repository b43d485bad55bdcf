"""Base of the methods that derive several networks from one computation and keep the best of them."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from cmu_lightning.data import evaluation
from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.metrics import rem_proxy
from cmu_lightning.unlearning.progress import track_parts
from cmu_lightning.unlearning.unlearner import Unlearner


class ChoosingUnlearner(Unlearner):
    """Base of methods that choose by validation samples and record what they have chosen."""

    keeps = ("chosen",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.chosen: dict[str, float] = {}
        """What was chosen, as numbers by their names; empty before."""

    def setup(self, stage: str) -> None:
        """Check that there are validation samples to choose by.

        Args:
            stage: Lightning's name of what is run, such as "fit".

        Raises:
            UserError: There are none.
        """
        if stage == "fit" and not len(self.data.validation.given_labels):
            name = type(self).__name__
            raise UserError(f"{name} chooses by validation samples, and val_size=0 leaves none: give more")
        super().setup(stage)


class CandidateUnlearner(ChoosingUnlearner):
    """Base of methods with one free number, all values of which are tried in memory.

    The best candidate has the largest val_acc (1 - max(fit_identified, 0.2)). This is REM's criterion with validation
    samples instead of the retain data, which contain hidden S_m. Their labels are clean by default, and as given with
    `data.val_labels=given`; no other clean label counts. `candidates.json`
    holds the scores of each, and `metrics.json` which one was `chosen`.
    """

    def keep_best(self, name: str, values: Sequence[float], load: Callable[[float], None]) -> None:
        """Try all candidates, and leave the best in the network; of equal ones the first.

        Args:
            name: Name of the number that distinguishes candidates.
            values: Its values.
            load: Sets the network to the candidate of a value.
        """
        tried = []
        for value in track_parts(self.trainer, values, f"{type(self).__name__}'s candidates", len(values)):
            load(value)
            tried.append({name: value} | self._scores())
        best = max(tried, key=lambda candidate: candidate["proxy"])
        load(best[name])
        self.chosen = {name: best[name]}
        if self.trainer.is_global_zero:
            write_atomically(self.place / "candidates.json", json.dumps(tried) + "\n")

    def _scores(self) -> dict[str, float]:
        """Return the scores of the current network, and leave it in evaluation mode."""
        val_acc = self.accuracies(evaluation.of_validation(self.data, by_class=False))[0].item()
        fit_identified = self.accuracies(self.data.all_deleted())[0].item()
        return {"val_acc": val_acc, "fit_identified": fit_identified, "proxy": rem_proxy(val_acc, fit_identified)}
