"""A bar for long work outside of a stage."""

import os
import sys
from collections.abc import Iterable
from typing import TypeVar

from rich.console import Console
from rich.progress import track

T = TypeVar("T")


def bar(parts: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The parts, with a bar in a terminal until they are done; a log file, or another process, gets none.

    Args:
        parts: Of the work.
        what: Beside the bar.
        total: How many they are.
    """
    console = Console(file=sys.stderr)  # the one of now, wherever the parts send what they say
    silent = not console.is_terminal or os.environ.get("LOCAL_RANK", "0") != "0"
    return track(parts, what, total, console=console, transient=True, disable=silent)
