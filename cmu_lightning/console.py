"""Messages and progress on stderr: a bar in a terminal, one line every 30 seconds in a log file."""

import os
import sys
import time
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import TypeVar

from lightning_utilities.core.rank_zero import rank_zero_only
from rich.console import Console
from rich.progress import track

T = TypeVar("T")
PAUSE = 30
"""Seconds between two lines of progress in a log file."""


def say(line: str) -> None:
    """Print one line on stderr, on rank 0 only.

    Args:
        line: Text without markup.
    """
    if getattr(rank_zero_only, "rank", 0) == 0:  # set by Lightning; without it there is one process
        Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


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
    console = Console(file=sys.stderr)
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return parts
    if console.is_terminal:
        return track(parts, description, total, console=console, transient=True)
    return _print_lines(parts, description, total, console)


def _print_lines(parts: Iterable[T], description: str, total: int, console: Console) -> Iterator[T]:
    """Yield the parts and print a line with the remaining time every `PAUSE` seconds."""
    begun = printed = time.monotonic()
    for done, part in enumerate(parts, start=1):
        yield part
        now = time.monotonic()
        if now - printed >= PAUSE:
            printed = now
            left = time_left(now - begun, done, total - done)
            console.print(
                f"{description}: {done} of {total}, {left} left", soft_wrap=True, markup=False, highlight=False
            )


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
