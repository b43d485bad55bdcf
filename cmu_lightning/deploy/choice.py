"""The choice of the repaired model among the candidates of a study, and how it is reported."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from cmu_lightning.deploy.guards import Parts, objection
from cmu_lightning.errors import UserError
from cmu_lightning.selection import balanced_score, lost_margin

CHOICE_FILE = "repaired.json"
"""Name of the file, in the folder of a setting, that says which run was chosen."""

COLUMNS = {
    "val_acc": "val_acc",
    "fit_retain": "fit_retain",
    "fit_identified": "fit_identified",
    "trusted": "trusted",
    "score": "score",
    "seconds": "seconds",
}
"""Numbers in the table of candidates, and their headings; of the first two the one that the score is made of."""

REPORTED = ("method", "hyperparameters", "hash", "val_acc", "fit_retain", "fit_identified", "changed")
"""Entries of a candidate's `metrics.json` that `repaired.json` repeats, as far as they were measured."""

PLAUSIBLE_FIT = 0.5
"""Least agreement with the given labels on retain that is expected of an original: it was trained on them."""

ORIGINAL_NAMES = ("the original", "original", "keep")
"""Names under which a user can ask for the original."""


@dataclass(frozen=True)
class Candidate:
    """A finished run that may become the repaired model.

    Args:
        name: Its method with the hyperparameters that were tried.
        folder: Folder of the run.
        metrics: Content of its `metrics.json`.
        trusted: How many trusted images it classifies correctly, and how many there are; None if there are none.

    Example:
        >>> Candidate("CF", Path("runs/mine/CF/0-0123456789"), {"val_acc": 0.75, "fit_identified": 0.25}).score
        4.5
    """

    name: str
    folder: Path
    metrics: dict[str, Any]
    trusted: tuple[int, int] | None = None

    @property
    def score(self) -> float:
        """The number that candidates are ranked by.

        It is `balanced_score` and, where there are n trusted images of which k are classified correctly,
        (k + 1) / (n + 2): like the flags they count for at most 1, and one or two of them for less.
        """
        right, total = self.trusted or (0, 0)
        return balanced_score(self.metrics) + ((right + 1) / (total + 2) if total else 0.0)

    @property
    def utility(self) -> float:
        """Accuracy on validation samples; where there are none, agreement with the given labels on retain."""
        return float(self.metrics["val_acc"] if "val_acc" in self.metrics else self.metrics["fit_retain"])

    @property
    def utility_name(self) -> str:
        """What `utility` is called."""
        return "val_acc" if "val_acc" in self.metrics else "fit_retain"


@dataclass(frozen=True)
class Choice:
    """Which candidate was chosen, and why no other one.

    Args:
        run: The candidate, or the original.
        reason: Why it was chosen, in one sentence.
        refused: Why the guards refused a candidate with a higher score, by its name.
    """

    run: Candidate
    reason: str
    refused: dict[str, str] = field(default_factory=dict)


def choose(
    original: Candidate, candidates: Sequence[Candidate], parts_of: Callable[[Candidate], Parts] | None = None
) -> Choice:
    """Choose the candidate with the highest score that passes the guards, or the original.

    Destroyed candidates are left out. Of equal scores the first candidate wins, and the original wins over all.

    Args:
        original: Run that kept the original unchanged.
        candidates: Runs of unlearners that started from it.
        parts_of: Returns what the original and a candidate predict for single samples, for the guards; it is called
            only for candidates with a higher score than the original's, the highest first. None chooses by scores.
    """
    alive = [candidate for candidate in candidates if not is_destroyed(candidate, original)]
    better = sorted((each for each in alive if each.score > original.score), key=lambda each: -each.score)
    refused: dict[str, str] = {}
    for candidate in better:
        why_not = objection(parts_of(candidate)) if parts_of else None
        if why_not is None:
            return Choice(candidate, _why(candidate, original, len(candidates), len(refused)), refused)
        refused[candidate.name] = why_not
    if not candidates:
        return Choice(original, "The original is kept: no candidate has finished.")
    lead = f"The original is kept: of {len(candidates)} candidates, none"
    score = f"scores higher than its {original.score:.4f}"
    if not refused:
        return Choice(original, f"{lead} {score} without being destroyed.")
    first, why_not = next(iter(refused.items()))
    return Choice(original, f"{lead} that {score} passes the guards; {first} scores highest, but {why_not}.", refused)


def take(original: Candidate, candidates: Sequence[Candidate], name: str) -> Choice:
    """Choose the candidate that a user asks for.

    Args:
        original: Run that kept the original unchanged.
        candidates: Runs of unlearners that started from it.
        name: Name of a candidate in the table, or of its method; of several candidates the one with the highest score.

    Raises:
        UserError: There is none with that name.
    """
    wanted = name.strip().lower()
    if wanted in ORIGINAL_NAMES:
        return Choice(original, "The original is kept because --choose asks for it.")
    named = [each for each in candidates if each.name.lower() == wanted]
    named = named or [each for each in candidates if str(each.metrics["method"]).lower() == wanted]
    if not named:
        known = ", ".join(each.name for each in candidates) or "none"
        raise UserError(f"--choose {name}: no finished candidate has that name; choose from {known}")
    taken = max(named, key=lambda each: each.score)
    marked = ", which is destroyed," if is_destroyed(taken, original) else ""
    why = f"{taken.name}{marked} is chosen because --choose asks for {name}; {_numbers(taken, original)}."
    return Choice(taken, why)


def _why(chosen: Candidate, original: Candidate, count: int, passed_over: int) -> str:
    """Return the sentence that says why a candidate was chosen."""
    refused = f" after the guards refused {passed_over} with a higher one" if passed_over else ""
    return (
        f"{chosen.name} is chosen: its score of {chosen.score:.4f} is the highest of {count} candidates{refused} "
        f"(the original's: {original.score:.4f}); {_numbers(chosen, original)}."
    )


def _numbers(chosen: Candidate, original: Candidate) -> str:
    """Return what a user wants to know of a candidate at once."""
    before, after = original.metrics["fit_identified"], chosen.metrics["fit_identified"]
    of_trusted = ""
    if chosen.trusted and original.trusted:
        right, total = chosen.trusted
        of_trusted = (
            f"; it classifies {right} of {total} trusted images correctly (the original: {original.trusted[0]})"
        )
    return (
        f"its {chosen.utility_name} is {chosen.utility:.4f} (the original's: {original.utility:.4f}), and it predicts "
        f"the flagged label for {after:.0%} of the flagged samples (the original: {before:.0%}){of_trusted}"
    )


def is_destroyed(candidate: Candidate, original: Candidate) -> bool:
    """Return whether less than half is left of the original's validation accuracy over guessing.

    Without validation samples, less than half of the agreement with the given labels on retain counts as destroyed.

    Args:
        candidate: Run of an unlearner, or the original itself.
        original: Run that kept the original; `val_majority` in its results is the accuracy of guessing.
    """
    # Results of older versions do not hold it, and those without validation samples have none.
    return lost_margin(candidate.utility, original.utility, original.metrics.get("val_majority", 0.0))


def require_results(original: Candidate | None) -> Candidate:
    """Return the original if it was measured.

    Args:
        original: Run that kept the original; None if the ledger has no entry for it.

    Raises:
        UserError: The run is not in the ledger.
    """
    if original is None:
        raise UserError(
            "the files of cmu_lightning changed while the original was measured: run the same command again"
        )
    return original


def doubts(original: Candidate) -> list[str]:
    """Return warnings that can be given before anything else is run.

    1. The original does not predict the labels that it was trained on: its inputs are not those of its training.
    2. It has not learned the flagged labels: it predicts them no more often than it is wrong anyway, like a model that
       was never trained on them.

    Args:
        original: Run that kept the original.
    """
    found = []
    fit, flagged = original.metrics.get("fit_retain", 1.0), original.metrics.get("fit_identified", 1.0)
    if fit < PLAUSIBLE_FIT:
        found.append(
            f"warning: the original predicts the given label of only {fit:.0%} of the images that are not flagged: "
            "check that mean, std, grey, image_size and the order of the classes are the ones that it was trained with"
        )
    errors = 1 - original.utility
    if flagged <= errors:
        found.append(
            f"there is little to repair: the original predicts the flagged label for only {flagged:.0%} of the flagged "
            f"samples, and it is wrong on {errors:.0%} of other samples anyway, so it has not learned these labels"
        )
    return found


@dataclass(frozen=True)
class Outcome:
    """The result of a repair: what was tried, what was chosen, and why.

    Args:
        original: Run that kept the original unchanged.
        candidates: Runs of unlearners that started from it, in the order of the study.
        chosen: One of them, or the original.
        reason: Why it was chosen, in one sentence.
        failures: Error message by the name of each candidate that could not be run.
        refused: Why the guards refused a candidate with a higher score, by its name.
        not_tried: Names of candidates that were not started because the budget was used up.
        notes: Warnings, and messages that were given before the candidates ran.
    """

    original: Candidate
    candidates: Sequence[Candidate]
    chosen: Candidate
    reason: str
    failures: dict[str, str]
    refused: dict[str, str] = field(default_factory=dict)
    not_tried: Sequence[str] = ()
    notes: Sequence[str] = ()

    def is_scored(self, run: Candidate) -> bool:
        """Return whether the score of a run can be compared with the original's: it has classified trusted images, too.

        With `--choose` only the candidate that is asked for has.

        Args:
            run: The original or a candidate.
        """
        return self.original.trusted is None or run.trusted is not None

    def as_json(self) -> dict[str, Any]:
        """Return the content of `repaired.json`."""
        return {
            "setting": self.original.metrics["setting"],
            "run": str(self.chosen.folder),
            "original_kept": self.chosen is self.original,
            "why": self.reason,
            "original": _reported(self.original),
            "candidates": [
                _reported(candidate, self.is_scored(candidate))
                | {"destroyed": is_destroyed(candidate, self.original)}
                | ({"refused": self.refused[candidate.name]} if candidate.name in self.refused else {})
                for candidate in self.candidates
            ],
            "failed": self.failures,
            "not_tried": list(self.not_tried),
            "notes": list(self.notes),
        }

    def as_table(self) -> Table:
        """Return a table of the original, all candidates, all failures and what was not tried."""
        count = self.original.metrics["deleted"]
        title = f"{self.original.metrics['setting']}: {count} flagged sample{'s' * (count != 1)}"
        table = Table(title=title, title_justify="left")
        runs = (self.original, *self.candidates)
        unused = {"fit_retain" if "val_acc" in self.original.metrics else "val_acc"}
        unused |= {"trusted"} if self.original.trusted is None else set()
        shown = [name for name in COLUMNS if name not in unused]
        table.add_column("")
        for name in shown:
            table.add_column(COLUMNS[name], justify="right", no_wrap=True)
        table.add_column("")
        for run in runs:
            cells = [_cell(run, name) if name != "score" or self.is_scored(run) else "" for name in shown]
            table.add_row(run.name, *cells, self.note(run), style="bold" if run is self.chosen else "")
        for name, message in self.failures.items():
            table.add_row(name, *[""] * len(shown), f"failed: {message}")
        for name in self.not_tried:
            table.add_row(name, *[""] * len(shown), "not tried: no time")
        return table

    def note(self, run: Candidate) -> str:
        """Return what the last column of the table says about a run.

        Args:
            run: The original or a candidate.
        """
        if run is self.chosen:
            return "chosen"
        if is_destroyed(run, self.original):
            return "destroyed"
        # The whole reason, with numbers, is in `repaired.json`.
        return self.refused.get(run.name, "").removeprefix("it ").partition(" (")[0].partition(":")[0]


def _cell(run: Candidate, name: str) -> str:
    """Return a number of a run as the table shows it."""
    if name == "trusted" and run.trusted:
        return "{} of {}".format(*run.trusted)
    value = run.score if name == "score" else run.metrics.get(name)
    return "" if value is None else f"{value:.{1 if name == 'seconds' else 4}f}"


def _reported(run: Candidate, is_scored: bool = True) -> dict[str, Any]:
    """Return what `repaired.json` says about a run."""
    found = {name: run.metrics[name] for name in REPORTED if name in run.metrics}
    of_trusted = {"trusted": {"right": run.trusted[0], "of": run.trusted[1]}} if run.trusted else {}
    scored = {"score": run.score} if is_scored else {}
    return {"name": run.name, "run": str(run.folder)} | found | of_trusted | scored
