"""Names from outside (classes, files, settings) in formats in which some characters have a meaning."""

import re
from typing import Any

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""Beginnings of a cell that a spreadsheet takes for a formula, full-width ones too."""


def csv_cell(cell: Any) -> Any:
    """Return a cell of a CSV file, with an apostrophe in front of a text that a spreadsheet would calculate.

    Args:
        cell: Text or anything else; numbers stay unchanged, also as text.

    >>> [csv_cell(cell) for cell in ("=1+1", "cat", "-0.5", -0.5)]
    ["'=1+1", 'cat', '-0.5', -0.5]
    """
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) and not _is_number(cell) else cell


def csv_file_name(name: Any) -> Any:
    """Return the name of a file as a cell of a CSV file; an added prefix leaves it a path of the same file.

    Args:
        name: Relative or absolute path, or an index.

    >>> [csv_file_name(name) for name in ("=1+1/a.png", "cat/a.png", 7)]
    ['./=1+1/a.png', 'cat/a.png', 7]
    """
    return f"./{name}" if isinstance(name, str) and name.startswith(FORMULA) else name


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return text == text.strip()


def markdown(text: Any) -> str:
    r"""Return text that Markdown shows literally, in a table too: no HTML, no link or image, no other column or line.

    Args:
        text: What is shown.

    >>> markdown("<b>|x|")
    '&lt;b>\\|x\\|'
    """
    shown = re.sub(r"\s*[\r\n]\s*", " ", str(text)).replace("\\", "\\\\")
    shown = re.sub(r"&(?=#?\w+;)", "&amp;", shown).replace("<", "&lt;")
    return shown.replace("|", "\\|").replace("](", "]\\(")


def markdown_code(text: Any) -> str:
    """Return a code span of Markdown that shows text literally, in a table too.

    Args:
        text: What is shown.

    >>> markdown_code("a`b")
    '`` a`b ``'
    """
    shown = re.sub(r"\s*[\r\n]\s*", " ", str(text)).replace("|", "\\|")
    # A span ends at as many backticks as it begins with, so it begins with more than any run within.
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{shown}{fence}" if fence == "`" else f"{fence} {shown} {fence}"
