"""Which of the runs is the repaired model, why, and the table that shows it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from cmu_lightning.errors import UserError
from cmu_lightning.report.comparing.select import destroyed

SHOWN = {
    "val_acc": "val_acc",
    "changed": "changed",
    "selection_score": "score",
    "seconds": "seconds",
}
MARK = "destroyed"
BELIEVED = 0.5
"""Of the training samples that are not flagged; a network that was trained on them as they are is right on more."""
GUESS = "val_majority"
CHOICE = "repaired.json"
"""In the folder of a setting, names what was chosen."""


@dataclass(frozen=True)
class Candidate:
    """A finished run.

    Args:
        name: The method with the values that were tried.
        folder: Folder of the run.
        metrics: Its results.
    """

    name: str
    folder: Path
    metrics: dict[str, Any]

    @property
    def score(self) -> float:
        """By which it is chosen."""
        return float(self.metrics["selection_score"])


def comparable(original: Candidate | None) -> Candidate:
    """The original, if something validates; said before anything else is run.

    Raises:
        UserError: There is nothing to choose by, or no note of the run that has just measured it.
    """
    if original is None:
        raise UserError("the package's own files changed while it measured the original: give the same command again")
    if "selection_score" not in original.metrics:
        raise UserError("nothing validates, so there is nothing to choose by: give a val folder or set data.val_size")
    return original


def doubts(original: Candidate) -> str:
    """A line for an original that does not do what it was trained to do; nothing for others."""
    right = original.metrics.get("fit_retain", 1.0)
    if right >= BELIEVED:
        return ""
    return (
        f"warning: the original predicts the given label of only {right:.0%} of the images that are not flagged: are "
        "mean, std, grey, image_size and the order of the classes those that it was trained with?"
    )


def choose(original: Candidate, tried: list[Candidate]) -> tuple[Candidate, str]:
    """The best, and one sentence that says why.

    A candidate of whose validation accuracy too little is left is out; of equal ones the first is taken, and
    the original is before all.

    Args:
        original: As it is.
        tried: What methods made of it.
    """
    alive = [each for each in tried if not is_destroyed(each, original)]
    best = max([original, *alive], key=lambda candidate: candidate.score)
    before = f"{original.score:.4f}"
    if best is original:
        return best, (
            f"The original is kept: of {len(tried)} candidates none that keeps at least half of its validation "
            f"accuracy over guessing has a higher selection score than its own {before}."
        )
    accuracy, changed = (best.metrics[name] for name in ("val_acc", "changed"))
    originally = original.metrics["val_acc"]
    return best, (
        f"{best.name} is chosen: of {len(alive)} candidates that keep at least half of the original's validation "
        f"accuracy over guessing it has the highest selection score, {best.score:.4f} against {before}, for its "
        f"validation accuracy is {accuracy:.4f} (the original's: {originally:.4f}) and {changed:.0%} of the flagged "
        "samples are predicted otherwise."
    )


def is_destroyed(candidate: Candidate, original: Candidate) -> bool:
    """Whether less than half is left of what the original's validation accuracy is over guessing.

    Who guesses always gives the most frequent label: of two classes that is right half of the time, changes most of
    S_f, and would have the highest score.
    """
    guess = original.metrics.get(GUESS, 0.0)  # runs of earlier versions do not tell
    before, after = original.metrics["val_acc"] - guess, candidate.metrics["val_acc"] - guess
    return bool(after < before / 2) if before > 0 else bool(destroyed(candidate.metrics, original.metrics))


@dataclass(frozen=True)
class Outcome:
    """Of a repair.

    Args:
        original: As it is.
        tried: What methods made of it.
        chosen: One of them, or the original.
        why: In one sentence.
        failed: Why there is no result, by what was tried.
    """

    original: Candidate
    tried: list[Candidate]
    chosen: Candidate
    why: str
    failed: dict[str, str]

    def content(self) -> dict[str, Any]:
        """Of `repaired.json`."""
        told = ("method", "hyperparameters", "hash", "val_acc", "changed", "selection_score")
        candidates = [
            {"run": str(each.folder)}
            | {name: each.metrics[name] for name in told}
            | {"destroyed": is_destroyed(each, self.original)}
            for each in self.tried
        ]
        return {
            "setting": self.original.metrics["setting"],
            "run": str(self.chosen.folder),
            "original_kept": self.chosen is self.original,
            "why": self.why,
            "original": {"run": str(self.original.folder)} | {name: self.original.metrics[name] for name in told},
            "candidates": candidates,
            "failed": self.failed,
        }

    def table(self) -> Table:
        """All candidates beside the original."""
        count = self.original.metrics["deleted"]
        title = f"{self.original.metrics['setting']}: {count} flagged sample{'s' * (count != 1)}"
        made = Table(title=title, title_justify="left")
        made.add_column("")
        for heading in SHOWN.values():
            made.add_column(heading, justify="right", no_wrap=True)
        made.add_column("")
        for each in (self.original, *self.tried):
            note = MARK if is_destroyed(each, self.original) else "chosen" if each is self.chosen else ""
            cells = [f"{each.metrics[name]:.{1 if name == 'seconds' else 4}f}" for name in SHOWN]
            made.add_row(each.name, *cells, note, style="bold" if each is self.chosen else "")
        for name, reason in self.failed.items():
            made.add_row(name, *[""] * len(SHOWN), f"failed: {reason}".replace("[", "\\["))
        return made
