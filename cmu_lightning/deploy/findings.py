"""Predictions of two networks and PURE's probabilities for each sample: the data of the page that `repair` writes."""

import csv
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from os.path import normpath
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cmu_lightning.errors import UserError
from cmu_lightning.escaping import csv_cell, csv_file_name

if TYPE_CHECKING:
    from torch import Tensor

    from cmu_lightning.data import CorruptedDataModule
    from cmu_lightning.deploy.classifier import Classifier, Predictions

SUSPECTS_FILE = "suspects.csv"
"""File that PURE writes to its run's folder: every training sample, the most suspicious first."""
SUSPICIOUS = 0.5
"""Probability of being manipulated from which on a sample is a suspect."""
Z = 1.959964
"""Quantile of the normal distribution that leaves 2.5% above it."""


def wilson(right: int, total: int) -> tuple[float, float]:
    """Return Wilson's 95% interval of a fraction (Wilson, JASA 1927); from 0 to 1 where nothing was counted.

    Args:
        right: Number of samples that count.
        total: Number of all samples.

    >>> [round(end, 4) for end in wilson(9, 10)]
    [0.5958, 0.9821]
    """
    if not total:
        return 0.0, 1.0
    fraction, weight = right / total, Z**2 / total
    centre = fraction + weight / 2
    half = Z * math.sqrt(fraction * (1 - fraction) / total + weight / (4 * total))
    low, high = (centre - half) / (1 + weight), (centre + half) / (1 + weight)
    # At 0 and 1 rounding could leave the fraction just outside.
    return max(0.0, min(fraction, low)), min(1.0, max(fraction, high))


class ClassCounts(NamedTuple):
    """A class: flagged samples, validation samples, and how many of these each network classifies correctly.

    Example:
        >>> ClassCounts("cat", flagged=3, total=50, before=40, after=45).change
        0.1
    """

    name: str
    flagged: int
    total: int
    before: int
    after: int

    @property
    def change(self) -> float:
        """The change of the recall; 0 where there are no validation samples."""
        return (self.after - self.before) / self.total if self.total else 0.0

    @property
    def is_worse(self) -> bool:
        """Whether the recall fell by more than noise explains: the intervals do not overlap."""
        return wilson(self.after, self.total)[1] < wilson(self.before, self.total)[0]


class Suspicion(NamedTuple):
    """How likely a sample is manipulated, and the class that PURE suggests for it; None where it suggests none."""

    probability: float
    suggested: int | None


@dataclass(frozen=True)
class Findings:
    """The training and validation samples of a repair, with the predictions for them.

    Args:
        data: Data of the runs, set up.
        before: Predictions of the original on S_tr, in its order.
        after: Those of the repaired network.
        classes: Counts of every class, in their order.
        suspicions: PURE's result for each sample, by its position in S_tr, the most suspicious first; None if PURE did
            not run.
        suspects_file: File that contains it; None if PURE did not run.
    """

    data: "CorruptedDataModule"
    before: "Predictions"
    after: "Predictions"
    classes: list[ClassCounts]
    suspicions: dict[int, Suspicion] | None = None
    suspects_file: Path | None = None

    @cached_property
    def labels(self) -> "Tensor":
        """The given labels of S_tr, int64, shape (n,)."""
        return self.data.samples.given_labels.cpu()

    @cached_property
    def flagged(self) -> "Tensor":
        """Whether a sample is in S_f, bool, shape (n,)."""
        return self.data.samples.deleted.cpu()

    @cached_property
    def kept(self) -> "Tensor":
        """Positions of the flagged samples that still get their flagged label, the most certain first."""
        rows = (self.flagged & (self.after.classes == self.labels)).nonzero().flatten()
        return rows[self.after.probabilities[rows].argsort(descending=True, stable=True)]

    @cached_property
    def changed(self) -> "Tensor":
        """Positions of samples outside S_f with another prediction, the most confident pairs of predictions first."""
        rows = (~self.flagged & (self.before.classes != self.after.classes)).nonzero().flatten()
        certain = self.before.probabilities[rows].minimum(self.after.probabilities[rows])
        return rows[certain.argsort(descending=True, stable=True)]

    @cached_property
    def suspects(self) -> list[int]:
        """Positions of the samples outside S_f that are more likely manipulated than not, the most likely first."""
        flagged = self.flagged
        found = (self.suspicions or {}).items()
        return [row for row, said in found if said.probability >= SUSPICIOUS and not flagged[row]]

    @cached_property
    def stored(self) -> "Tensor":
        """Positions of S_tr among the stored training samples, which lists count by, int64, shape (n,)."""
        return (~self.data.held).nonzero().flatten()

    def name(self, row: int) -> str | int:
        """Return the name of a sample's file, or the index that a list calls it by.

        Args:
            row: Position in S_tr.
        """
        number = int(self.stored[row])
        return number if self.data.names is None else self.data.names[number]

    def class_name(self, label: int) -> str:
        """Return the name of a class, or its number.

        Args:
            label: The class.
        """
        return str(label) if self.data.classes is None else self.data.classes[label]

    def next_list(self) -> str:
        """Return a list for the next round as a CSV file, which `data.discovery.path` reads: S_f, then the suspects.

        Its rows count as flagged until a person writes `false` under `is_label_issue`.
        """
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        identifier = "index" if self.data.names is None else "name"
        writer.writerow([identifier, "is_label_issue", "status", "probability", "given_label", "suggested_label"])
        listed = [(row, "flagged", 1.0) for row in self.flagged.nonzero().flatten().tolist()]
        said = self.suspicions or {}
        listed += [(row, "suspected", said[row].probability) for row in self.suspects]
        for row, status, probability in listed:
            suggested = said[row].suggested if row in said else None
            labels = self.class_name(int(self.labels[row])), "" if suggested is None else self.class_name(suggested)
            writer.writerow(
                [csv_file_name(self.name(row)), "true", status, f"{probability:.4f}", *map(csv_cell, labels)]
            )
        return text.getvalue()


def gather(classifier: "Classifier", suspects: Path | None) -> Findings:
    """Return what two networks, and PURE if it ran, say about the samples.

    Args:
        classifier: Networks before and after, with the data of their runs.
        suspects: File that PURE wrote; None if it did not run.

    Raises:
        UserError: The file of suspects cannot be read, or lists other samples.
    """
    data = classifier.data
    before, after = classifier.classify_samples(data.samples)
    findings = Findings(data, before, after, _counts(classifier))
    found = None if suspects is None else dict(_read_suspects(suspects, findings))
    return replace(findings, suspicions=found, suspects_file=suspects)


def _counts(classifier: "Classifier") -> list[ClassCounts]:
    """Return the counts of every class."""
    import torch

    data = classifier.data
    flagged = data.samples.given_labels[data.samples.deleted].cpu()
    labels = data.validation.given_labels.cpu()
    right = [torch.zeros_like(labels, dtype=torch.bool)] * 2
    if len(labels):
        right = [predicted.classes == labels for predicted in classifier.classify_samples(data.validation)]
    counted = (flagged, labels, *(labels[each] for each in right))
    counts = zip(*(each.bincount(minlength=data.num_classes).tolist() for each in counted), strict=True)
    names = data.classes or map(str, range(data.num_classes))
    return [ClassCounts(name, *numbers) for name, numbers in zip(names, counts, strict=True)]


def _read_suspects(path: Path, findings: Findings) -> Iterator[tuple[int, Suspicion]]:
    """Yield what PURE says about each sample, by its position in S_tr."""
    rows = {str(findings.name(row)): row for row in range(len(findings.labels))}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for cells in csv.DictReader(file):
                entry = cells["index"] if "index" in cells else cells["name"]
                row = rows[entry] if entry in rows else rows[normpath(entry)]  # `./` protects names from spreadsheets
                suggested = cells["suggested_label"]
                yield row, Suspicion(float(cells["probability"]), int(suggested) if suggested else None)
    except (OSError, UnicodeDecodeError, csv.Error, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): delete the metrics.json next to it, and run the same command again"
        ) from error
