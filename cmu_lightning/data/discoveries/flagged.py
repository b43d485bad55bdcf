"""Samples that somebody, or some detector, has flagged: a list in a file."""

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


class Flagged(Discovery):
    """S_f is exactly what a list says.

    The list is a CSV file whose header has a column `name` or `index`, or plain text with one entry a line. A name is
    of a file, relative to the training folder; an index counts from 0 in the training split as it is stored, before
    validation samples are held out of it.

    Args:
        path: Path of the list.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    @property
    def extent(self) -> str:
        """The list says how large S_f is."""
        return f"path={self.path}"

    def content(self) -> dict[str, str]:
        """A digest of the list."""
        return {"path": hashlib.sha256(self._text().encode()).hexdigest()}

    def flagged(self, total: int, names: Sequence[str] | None) -> Tensor:
        """What the list says; all of it or, if anything is wrong with it, nothing.

        Raises:
            UserError: There is no list, or one of its lines means no sample, or one that was flagged before.
        """
        rows = {name: row for row, name in enumerate(names or ())}
        lines: dict[int, int] = {}
        for line, entry in self._entries(names is not None):
            row = self._row(line, entry, rows, total)
            if row in lines:
                raise UserError(f"{self._at(line)} flags {entry} again, as line {lines[row]} did: take one of them out")
            lines[row] = line
        if not lines:
            raise UserError(f"the list {self.path} flags nothing: give at least one sample")
        if len(lines) == total:
            raise UserError(f"the list {self.path} flags all {total} training samples: nothing is left to go on with")
        mask = torch.zeros(total, dtype=torch.bool)
        mask[list(lines)] = True
        return mask

    def _text(self) -> str:
        try:
            return self.path.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"the list {self.path} cannot be read ({error.strerror}): give discovery.path") from error
        except UnicodeDecodeError as error:
            raise UserError(f"the list {self.path} is not text: give a CSV file or one entry a line") from error

    def _entries(self, named: bool) -> Iterator[tuple[int, str]]:
        """Numbers of lines and what they say; names are preferred where the data have them."""
        text = self._text().splitlines()
        reader = self._read(text)
        header = [field.strip().lower() for field in next(reader, (1, []))[1]]
        preferred = [column for column in (COLUMNS if named else COLUMNS[::-1]) if column in header]
        if not preferred:
            if self.path.suffix.lower() == ".csv" and header:
                raise UserError(f"{self._at(1)} has no column called name or index: give the list a header")
            yield from ((line, entry.strip()) for line, entry in enumerate(text, 1) if entry.strip())
            return
        column = header.index(preferred[0])
        for line, fields in reader:
            if any(field.strip() for field in fields):
                if any(field.strip() for field in fields[len(header) :]):
                    raise UserError(
                        f"{self._at(line)} has more cells than the header has columns: give every sample a line"
                    )
                if len(fields) <= column or not fields[column].strip():
                    raise UserError(f"{self._at(line)} has no {preferred[0]}: fill it in or take it out")
                yield line, fields[column].strip()

    def _read(self, text: list[str]) -> Iterator[tuple[int, list[str]]]:
        """Rows of a CSV file, by the line on which they end."""
        reader = csv.reader(text)
        try:
            yield from ((reader.line_num, fields) for fields in reader)
        except csv.Error as error:
            raise UserError(f"{self._at(reader.line_num)} is no line of a CSV file ({error}): mend it") from error

    def _row(self, line: int, entry: str, rows: dict[str, int], total: int) -> int:
        """Which sample an entry means."""
        spelled = (entry, entry.replace("\\", "/"), normalize("NFC", entry), normalize("NFD", entry))  # Windows, macOS
        name = next((name for name in map(normpath, spelled) if name in rows), entry)
        if name in rows:
            return rows[name]
        if entry.isdecimal():
            if len(entry.lstrip("0")) > len(str(total)) or int(entry) >= total:
                raise UserError(f"{self._at(line)} has index {entry}, but the training samples are 0 to {total - 1}")
            return int(entry)
        if not rows:
            raise UserError(
                f"{self._at(line)} has {entry!r}, which is no index: these data have no names, give indices"
            )
        if isabs(entry) or normpath(entry).startswith(".."):
            what = "is a full path" if isabs(entry) else "leaves the training folder"
            raise UserError(
                f"{self._at(line)} has {entry!r}, which {what}: give names relative to the training folder, such as "
                f"{next(iter(rows))!r}"
            )
        raise UserError(
            f"{self._at(line)} has {entry!r}, which is no training image: give names such as {next(iter(rows))!r}"
        )

    def _at(self, line: int) -> str:
        return f"{self.path} line {line}"
