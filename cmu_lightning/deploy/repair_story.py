"""The text of the page that `repair` writes: the result of a repair in sentences and numbers."""

from typing import NamedTuple

from cmu_lightning.deploy.choice import Outcome
from cmu_lightning.deploy.findings import SUSPECTS_FILE, Findings, wilson

NAMED = 10
"""Classes that a sentence names at most."""


def percent(fraction: float) -> str:
    """Return a fraction in percent.

    Args:
        fraction: Between 0 and 1.

    >>> percent(0.975), percent(1)
    ('97.5%', '100.0%')
    """
    return f"{fraction:.1%}"


def share(right: int, total: int) -> str:
    """Return a fraction in percent with Wilson's interval.

    Args:
        right: Number of samples that count.
        total: Number of all samples, at least 1.

    >>> share(39, 40)
    '97.5% (87.1 to 99.6)'
    """
    low, high = wilson(right, total)
    return f"{percent(right / total)} ({100 * low:.1f} to {100 * high:.1f})"


def count(number: int, noun: str) -> str:
    """Return a number with its noun.

    Args:
        number: How many.
        noun: In the singular.

    >>> count(1, "image"), count(1200, "image"), count(2, "class")
    ('1 image', '1,200 images', '2 classes')
    """
    plural = "es" if noun.endswith("s") else "s"
    return f"{number:,} {noun}{plural * (number != 1)}"


class Tally(NamedTuple):
    """Numbers of images that the sentences use.

    Args:
        validation: Validation images.
        right_before: Of these, those that the original classifies correctly.
        right_after: Of these, those that the chosen model classifies correctly.
        flagged: Flagged images.
        fit_before: Of these, those for which the original predicts the flagged label.
        fit_after: Of these, those for which the chosen model predicts it.
        others: Training images that are not flagged.
        changed: Of these, those for which the two predictions differ.
        gained: Of the changed, those that now get their given label.
        lost: Of the changed, those that got it before.
    """

    validation: int
    right_before: int
    right_after: int
    flagged: int
    fit_before: int
    fit_after: int
    others: int
    changed: int
    gained: int
    lost: int

    @classmethod
    def of(cls, findings: Findings) -> "Tally":
        """Return the numbers.

        Args:
            findings: The samples and the predictions for them.
        """
        flagged, changed = findings.flagged, findings.changed
        before, after = (each.classes == findings.labels for each in (findings.before, findings.after))
        return cls(
            validation=sum(each.total for each in findings.classes),
            right_before=sum(each.before for each in findings.classes),
            right_after=sum(each.after for each in findings.classes),
            flagged=int(flagged.sum()),
            fit_before=int((before & flagged).sum()),
            fit_after=int((after & flagged).sum()),
            others=int((~flagged).sum()),
            changed=len(changed),
            gained=int(after[changed].sum()),
            lost=int(before[changed].sum()),
        )


def facts(outcome: Outcome, findings: Findings) -> list[tuple[str, str]]:
    """Return the numbers at the top of the page, each with what it is of.

    Args:
        outcome: What was tried and chosen.
        findings: The samples and the predictions for them.
    """
    tally, is_kept = Tally.of(findings), outcome.chosen is outcome.original
    said = []
    if tally.validation:
        before, after = (percent(right / tally.validation) for right in (tally.right_before, tally.right_after))
        accuracy = before if is_kept else f"{before} → {after}"
        said.append((accuracy, f"accuracy on {count(tally.validation, 'validation image')}"))
    fit = f"{tally.fit_before:,}" if is_kept else f"{tally.fit_before:,} → {tally.fit_after:,}"
    said.append((fit, f"of {count(tally.flagged, 'flagged image')} get the flagged label"))
    if not is_kept:
        said.append((f"{tally.changed:,}", f"of {count(tally.others, 'other training image')} have another prediction"))
    if findings.suspicions is not None:
        said.append((f"{len(findings.suspects):,}", "further suspects, found by PURE"))
    return said


def story(outcome: Outcome, findings: Findings) -> list[str]:
    """Return what the choice means, in sentences.

    Args:
        outcome: What was tried and chosen.
        findings: The samples and the predictions for them.
    """
    tally, is_kept = Tally.of(findings), outcome.chosen is outcome.original
    said = []
    if tally.validation:
        now = "" if is_kept else f", the repaired model {share(tally.right_after, tally.validation)}"
        said.append(
            f"The original classifies {share(tally.right_before, tally.validation)} of "
            f"{count(tally.validation, 'validation image')} correctly{now}."
        )
    flagged = (
        f"The original predicts the flagged label for {tally.fit_before:,} of {count(tally.flagged, 'flagged image')}"
    )
    if outcome.original.trusted:
        now = f", the repaired model {share(*outcome.chosen.trusted)}" if outcome.chosen.trusted and not is_kept else ""
        images = count(outcome.original.trusted[1], "trusted image")
        said.append(f"The original classifies {share(*outcome.original.trusted)} of {images} correctly{now}.")
    if is_kept:
        return [*said, f"{flagged}."]
    said.append(f"{flagged}, the repaired model for {tally.fit_after:,}.")
    suspects = set(findings.suspects)
    known = sum(row in suspects for row in findings.changed.tolist())
    of_suspects = f" (PURE suspects {known:,} of them)" if known else ""
    said.append(
        f"The repaired model changes the prediction for {tally.changed:,} of "
        f"{count(tally.others, 'other training image')}{of_suspects}: {tally.gained:,} now get their given "
        f"label and {tally.lost:,} no longer do, which is right where that label is wrong."
    )
    return said


def warnings(outcome: Outcome, findings: Findings) -> list[str]:
    """Return what a user should know before using the model, in sentences.

    Args:
        outcome: What was tried and chosen; its `notes` and `not_tried` are included.
        findings: The samples and the predictions for them.
    """
    told = outcome.as_json()
    said = [_sentence(note) for note in told.get("notes", ())]
    if worse := sorted((each for each in findings.classes if each.is_worse), key=lambda each: each.change):
        named = [
            f"{each.name} ({percent(each.before / each.total)} to {percent(each.after / each.total)})" for each in worse
        ]
        have = "class is" if len(worse) == 1 else "classes are"
        said.append(f"{len(worse)} {have} worse by more than noise explains: {_listed(named)}.")
    unknown = [each.name for each in findings.classes if not each.total]
    if len(unknown) == len(findings.classes):
        said.append("There are no validation samples, so no accuracy is known; only given labels are compared.")
    elif unknown:
        have = "has" if len(unknown) == 1 else "have"
        said.append(f"{count(len(unknown), 'class')} {have} no validation samples: {_listed(unknown)}.")
    if outcome.failures:
        said.append(f"{count(len(outcome.failures), 'candidate')} failed: the table says why.")
    if not_tried := [*told.get("not_tried", ())]:
        said.append(f"Not tried for lack of time: {', '.join(not_tried)}.")
    if findings.suspicions is None:
        said.append(f"No candidate wrote {SUSPECTS_FILE}, as PURE does: no search for further bad samples was made.")
    return said


def _sentence(line: str) -> str:
    """Return a line of the screen as a sentence."""
    bare = line.removeprefix("warning: ").removesuffix(".")
    return f"{bare[:1].upper()}{bare[1:]}."


def _listed(names: list[str]) -> str:
    """Return names in a row, of many the first ones."""
    rest = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + rest
