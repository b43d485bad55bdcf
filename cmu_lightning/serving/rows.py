"""Predictions before and after, as the rows of a table."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.data.loading import Samples
from cmu_lightning.serving.predictions import Classifier, Predictions

Row = dict[str, Any]


def of_data(classifier: Classifier, data: CorruptedDataModule, is_original: bool) -> list[Row]:
    """One row for each sample of S_tr, then one for each validation sample.

    Args:
        classifier: With the networks before and after.
        data: Of the run.
        is_original: Nothing is deleted for an original: all of its S_tr is retain.
    """
    deleted = [not is_original and mark for mark in data.samples.deleted.tolist()]
    training = ["deleted" if mark else "retain" for mark in deleted]
    names = data.names or [""] * len(data.held)
    held = data.held.tolist()
    trained_on = [name for name, out in zip(names, held, strict=True) if not out]
    validated_on = [name for name, out in zip(names, held, strict=True) if out]
    count = len(data.validation.labels)
    return [
        *_of_samples(classifier, data.samples, training, trained_on),
        *_of_samples(classifier, data.validation, ["validation"] * count, validated_on or [""] * count),
    ]


def _of_samples(classifier: Classifier, samples: Samples, splits: list[str], names: list[str]) -> Iterable[Row]:
    if not splits:
        return
    before, after = classifier.samples(samples)
    labels = samples.labels.tolist()
    known = zip(splits, names, labels, _compared(before, after), strict=True)
    for index, (split, name, label, predicted) in enumerate(known):
        yield {"split": split, "index": index, "name": name, "label": label, **predicted}


def of_files(classifier: Classifier, files: Sequence[Path]) -> list[Row]:
    """One row for each image file.

    Args:
        classifier: With the networks before and after.
        files: To classify.
    """
    before, after = classifier.files(files)
    return [{"name": str(file), **row} for file, row in zip(files, _compared(before, after), strict=True)]


def _compared(before: Predictions, after: Predictions) -> Iterable[Row]:
    columns = (field.tolist() for field in (*before, *after))
    for old, old_probability, new, new_probability in zip(*columns, strict=True):
        yield {
            "before": old,
            "before_probability": f"{old_probability:.6f}",
            "after": new,
            "after_probability": f"{new_probability:.6f}",
            "changed": "true" if new != old else "false",
        }


def as_csv(rows: list[Row]) -> str:
    """The text of a CSV file."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
