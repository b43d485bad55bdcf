"""The reader of lists of samples: CSV files of every usual dialect, frames of label issues, and plain text."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cmu_lightning.errors import UserError

IDENTIFIERS = ("name", "index")
"""Columns that identify a sample."""

CORRECTED = "corrected_label"
"""Column of labels with which a person has corrected wrong ones."""

QUALITIES = ("label_quality", "label_score")
"""Columns of cleanlab with the quality of a label: low is bad."""

SUSPICIONS = ("probability", "suggested_label")
"""Columns of `suspects.csv`, which PURE leaves: in the first one high is bad."""

UNNAMED = ("", "unnamed: 0")
"""What pandas calls the column of the row numbers."""

DELIMITERS = ",;\t|"
TRUE, FALSE = ("true", "t", "yes", "y", "1", "1.0"), ("false", "f", "no", "n", "0", "0.0")
SORTED_FROM = 10
"""Number of rows above which sorted scores are no coincidence."""


class Row(NamedTuple):
    """One sample of a list: the number of its line, its name or index, and its other entries."""

    line: int
    entry: str
    is_flagged: bool = True
    corrected: str = ""


def read_text(path: Path) -> str:
    """Return the text of a list in UTF-8, UTF-16 or a western 8-bit encoding, without a byte order mark.

    Args:
        path: Path of the list.

    Raises:
        UserError: The file cannot be read, or is not text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the list {path} cannot be read ({error.strerror}): give discovery.path") from error
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    for encoding in ("utf-16",) if is_utf16 else ("utf-8-sig", "cp1252"):
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        # A binary file may decode as well, but no text contains zero bytes.
        if "\0" not in text:
            return text.replace("\r\n", "\n").replace("\r", "\n")
    raise UserError(f"the list {path} is not text: give a CSV file or one entry per line, in UTF-8")


class ListFile:
    """The rows of a list.

    Args:
        path: Path of the list, for messages.
        text: Its text.
        threshold: Score below which a label is an issue; None takes the rows that the list itself calls issues.
    """

    def __init__(self, path: Path, text: str, threshold: float | None = None) -> None:
        self.path, self.threshold, self.lines = path, threshold, text.splitlines()
        self.first = next((at for at, line in enumerate(self.lines) if line.strip()), 0)
        delimiter = None
        # Excel takes the delimiter from a first line of its own.
        if self.lines and (told := re.fullmatch(r"\s*sep=(.)\s*", self.lines[self.first], re.IGNORECASE)):
            delimiter, self.first = told[1], self.first + 1
        headers = {each: self._cells_of_header(each) for each in ([delimiter] if delimiter else DELIMITERS)}
        self.delimiter = next((each for each, header in headers.items() if _is_known(header)), delimiter or ",")
        self.header = headers[self.delimiter]

    def rows(self, has_names: bool, total: int) -> list[Row]:
        """Return one row for each sample that the list names.

        Args:
            has_names: Whether samples have names; a column of names is preferred to one of indices then.
            total: Number of samples.

        Raises:
            UserError: A line cannot be read, or the list does not say which samples it means or flags.
        """
        if not _is_known(self.header):
            return self._plain_rows()
        rows = list(self._csv_rows())
        flagged, corrected = self._judge(), self._column(CORRECTED)
        identifier, entries = self._entries(rows, has_names, total)
        found = []
        for (line, cells), entry in zip(rows, entries, strict=True):
            if not entry:
                raise UserError(f"{self.location(line)} has no {identifier}: fill it in or remove the line")
            found.append(Row(line, entry, flagged(line, cells), _cell(cells, corrected)))
        return found

    def location(self, line: int) -> str:
        """Return the list and a line, as messages name them.

        Args:
            line: Number of the line.
        """
        return f"{self.path} line {line}"

    def _cells_of_header(self, delimiter: str) -> list[str]:
        """Return the names of the columns if they are separated by a delimiter."""
        try:
            header = next(csv.reader(self.lines[self.first : self.first + 1], delimiter=delimiter), [])
        except csv.Error:
            return []
        return [cell.strip().strip("\"'").lower() for cell in header]

    def _column(self, name: str) -> int | None:
        """Return the place of a column; None if there is none of that name."""
        return self.header.index(name) if name in self.header else None

    def _plain_rows(self) -> list[Row]:
        """Return the lines of plain text that are not empty; the first line is an entry, too."""
        if self.threshold is not None:
            self._by_score(self.threshold)  # which plain text has not
        if self.path.suffix.lower() in (".csv", ".tsv") and any(self.header):
            raise UserError(
                f"{self.location(self.first + 1)} has no column called name or index: give the list a header"
            )
        return [Row(line, entry.strip()) for line, entry in enumerate(self.lines, 1) if entry.strip()]

    def _csv_rows(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows below the header that are not empty, each with the number of the line on which it ends."""
        reader = csv.reader(self.lines[self.first + 1 :], delimiter=self.delimiter)
        try:
            for cells in reader:
                line = reader.line_num + self.first + 1
                if any(cell.strip() for cell in cells[len(self.header) :]):
                    raise UserError(
                        f"{self.location(line)} has more cells than the header has columns: give every sample a line"
                    )
                if any(cell.strip() for cell in cells):
                    yield line, cells
        except csv.Error as error:
            line = reader.line_num + self.first + 1
            raise UserError(f"{self.location(line)} is no line of a CSV file ({error}): correct it") from error

    # ---- Which sample a row identifies ----

    def _entries(self, rows: list[tuple[int, list[str]]], has_names: bool, total: int) -> tuple[str, list[str]]:
        """Return the name of the column that identifies samples, and its entries.

        A frame that was saved without its index has only the order of its rows. This is the order of the samples if no
        row is missing and nobody has sorted the rows.
        """
        for name in IDENTIFIERS if has_names else IDENTIFIERS[::-1]:
            column = self._column(name)
            if column is not None:
                return name, [_cell(cells, column) for _, cells in rows]
        if self.header[0] in UNNAMED:
            return "index", [_cell(cells, 0) for _, cells in rows]
        missing = f"the list {self.path} has no column called name or index"
        if len(rows) != total:
            raise UserError(
                f"{missing}, and {len(rows)} rows for {total} training samples: save it with one of them, or all rows"
            )
        if self._is_sorted(rows):
            raise UserError(
                f"{missing}, and its rows are sorted by {self._score()[1]}, so their order is not that of the samples: "
                "save it with one of them, or as it was made"
            )
        return "index", [str(number) for number in range(total)]

    def _is_sorted(self, rows: list[tuple[int, list[str]]]) -> bool:
        """Return whether the scores of many rows ascend or descend."""
        column, name = self._score()
        if column is None or len(rows) < SORTED_FROM:
            return False
        scores = [self._number(line, cells, column, name) for line, cells in rows]
        return scores[0] != scores[-1] and sorted(scores) in (scores, scores[::-1])

    # ---- Whether a row is flagged ----

    def _judge(self) -> Callable[[int, Sequence[str]], bool]:
        """Return the function that decides whether a row is flagged: by a score, by a verdict, or by its presence.

        Raises:
            UserError: There is a score and no threshold, a threshold and no score, or several verdicts.
        """
        column, name = self._score()
        if self.threshold is not None:
            return self._by_score(self.threshold)
        verdicts = _verdicts(self.header)
        if len(verdicts) > 1 and "is_label_issue" not in verdicts:
            raise UserError(
                f"the list {self.path} has several verdicts, {', '.join(verdicts)}: leave the one that flags samples"
            )
        if verdicts:
            verdict = "is_label_issue" if "is_label_issue" in verdicts else verdicts[0]
            place = self.header.index(verdict)
            return lambda line, cells: self._truth(line, _cell(cells, place), verdict)
        if column is not None:
            side = "below" if name in QUALITIES else "above"
            raise UserError(
                f"the list {self.path} has a score, {name}, and nothing that says which samples are issues: give "
                f"discovery.threshold, {side} which a sample is flagged, or a column is_label_issue"
            )
        return lambda line, cells: True

    def _by_score(self, threshold: float) -> Callable[[int, Sequence[str]], bool]:
        """Return the function that compares the score of a row with the threshold."""
        column, name = self._score()
        if column is None:
            raise UserError(
                f"discovery.threshold={threshold} is of a column {' or '.join(QUALITIES)}, which the list {self.path} "
                "lacks: leave it out, or give the list that column"
            )
        if name in QUALITIES:
            return lambda line, cells: self._number(line, cells, column, name) < threshold
        return lambda line, cells: self._number(line, cells, column, name) > threshold

    def _score(self) -> tuple[int | None, str]:
        """Return the place and the name of the column of scores; None if there is none."""
        of_suspects = SUSPICIONS[:1] if SUSPICIONS[1] in self.header else ()
        name = next((name for name in (*QUALITIES, *of_suspects) if name in self.header), "")
        return self._column(name) if name else None, name

    def _number(self, line: int, cells: Sequence[str], column: int, name: str) -> float:
        """Return a score; with other delimiters than commas, a comma is a decimal one."""
        text = _cell(cells, column)
        try:
            value = float(text if self.delimiter == "," else text.replace(",", "."))
        except ValueError:
            value = float("nan")
        if value != value:
            raise UserError(f"{self.location(line)} has {text!r} as {name}, which is no number: correct it")
        return value

    def _truth(self, line: int, text: str, name: str) -> bool:
        """Return whether a cell means true."""
        if text.lower() not in TRUE + FALSE:
            raise UserError(
                f"{self.location(line)} has {text!r} as {name}, which is neither true nor false: correct it"
            )
        return text.lower() in TRUE


def whole_number(text: str) -> str:
    """Return a whole number without the decimals that programs add if a column has gaps; other text unchanged.

    Args:
        text: Entry of a list.

    >>> whole_number("12.0"), whole_number("12"), whole_number("12.5")
    ('12', '12', '12.5')
    """
    return text.partition(".")[0] if re.fullmatch(r"\d+\.0*", text) else text


def _cell(cells: Sequence[str], column: int | None) -> str:
    """Return a cell without blanks around it; empty where the row or the column ends before."""
    return cells[column].strip() if column is not None and column < len(cells) else ""


def _verdicts(header: list[str]) -> list[str]:
    """Return the columns that state whether a row is an issue, such as `is_label_issue`."""
    return [name for name in header if re.fullmatch(r"is_(\w+_)?issue", name)]


def _is_known(header: list[str]) -> bool:
    """Return whether a header names a column that this reader knows."""
    scores = [*QUALITIES, SUSPICIONS[0]] if SUSPICIONS[1] in header else QUALITIES
    return bool({*IDENTIFIERS, *scores} & {*header} or _verdicts(header))
