"""The choice of the repaired model among the candidates of a study, and how it is reported."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cmu_lightning.errors import UserError
from cmu_lightning.selection import destroyed

CHOICE_FILE = "repaired.json"
"""Name of the file, in the folder of a setting, that says which run was chosen."""

COLUMNS = {"val_acc": "val_acc", "changed": "changed", "selection_score": "score", "seconds": "seconds"}
"""Numbers in the table of candidates, and their headings."""

REPORTED = ("method", "hyperparameters", "hash", "val_acc", "changed", "selection_score")
"""Entries of a candidate's `metrics.json` that `repaired.json` repeats."""

PLAUSIBLE_FIT = 0.5
"""Least agreement with the given labels on retain that is expected of an original: it was trained on them."""


@dataclass(frozen=True)
class Candidate:
    """A finished run that may become the repaired model.

    Args:
        name: Its method with the hyperparameters that were tried.
        folder: Folder of the run.
        metrics: Content of its `metrics.json`.

    Example:
        >>> Candidate("CF", Path("runs/mine/CF/0-0123456789"), {"selection_score": 0.75}).score
        0.75
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def score(self) -> float:
        """The number that candidates are ranked by: (val_acc + changed) / 2."""
        return float(self.metrics["selection_score"])


def choose(original: Candidate, candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Return the candidate with the highest selection score, or the original, and a sentence that says why.

    Destroyed candidates are left out. Of equal scores the first candidate counts, and the original before all.

    Args:
        original: Run that kept the original as it is.
        candidates: Runs of unlearners that started from it.
    """
    alive = [candidate for candidate in candidates if not is_destroyed(candidate, original)]
    best = max([original, *alive], key=lambda candidate: candidate.score)
    if best is original:
        return best, (
            f"The original is kept: of {len(candidates)} candidates none that keeps at least half of its validation "
            f"accuracy over guessing has a higher selection score than its own {original.score:.4f}."
        )
    return best, (
        f"{best.name} is chosen: of {len(alive)} candidates that keep at least half of the original's validation "
        f"accuracy over guessing it has the highest selection score, {best.score:.4f} against the original's "
        f"{original.score:.4f}; its validation accuracy is {best.metrics['val_acc']:.4f} (the original's: "
        f"{original.metrics['val_acc']:.4f}), and it predicts another class for {best.metrics['changed']:.0%} of the "
        "flagged samples."
    )


def is_destroyed(candidate: Candidate, original: Candidate) -> bool:
    """Return whether less than half is left of the original's validation accuracy over guessing.

    Guessing always gives the most frequent label. With two classes it is right half of the time and changes most
    predictions on S_f, so without this rule it would have the highest score.

    Args:
        candidate: Run of an unlearner, or the original itself.
        original: Run that kept the original; `val_majority` in its results is the accuracy of guessing.
    """
    guessing = original.metrics.get("val_majority", 0.0)  # results of older versions do not hold it
    before, after = (run.metrics["val_acc"] - guessing for run in (original, candidate))
    if before > 0:
        return bool(after < before / 2)
    # The original is no better than guessing, so half of its plain accuracy decides.
    return bool(destroyed(candidate.metrics, original.metrics))


def require_validation(original: Candidate | None) -> Candidate:
    """Return the original if it was measured and candidates can be compared with it.

    Args:
        original: Run that kept the original; None if the ledger has no entry for it.

    Raises:
        UserError: There are no validation samples, or the run is not in the ledger.
    """
    if original is None:
        raise UserError(
            "the files of cmu_lightning changed while the original was measured: run the same command again"
        )
    if "selection_score" not in original.metrics:
        raise UserError(
            "there are no validation samples, so candidates cannot be compared: add a val folder or set data.val_size"
        )
    return original


def doubt(original: Candidate) -> str | None:
    """Return a warning if the original does not predict the labels that it was trained on; None if it does.

    Args:
        original: Run that kept the original.
    """
    fit = original.metrics.get("fit_retain", 1.0)
    if fit >= PLAUSIBLE_FIT:
        return None
    return (
        f"warning: the original predicts the given label of only {fit:.0%} of the images that are not flagged: check "
        "that mean, std, grey, image_size and the order of the classes are those that it was trained with"
    )


@dataclass(frozen=True)
class Outcome:
    """The result of a repair: what was tried, what was chosen, and why.

    Args:
        original: Run that kept the original as it is.
        candidates: Runs of unlearners that started from it, in the order of the study.
        chosen: One of them, or the original.
        reason: Why it was chosen, in one sentence.
        failures: Error message by the name of each candidate that could not be run.
    """

    original: Candidate
    candidates: Sequence[Candidate]
    chosen: Candidate
    reason: str
    failures: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return the content of `repaired.json`."""
        return {
            "setting": self.original.metrics["setting"],
            "run": str(self.chosen.folder),
            "original_kept": self.chosen is self.original,
            "why": self.reason,
            "original": _reported(self.original),
            "candidates": [
                _reported(candidate) | {"destroyed": is_destroyed(candidate, self.original)}
                for candidate in self.candidates
            ],
            "failed": self.failures,
        }

    def as_table(self) -> Table:
        """Return a table of the original, all candidates and all failures."""
        count = self.original.metrics["deleted"]
        title = f"{self.original.metrics['setting']}: {count} flagged sample{'s' * (count != 1)}"
        table = Table(title=title, title_justify="left")
        table.add_column("")
        for heading in COLUMNS.values():
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("")
        for run in (self.original, *self.candidates):
            cells = [f"{run.metrics[name]:.{1 if name == 'seconds' else 4}f}" for name in COLUMNS]
            table.add_row(run.name, *cells, self._note(run), style="bold" if run is self.chosen else "")
        for name, message in self.failures.items():
            table.add_row(name, *[""] * len(COLUMNS), f"failed: {message}")
        return table

    def _note(self, run: Candidate) -> str:
        """Return what the last column of the table says about a run."""
        if is_destroyed(run, self.original):
            return "destroyed"
        return "chosen" if run is self.chosen else ""


def _reported(run: Candidate) -> dict[str, Any]:
    """Return what `repaired.json` says about a run."""
    return {"run": str(run.folder)} | {name: run.metrics[name] for name in REPORTED}
