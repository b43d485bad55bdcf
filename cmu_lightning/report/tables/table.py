"""Tables as CSV, Markdown and LaTeX."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmu_lightning.files import write_atomically
from cmu_lightning.report.comparing.summarise import Spread

Cell = str | int | float | bool | Spread | None


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        name: Name of its files, without ending.
        title: What it is.
        note: How its numbers come about.
        columns: Headings.
        rows: Cells, as many as columns; None is a gap.
        digits: After the decimal point, in all but the CSV, which has all of them.
    """

    name: str
    title: str
    note: str
    columns: Sequence[str]
    rows: list[list[Cell]]
    digits: int = 3

    def text(self, cell: Cell) -> str:
        """A cell as a person reads it."""
        if cell is None:
            return "–"
        if isinstance(cell, bool):
            return "yes" if cell else "no"
        if isinstance(cell, Spread):
            digits = self._digits(cell.mean)
            return f"{cell.mean:,.{digits}f}" + ("" if cell.std is None else f" ± {cell.std:,.{digits}f}")
        return cell if isinstance(cell, str) else f"{cell:,.{self._digits(cell)}f}"

    def _digits(self, number: float) -> int:
        return 0 if isinstance(number, int) or abs(number) >= 1000 else self.digits

    def is_number(self, at: int) -> bool:
        """Whether a column holds numbers."""
        return any(not isinstance(row[at], str | bool | None) for row in self.rows)


def write(table: Table, folder: Path) -> None:
    """Write a table's three files."""
    for ending, made in (("csv", as_csv(table)), ("md", as_markdown(table)), ("tex", as_latex(table))):
        write_atomically(folder / f"{table.name}.{ending}", made)


def flat(table: Table) -> list[list[Cell]]:
    """Headings, then rows, with all digits; a mean is three columns, with its standard deviation and its number."""
    wide = [any(isinstance(row[at], Spread) for row in table.rows) for at in range(len(table.columns))]
    lines: list[list[Cell]] = [
        [
            name
            for heading, split in zip(table.columns, wide, strict=True)
            for name in ([f"{heading} {part}" for part in ("mean", "std", "n")] if split else [heading])
        ]
    ]
    for row in table.rows:
        cells: list[Cell] = []
        for cell, split in zip(row, wide, strict=True):
            cells += (cell if isinstance(cell, Spread) else (cell, None, None)) if split else (cell,)
        lines.append(cells)
    return lines


def as_csv(table: Table) -> str:
    """All digits."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(flat(table))
    return out.getvalue()


def as_markdown(table: Table) -> str:
    """With its title and note."""
    lines = [[heading, *(table.text(row[at]) for row in table.rows)] for at, heading in enumerate(table.columns)]
    rows = [[cell.replace("|", "\\|") for cell in row] for row in zip(*lines, strict=True)]
    sides = ["---:" if table.is_number(at) else "---" for at in range(len(table.columns))]
    body = "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], sides, *rows[1:]])
    return f"**{table.title}**\n\n{body}\n\n{table.note}\n"


def as_latex(table: Table) -> str:
    """A `table` environment; needs the package booktabs."""
    sides = "".join("r" if table.is_number(at) else "l" for at in range(len(table.columns)))
    rows = [[_escape(table.text(cell)) for cell in row] for row in table.rows]
    body = "\n".join(f"{' & '.join(row)} \\\\" for row in rows)
    head = " & ".join(_escape(heading) for heading in table.columns)
    return (
        f"\\begin{{table}}\n\\caption{{{_escape(f'{table.title}. {table.note}')}}}\n"
        f"\\begin{{tabular}}{{{sides}}}\n\\toprule\n{head} \\\\\n\\midrule\n{body}\n\\bottomrule\n"
        "\\end{tabular}\n\\end{table}\n"
    )


def _escape(text: str) -> str:
    signs = {"\\": r"\textbackslash{}", "±": r"$\pm$", "–": "--", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    signs |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
    return "".join(signs.get(sign, sign) for sign in text)
