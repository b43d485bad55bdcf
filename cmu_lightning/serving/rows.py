"""Predictions before and after, as the rows of a table."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.data.samples import Samples
from cmu_lightning.serving.predictions import Classifier, Predictions

Row = dict[str, Any]


def of_data(classifier: Classifier, data: CorruptedDataModule, is_original: bool) -> list[Row]:
    """One row for each sample of S_tr, then one for each validation sample.

    Args:
        classifier: With the networks before and after.
        data: Data of the run.
        is_original: Nothing is deleted for an original: all of its S_tr is retain.
    """
    deleted = [not is_original and mark for mark in data.samples.deleted.tolist()]
    training = ["deleted" if mark else "retain" for mark in deleted]
    trained, validated = torch.nonzero(~data.held).flatten().tolist(), data.validated.tolist()
    names = data.names if data.held.any() else data.validation_names
    return [
        *_of_samples(classifier, data, data.samples, training, trained, data.names),
        *_of_samples(classifier, data, data.validation, ["validation"] * len(validated), validated, names),
    ]


def _of_samples(
    classifier: Classifier,
    data: CorruptedDataModule,
    samples: Samples,
    splits: list[str],
    rows: list[int],
    names: list[str] | None,
) -> Iterable[Row]:
    if not splits:
        return
    before, after = classifier.samples(samples)
    labels = samples.given_labels.tolist()
    for split, row, label, predicted in zip(splits, rows, labels, _compared(before, after), strict=True):
        name = names[row] if names else ""
        yield _named({"split": split, "index": row, "name": name, "label": label, **predicted}, data.classes)


def of_files(classifier: Classifier, files: Sequence[Path]) -> list[Row]:
    """One row for each image file.

    Args:
        classifier: With the networks before and after.
        files: To classify.
    """
    before, after = classifier.files(files)
    compared = zip(files, _compared(before, after), strict=True)
    return [_named({"name": str(file), **row}, classifier.data.classes) for file, row in compared]


def _named(row: Row, classes: list[str] | None) -> Row:
    """With the names of classes at its end, if they have names."""
    if classes is None:
        return row
    return row | {f"{key}_class": classes[row[key]] for key in ("label", "before", "after") if key in row}


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
