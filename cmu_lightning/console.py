"""Messages and progress on stderr: a bar in a terminal, one line every 30 seconds in a log file."""

import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

from lightning_utilities.core.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

T = TypeVar("T")
PAUSE = 30
"""Seconds between two lines of progress in a log file."""


CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Characters that a terminal obeys instead of showing them, except tab and end of line."""


def visible(text: str) -> str:
    r"""Return text with control characters and undecodable bytes of names spelled as in Python.

    Args:
        text: Text that may hold names from elsewhere.

    >>> visible("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    shown = text.encode("utf-8", "backslashreplace").decode()
    return CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", shown)


class PlainConsole(Console):
    """A console that shows text literally: names and paths may contain what rich takes for markup or for an emoji.

    Args:
        options: Arguments of rich's Console.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Return text for the screen; rich calls this for printed lines and for tables with their titles.

        Args:
            text: Text.
            options: Those of rich.
        """
        return super().render_str(visible(text), **options)

    def status(self, status: Any, **options: Any) -> Status:
        """Return a context that shows a status line while some work runs.

        Args:
            status: The line; rich would read markup in it in spite of the console's settings.
            options: Those of rich.
        """
        return super().status(Text(visible(status)) if isinstance(status, str) else status, **options)

    def track(self, parts: Iterable[T], description: str, total: int) -> Iterator[T]:
        """Yield the parts of some work, with a bar that disappears when the work is done.

        Args:
            parts: Parts of the work, in order.
            description: Text next to the bar.
            total: Number of parts.
        """
        text = TextColumn("{task.description}", markup=False)
        left = TimeRemainingColumn(elapsed_when_finished=True)
        with Progress(text, BarColumn(), TaskProgressColumn(), left, console=self, transient=True) as progress:
            yield from progress.track(parts, total, description=visible(description))


def say(line: str) -> None:
    """Print one line on stderr, on rank 0 only.

    Args:
        line: Text without markup.
    """
    if getattr(rank_zero_only, "rank", 0) == 0:  # set by Lightning; without it there is one process
        PlainConsole(stderr=True, soft_wrap=True, highlight=False).print(line)


NOTES: list[str] = []
"""Lines that `say_once` was given in the present run, which stores them with its results."""


def say_once(line: str) -> None:
    """Print one line on stderr, on rank 0 only, the first time that this process is asked to, and note it.

    Args:
        line: Text without markup.
    """
    if line not in NOTES:
        NOTES.append(line)
    _say_once(line)


@cache
def _say_once(line: str) -> None:
    say(line)


def bar(parts: Iterable[T], description: str, total: int) -> Iterable[T]:
    """Yield the parts of some work and show how many of them are done.

    Args:
        parts: Parts of the work, in order.
        description: Text next to the bar.
        total: Number of parts.

    Returns:
        The same parts; on other ranks than the first of a machine without any output.
    """
    # Take the present stderr: the parts themselves may redirect it later.
    console = PlainConsole(file=sys.stderr)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return parts
    if console.is_terminal:
        return console.track(parts, description, total)
    return _print_lines(parts, description, total, console)


def _print_lines(parts: Iterable[T], description: str, total: int, console: PlainConsole) -> Iterator[T]:
    """Yield the parts and print a line with the remaining time every `PAUSE` seconds."""
    begun = printed = time.monotonic()
    for done, part in enumerate(parts, start=1):
        yield part
        now = time.monotonic()
        if now - printed >= PAUSE:
            printed = now
            left = time_left(now - begun, done, total - done)
            console.print(f"{description}: {done} of {total}, {left} left", soft_wrap=True, highlight=False)


def time_left(seconds: float, done: int, remaining: int) -> timedelta:
    """Return the estimated time for the remaining parts, in whole seconds.

    Args:
        seconds: Time that the finished parts took.
        done: Number of finished parts, at least 1.
        remaining: Number of unfinished parts.

    >>> str(time_left(10, 5, 30))
    '0:01:00'
    """
    return timedelta(seconds=round(seconds / done * remaining))
