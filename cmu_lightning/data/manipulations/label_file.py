"""Labels of real annotators, read from a file: CSV, an array of numpy, or a file of torch."""

import csv
import hashlib
import io
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cmu_lightning.data.manipulations.base import Manipulation
from cmu_lightning.errors import UserError

DELIMITERS = ",;\t"

NUMBERS = sorted({type(np.dtype(code)) for code in "?bhilqBHILQefd"}, key=lambda kind: kind.__name__)
"""Types of numbers that an array in a file of torch may have."""

RECONSTRUCT = np.empty(0).__reduce__()[0]
"""The function of numpy that makes an empty array, which a pickle then fills."""

ARRAYS: list[Any] = [
    np.ndarray,
    np.dtype,
    *NUMBERS,
    (RECONSTRUCT, "numpy.core.multiarray._reconstruct"),
    (RECONSTRUCT, "numpy._core.multiarray._reconstruct"),
]
"""Everything except tensors that a torch file may name: parts of an array of numbers, before and since numpy 2."""

Columns = dict[str, Any]
"""Columns by name: lists of text, or whatever a file of arrays holds. The name of a file's only array is empty."""


class LabelsFromFile(Manipulation):
    """The labels in a file: human noise as in CIFAR-10N (Wei et al., 2022), or your own annotation study.

    S_m consists of the training samples whose given label differs from the true one. The affected domain consists of
    the classes in which any stored training sample has a wrong label. If these are all classes, `acc_corr` is the
    accuracy on all unseen samples, and `acc_retain` is absent.

    The file has one label for every stored training sample, validation samples included:
      - CSV with a header; a column `name` (path of the image, relative to the training folder) or `index` says which
        sample a row describes; otherwise rows are in the order of the samples. Labels are numbers, or names of classes.
      - A torch file (`.pt`, `.pth`) with a dict of arrays, like CIFAR-10N's. Nothing in it is run.
      - An array or a tensor (`.npy`, `.pt`), which is the requested column.

    Args:
        path: Path of the file.
        given: Column of the labels to train on; null if these are the data's own labels, as in Clothing1M.
        truth: Column of the true classes; null if these are the data's own labels. If both are given, one of them
            must equal the data's own labels, so that a file of other samples is noticed.
        seed: Without effect: nothing is drawn.

    Example:
        >>> import numpy, tempfile, torch
        >>> path = tempfile.mkdtemp() + "/labels.npy"
        >>> numpy.save(path, [2, 1, 2])
        >>> noise = LabelsFromFile(path)
        >>> noise.num_classes, noise.exposed = 3, torch.tensor([True, True, True])
        >>> stored = noise.true_labels(torch.tensor([0, 1, 2]), None, None)
        >>> noise.select(stored), noise.affected(stored)
        (tensor([0]), tensor([ True, False, False]))
    """

    given_labels: Tensor
    """Labels to train on of all stored training samples, int64, shape (n,); set by `true_labels`, as the following."""
    classes_of_samples: Tensor
    """Their true classes, likewise."""
    relabelled: Tensor
    """Labels of S_m, in the order of `select`, which sets them."""

    def __init__(
        self, path: str, given: str | None = "given_label", truth: str | None = None, seed: int | None = None
    ) -> None:
        if given is None and truth is None:
            raise UserError("manipulation.given and manipulation.truth are both null: name a column of labels")
        if given == truth:
            raise UserError(f"manipulation.given and manipulation.truth are both {given}: set one of them to null")
        self.path = Path(path)
        self.given, self.truth = given, truth
        self.seed = 0 if seed is None else seed

    def content(self) -> dict[str, str]:
        """Return a digest of the file."""
        return {"path": hashlib.sha256(self._bytes()).hexdigest()}

    def _bytes(self) -> bytes:
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise UserError(
                f"the labels {self.path} cannot be read ({error.strerror}): give data.manipulation.path"
            ) from error

    def true_labels(self, labels: Tensor, names: Sequence[str] | None, classes: Sequence[str] | None) -> Tensor:
        """Return the true classes, and keep the given labels.

        Args:
            labels: The data's own labels of all stored training samples, shape (n,).
            names: Name of the file of each sample, relative to the training folder; None if samples have no names.
            classes: Names of the classes; None if they have none.

        Returns:
            Shape (n,).

        Raises:
            UserError: The file lacks a column, has not one label for every sample, or one of no class; or neither of
                two columns is the data's own labels.
        """
        columns = read_columns(self.path, self._bytes())
        rows = _rows_of_samples(self.path, columns, len(labels), names)
        found = {}
        for column in filter(None, (self.given, self.truth)):
            values = self._column(columns, column)
            if len(values) != len(labels):
                raise UserError(
                    f"the labels {self.path} are {len(values)}, and the stored training samples {len(labels)}: give "
                    "one label for each, validation samples included"
                )
            found[column] = self._classes(column, values, classes)[rows]
        self.given_labels = labels if self.given is None else found[self.given]
        self.classes_of_samples = labels if self.truth is None else found[self.truth]
        if len(found) == 2 and not any(torch.equal(labels, each) for each in found.values()):
            differ = int((labels != self.classes_of_samples).sum())
            raise UserError(
                f"{self.truth} of {self.path} differs from the labels of these data at {differ:,} of {len(labels):,} "
                f"samples, and {self.given} differs too: give the file of these data in their order"
            )
        return self.classes_of_samples

    def _column(self, columns: Columns, name: str) -> Sequence[Any] | np.ndarray:
        """Return the labels of a column; the only one of a file without names, if one is asked for."""
        if "" in columns and len(columns) == 1:
            if self.given is not None and self.truth is not None:
                raise UserError(
                    f"the labels {self.path} are one array, not the columns {self.given} and {self.truth}: set "
                    "data.manipulation.truth to null if they are the given ones, else data.manipulation.given"
                )
            name = ""
        if name not in columns:
            raise UserError(f"{self.path} has no column {name}: its columns are {', '.join(columns) or 'none'}")
        values = columns[name]
        return values if isinstance(values, list) else _integers(self.path, name, values)

    def _classes(self, name: str, values: Sequence[Any] | np.ndarray, classes: Sequence[str] | None) -> Tensor:
        """Return labels as numbers of classes, int64, shape (n,)."""
        numbers = {text: number for number, text in enumerate(classes or ())}
        if not all(str(value) in numbers for value in values):
            numbers = {str(number): number for number in range(self.num_classes)}
        wrong = next((at for at, value in enumerate(values) if str(value) not in numbers), None)
        if wrong is not None:
            by_name = f", or all of them by name, such as {classes[0]!r}" if classes else ""
            raise UserError(
                f"{self.path} has {str(values[wrong])!r} as {name} of sample {wrong}, which is no class: give numbers "
                f"from 0 to {self.num_classes - 1}{by_name}"
            )
        return torch.tensor([numbers[str(value)] for value in values])

    def select(self, labels: Tensor) -> Tensor:
        """Select the samples whose given label is wrong.

        Args:
            labels: True classes of the samples that are exposed, shape (n,).

        Returns:
            Their indices, ascending, shape (|S_m|,).

        Raises:
            UserError: No label is wrong.
        """
        given = self.given_labels[self.exposed]
        chosen = torch.nonzero(given != labels).flatten()
        if not len(chosen):
            raise UserError(
                f"no label of {self.path} is wrong, so nothing is manipulated: give other columns as "
                "data.manipulation.given and data.manipulation.truth"
            )
        self.relabelled = given[chosen]
        return chosen

    def relabel(self, labels: Tensor) -> Tensor:
        """Return the given labels of S_m."""
        return self.relabelled

    def affected(self, labels: Tensor) -> Tensor:
        """Select the samples of classes of which any training sample has a wrong label."""
        wrong = torch.unique(self.classes_of_samples[self.given_labels != self.classes_of_samples])
        return torch.isin(labels, wrong.to(labels.device))

    def unaffected(self, labels: Tensor) -> Tensor:
        """Select the samples of all other classes."""
        return ~self.affected(labels)


def read_columns(path: Path, content: bytes) -> Columns:
    """Return the columns of a file of labels; those of a CSV file as text.

    Args:
        path: Path of the file, whose suffix gives its format.
        content: Its bytes.

    Raises:
        UserError: It is no such file.
    """
    ending = path.suffix.lower()
    try:
        if ending == ".npy":
            found = {"": np.load(io.BytesIO(content), allow_pickle=False)}
        elif ending in (".pt", ".pth"):
            # Of the functions that the file names, only those that build tensors and arrays of numbers are called.
            with torch.serialization.safe_globals(ARRAYS):
                held = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
            found = held if isinstance(held, dict) else {"": held}
        else:
            return dict(_csv_columns(path, content))
    except pickle.UnpicklingError as error:
        raise UserError(
            f"the labels {path} cannot be read, because the file is damaged or holds more than tensors and arrays of "
            "numbers: save a dict of arrays, as CIFAR-10N's, or a CSV file"
        ) from error
    except (ValueError, RuntimeError, EOFError, TypeError) as error:
        first = str(error).strip().partition("\n")[0]
        raise UserError(f"the labels {path} cannot be read ({first}): save an array of whole numbers") from error
    return {str(name): values for name, values in found.items()}


def _integers(path: Path, name: str, values: Any) -> np.ndarray:
    """Return a column of labels as an array; refuse anything but integers in one row."""
    array = values.numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        where = f"{path}: {name}" if name else f"{path}"
        raise UserError(
            f"the labels {where} have shape {array.shape} and type {array.dtype}: give one whole number for each sample"
        )
    return array


def _csv_columns(path: Path, content: bytes) -> Iterator[tuple[str, list[str]]]:
    """Yield the name and the cells of each column, without blanks around them."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"the labels {path} are no text in UTF-8 ({error}): save them as such") from error
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=first.count)
    lines = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if any(map(str.strip, row))]
    if not lines:
        raise UserError(f"the labels {path} are empty: give a header and a row for every sample")
    header, *rows = lines
    for at, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(
                f"row {at} of the labels {path} has {len(row)} cells, and the header {len(header)}: give every sample "
                "one row and every column one cell"
            )
    for place, name in enumerate(header):
        yield name.strip(), [row[place].strip() for row in rows]


def _rows_of_samples(path: Path, columns: Columns, total: int, names: Sequence[str] | None) -> Tensor:
    """Return the row of each stored training sample, int64, shape (n,); ascending where rows are not identified."""
    key = next((name for name in ("name", "index") if name in columns and (name == "index" or names)), None)
    if key is None:
        return torch.arange(total)
    known = {name: at for at, name in enumerate(names or ())} if key == "name" else {str(at): at for at in range(total)}
    rows = torch.full((total,), -1)
    for row, entry in enumerate(columns[key]):
        sample = known.get(str(entry).replace("\\", "/"))
        if sample is None:
            raise UserError(
                f"{path} has {str(entry)!r} as {key} in row {row + 1}, which is no training sample: give all of them, "
                f"such as {next(iter(known), '0')!r}"
            )
        if rows[sample] >= 0:
            first = int(rows[sample]) + 1
            raise UserError(f"{path} has {str(entry)!r} as {key} in rows {first} and {row + 1}: remove one of them")
        rows[sample] = row
    if (rows < 0).any():
        lacking = int(torch.nonzero(rows < 0)[0])
        name = names[lacking] if key == "name" and names else f"index {lacking}"
        raise UserError(
            f"the labels {path} are of {len(columns[key])} of {total} stored training samples, and lack {name}: give "
            "one label for each, validation samples included"
        )
    return rows
