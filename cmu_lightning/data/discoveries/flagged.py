"""A list of samples, in a file, that a person or an external detector has flagged."""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from posixpath import isabs, normpath
from unicodedata import normalize

import torch
from torch import Tensor

from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.data.discoveries.list_file import CORRECTED, ListFile, read_text, whole_number
from cmu_lightning.errors import UserError


class Flagged(Discovery):
    """A discovery whose S_f is exactly the samples of a list.

    The list is a CSV file whose header has a column `name` or `index`, or plain text with one entry per line. A name is
    the path of an image, relative to the training folder; an index counts from 0 in the training split as it is stored,
    before validation samples are held out of it.

    Of a frame with a column `is_label_issue`, as cleanlab makes it, the rows that are true are flagged. A frame without
    names and indices has to have a row for every stored training sample, in their order. A column `corrected_label` is
    kept in `corrected`.

    Args:
        path: Path of the list.
        threshold: Score below which a row is flagged, regardless of its other columns: `label_quality` or
            `label_score`, where low is bad. Of `suspects.csv`, which PURE leaves, the `probability` above which it is.

    Example:
        >>> from cmu_lightning.data import Flagged
        >>> Flagged("list.csv").extent
        'path=list.csv'
    """

    corrected: Tensor | None = None
    """Class that the list gives each stored training sample, -1 for none, int64, shape (n,); None if it gives none.

    Set by the data module's `setup`; `corrected[~data.held]` is of S_tr.
    """

    def __init__(self, path: str, threshold: float | None = None) -> None:
        if threshold is not None and not math.isfinite(threshold):
            raise UserError(f"discovery.threshold={threshold} is no number to compare scores with: give another one")
        self.path, self.threshold = Path(path), threshold
        self.total = 0
        self.corrections: dict[int, tuple[int, str]] = {}
        """Line and text of every corrected label, by the index of its sample."""

    @property
    def extent(self) -> str:
        """The argument `path`: the list fixes the size of S_f."""
        return f"path={self.path}"

    def content(self) -> dict[str, str]:
        """Return a digest of the list."""
        return {"path": hashlib.sha256(read_text(self.path).encode()).hexdigest()}

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor:
        """Return the mask of listed samples.

        Args:
            total: Number of stored training samples, validation samples included.
            names: Name of the file of each sample, relative to the training folder; None if samples have no names.

        Returns:
            Bool, shape (total,).

        Raises:
            UserError: The list cannot be read, an entry matches no sample or repeats another one, or the list flags
                none or all of the samples.
        """
        sample_of_name = {name: sample for sample, name in enumerate(names or ())}
        line_of_sample: dict[int, int] = {}
        mask = torch.zeros(total, dtype=torch.bool)
        self.total, self.corrections = total, {}
        for row in ListFile(self.path, read_text(self.path), self.threshold).rows(names is not None, total):
            sample = self._sample(row.line, row.entry, sample_of_name, total)
            if sample in line_of_sample:
                verb, first = "flags" if row.is_flagged else "names", line_of_sample[sample]
                raise UserError(
                    f"{self._location(row.line)} {verb} {row.entry} again, as line {first} did: remove one of them"
                )
            line_of_sample[sample] = row.line
            mask[sample] = row.is_flagged
            if row.corrected:
                self.corrections[sample] = row.line, row.corrected
        if not mask.any():
            raise UserError(f"the list {self.path} flags nothing: give at least one sample")
        if mask.all():
            raise UserError(f"the list {self.path} flags all {total} training samples: leave some to train on")
        return mask

    def check_corrections(self, num_classes: int, classes: Sequence[str] | None) -> None:
        """Set `corrected` from what `flagged` has read.

        Labels are names of classes if all of them are, else numbers of classes.

        Args:
            num_classes: Number of classes.
            classes: Their names; None if they have none.

        Raises:
            UserError: A label is of no class.
        """
        self.corrected = torch.full((self.total,), -1) if self.corrections else None
        numbers = {name: number for number, name in enumerate(classes or ())}
        if not all(label in numbers for _, label in self.corrections.values()):
            numbers = {str(number): number for number in range(num_classes)}
        for sample, (line, label) in self.corrections.items():
            number = numbers.get(label, numbers.get(whole_number(label)))
            if number is None:
                names = f", or all of them by name, such as {classes[0]!r}" if classes else ""
                raise UserError(
                    f"{self._location(line)} has {label!r} as {CORRECTED}, which is no class: give numbers from 0 to "
                    f"{num_classes - 1}{names}"
                )
            assert self.corrected is not None
            self.corrected[sample] = number

    def _sample(self, line: int, entry: str, sample_of_name: dict[str, int], total: int) -> int:
        """Return the index of the sample that an entry names.

        Args:
            line: Number of the entry's line.
            entry: A name or an index.
            sample_of_name: Index of each named sample.
            total: Number of samples.

        Raises:
            UserError: The entry names no sample.
        """
        # Some programs quote every name. Windows writes backslashes; macOS decomposes accents, others compose them.
        bare = entry[1:-1] if len(entry) > 1 and entry[0] == entry[-1] and entry[0] in "\"'" else entry
        spellings = (entry, bare, bare.replace("\\", "/"), normalize("NFC", bare), normalize("NFD", bare))
        name = next((name for name in map(normpath, spellings) if name in sample_of_name), entry)
        if name in sample_of_name:
            return sample_of_name[name]
        location, number = self._location(line), whole_number(bare)
        if number.isdecimal():
            # Python refuses to convert thousands of digits; the check of the length catches these.
            if len(number.lstrip("0")) > len(str(total)) or int(number) >= total:
                raise UserError(
                    f"{location} has index {entry}, but the training samples are 0 to {total - 1}: correct it"
                )
            return int(number)
        if not sample_of_name:
            raise UserError(f"{location} has {entry!r}, which is no index: these data have no names, give indices")
        example = next(iter(sample_of_name))
        if isabs(entry) or normpath(entry).startswith(".."):
            problem = "is a full path" if isabs(entry) else "leaves the training folder"
            raise UserError(
                f"{location} has {entry!r}, which {problem}: give names relative to the training folder, such as "
                f"{example!r}"
            )
        raise UserError(f"{location} has {entry!r}, which is no training image: give names such as {example!r}")

    def _location(self, line: int) -> str:
        """Return the list and the line, as messages name them."""
        return f"{self.path} line {line}"
