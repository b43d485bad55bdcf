"""A list of samples, in a file, that a person or an external detector has flagged."""

import csv
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from posixpath import isabs, normpath
from unicodedata import normalize

import torch
from torch import Tensor

from cmu_lightning.data.discoveries.base import Discovery
from cmu_lightning.errors import UserError

COLUMNS = ("name", "index")
"""Columns of a CSV file that identify a sample."""


class Flagged(Discovery):
    """A discovery whose S_f is exactly the samples of a list.

    The list is a CSV file whose header has a column `name` or `index`, or plain text with one entry per line. A name is
    the path of an image, relative to the training folder; an index counts from 0 in the training split as it is stored,
    before validation samples are held out of it.

    Args:
        path: Path of the list.

    Example:
        >>> from cmu_lightning.data import Flagged
        >>> Flagged("list.csv").extent
        'path=list.csv'
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    @property
    def extent(self) -> str:
        """The argument `path`: the list fixes the size of S_f."""
        return f"path={self.path}"

    def content(self) -> dict[str, str]:
        """Return a digest of the list."""
        return {"path": hashlib.sha256(self._text().encode()).hexdigest()}

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
        for line, entry in self._entries(names is not None):
            sample = self._sample(line, entry, sample_of_name, total)
            if sample in line_of_sample:
                first = line_of_sample[sample]
                raise UserError(f"{self._location(line)} flags {entry} again, as line {first} did: remove one of them")
            line_of_sample[sample] = line
        if not line_of_sample:
            raise UserError(f"the list {self.path} flags nothing: give at least one sample")
        if len(line_of_sample) == total:
            raise UserError(f"the list {self.path} flags all {total} training samples: leave some to train on")
        mask = torch.zeros(total, dtype=torch.bool)
        mask[list(line_of_sample)] = True
        return mask

    def _text(self) -> str:
        """Read the list, without a byte order mark."""
        try:
            return self.path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"the list {self.path} cannot be read ({error.strerror}): give discovery.path") from error
        except UnicodeDecodeError as error:
            raise UserError(f"the list {self.path} is not text: give a CSV file or one entry per line") from error

    def _entries(self, has_names: bool) -> Iterator[tuple[int, str]]:
        """Yield the number of each line that is not empty, and its entry.

        Args:
            has_names: Whether samples have names; a column of names is preferred to one of indices then.

        Raises:
            UserError: A line of a CSV file lacks its entry, or a header lacks both columns.
        """
        text = self._text().splitlines()
        reader = self._csv_rows(text)
        header = [cell.strip().lower() for cell in next(reader, (1, []))[1]]
        columns = [column for column in (COLUMNS if has_names else COLUMNS[::-1]) if column in header]
        # Plain text: the first line is an entry, too.
        if not columns:
            if self.path.suffix.lower() == ".csv" and header:
                raise UserError(f"{self._location(1)} has no column called name or index: give the list a header")
            yield from ((line, entry.strip()) for line, entry in enumerate(text, 1) if entry.strip())
            return
        # CSV: the preferred column holds the entries.
        column = header.index(columns[0])
        for line, cells in reader:
            if not any(cell.strip() for cell in cells):
                continue
            if any(cell.strip() for cell in cells[len(header) :]):
                raise UserError(
                    f"{self._location(line)} has more cells than the header has columns: give every sample a line"
                )
            if len(cells) <= column or not cells[column].strip():
                raise UserError(f"{self._location(line)} has no {columns[0]}: fill it in or remove the line")
            yield line, cells[column].strip()

    def _csv_rows(self, text: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows of a CSV file, each with the number of the line on which it ends."""
        reader = csv.reader(text)
        try:
            yield from ((reader.line_num, cells) for cells in reader)
        except csv.Error as error:
            raise UserError(
                f"{self._location(reader.line_num)} is no line of a CSV file ({error}): correct it"
            ) from error

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
        # Windows writes backslashes; macOS decomposes accents, which other systems compose.
        spellings = (entry, entry.replace("\\", "/"), normalize("NFC", entry), normalize("NFD", entry))
        name = next((name for name in map(normpath, spellings) if name in sample_of_name), entry)
        if name in sample_of_name:
            return sample_of_name[name]
        location = self._location(line)
        if entry.isdecimal():
            # Python refuses to convert thousands of digits; the length settles these.
            if len(entry.lstrip("0")) > len(str(total)) or int(entry) >= total:
                raise UserError(
                    f"{location} has index {entry}, but the training samples are 0 to {total - 1}: correct it"
                )
            return int(entry)
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
