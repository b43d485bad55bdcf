"""A table of a report, written as CSV, Markdown and LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cmu_lightning.escaping import csv_cell, markdown
from cmu_lightning.files import write_atomically
from cmu_lightning.report.aggregate import Spread

DIFFERS = "paper differs in"
"""The column that states why the paper's numbers are missing from a row."""

ENDINGS = ("csv", "md", "tex")


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: Name of its files, without suffix.
        title: Its title.
        note: How its numbers are computed.
        frame: Cells, of which a `Spread` is shown as mean ± std; None is a gap.
        digits: After the decimal point in text; the CSV has all digits.
        rule: The rule that chose the runs behind its numbers; None if none did.
    """

    name: str
    title: str
    note: str
    frame: pd.DataFrame
    digits: int = 3
    rule: str | None = None

    def flat(self) -> pd.DataFrame:
        """Return the table with all digits, as the CSV has it: a spread is three columns, and the rule is one."""
        columns: dict[str, list[Any]] = {}
        for heading, cells in self.frame.items():
            own = list(cells)
            if any(isinstance(cell, Spread) for cell in own):
                triples = [cell if isinstance(cell, Spread) else (cell, None, None) for cell in own]
                for part, values in zip(Spread._fields, zip(*triples, strict=True), strict=True):
                    columns[f"{heading} {part}"] = list(values)
            else:
                columns[str(heading)] = own
        if self.rule is not None:
            columns["rule"] = [self.rule] * len(self.frame)
        return pd.DataFrame(columns, dtype=object)

    def shown(self) -> tuple[pd.DataFrame, list[bool]]:
        """Return the table as formatted text without empty columns, and which of its columns hold numbers."""
        frame = _with_heading_on_the_paper(self.frame) if DIFFERS in self.frame else self.frame
        # What no run measured needs no column; an empty one of the paper's states why it is empty.
        empty = [name for name in frame if frame[name].isna().all() and not str(name).startswith("paper")]
        frame = frame.drop(columns=empty if len(frame) else [])
        numbers = [any(not isinstance(cell, str | bool | None) for cell in cells) for _, cells in frame.items()]
        return frame.map(self.text), numbers

    @property
    def caption(self) -> str:
        """The note, with the rule that chose the runs."""
        return self.note if self.rule is None else f"{self.note} Hyperparameters: chosen by the rule {self.rule}."

    def text(self, cell: Any) -> str:
        """Return a cell as formatted text.

        Args:
            cell: A cell of the frame.
        """
        if cell is None or cell is pd.NA:
            return "–"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, Spread):
            digits = self._digits(cell.mean)
            return f"{cell.mean:,.{digits}f}" + ("" if cell.std is None else f" ± {cell.std:,.{digits}f}")
        return cell if isinstance(cell, str) else f"{cell:,.{self._digits(cell)}f}"

    def _digits(self, number: float) -> int:
        return 0 if isinstance(number, int) or abs(number) >= 1000 else self.digits


def table(
    name: str, title: str, note: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], **more: Any
) -> Table:
    """Return a table from its rows.

    Args:
        name: Name of its files.
        title: Its title.
        note: How its numbers are computed.
        columns: Headings.
        rows: Cells, as many as columns in each row.
        **more: `digits` and `rule` of `Table`.
    """
    cells = {heading: pd.Series([row[at] for row in rows], dtype=object) for at, heading in enumerate(columns)}
    return Table(name, title, note, pd.DataFrame(cells), **more)


def _with_heading_on_the_paper(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose heading states how the paper's setting differs, if that is the same for all rows."""
    reasons = set(frame[DIFFERS])
    if len(reasons) != 1:
        return frame
    (reason,) = reasons
    shorter = frame.drop(columns=DIFFERS)
    if reason is None:
        return shorter
    ours = [heading for heading in map(str, frame) if heading.startswith("paper") and heading != DIFFERS]
    return shorter.rename(columns={heading: f"{heading} (none: {reason})" for heading in ours})


def write(made: Table, folder: Path) -> None:
    """Write a table's three files.

    Args:
        made: The table.
        folder: Folder of the files.
    """
    write_atomically(folder / f"{made.name}.csv", as_csv(made))
    write_atomically(folder / f"{made.name}.md", as_markdown(made))
    write_atomically(folder / f"{made.name}.tex", as_latex(made))


def as_csv(made: Table) -> str:
    """Return a table as CSV with all digits.

    Args:
        made: The table.
    """
    return str(without_formulas(made.flat()).to_csv(index=False, lineterminator="\n"))


def without_formulas(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame for a CSV file, without names that a spreadsheet would calculate.

    Args:
        frame: Columns of numbers keep their types.
    """
    columns = {
        csv_cell(str(heading)): cells
        if pd.api.types.is_numeric_dtype(cells)
        else pd.Series([csv_cell(cell) for cell in cells], index=cells.index, dtype=object)
        for heading, cells in frame.items()
    }
    return pd.DataFrame(columns, index=frame.index)


def as_markdown(made: Table) -> str:
    """Return a table as Markdown with its title and note.

    Args:
        made: The table.
    """
    frame, numbers = made.shown()
    sides = ["---:" if number else "---" for number in numbers]
    head, *rows = [[markdown(cell) for cell in line] for line in ([*frame], *frame.to_numpy().tolist())]
    body = "\n".join(f"| {' | '.join(line)} |" for line in (head, sides, *rows))
    return f"**{made.title}**\n\n{body}\n\n{made.caption}\n"


def as_latex(made: Table) -> str:
    r"""Return a table as a LaTeX `table` environment, which needs `\usepackage{booktabs}`.

    Args:
        made: The table.
    """
    frame, numbers = made.shown()
    sides = "".join("r" if number else "l" for number in numbers)
    head = " & ".join(_latex(str(heading)) for heading in frame)
    body = "\n".join(" & ".join(map(_latex, line)) + r" \\" for line in frame.to_numpy().tolist())
    return (
        f"\\begin{{table}}\n\\caption{{{_latex(f'{made.title}. {made.caption}')}}}\n"
        f"\\begin{{tabular}}{{{sides}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _latex(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text)
