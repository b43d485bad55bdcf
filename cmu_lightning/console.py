"""What is said while there is work: single lines; how far it is, as a bar in a terminal and as lines in a log file."""

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
"""Seconds between two lines."""


def say(line: str) -> None:
    """One line on stderr, of the first process alone."""
    if getattr(rank_zero_only, "rank", 0) == 0:  # Lightning sets it, where it runs
        Console(stderr=True, soft_wrap=True, highlight=False).print(line, markup=False)


def bar(parts: Iterable[T], what: str, total: int) -> Iterable[T]:
    """The parts, while it is shown how many are done; by one process of a job.

    Args:
        parts: Of the work.
        what: Beside the bar.
        total: How many they are.
    """
    console = Console(file=sys.stderr)  # the one of now, wherever the parts send what they say
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return parts
    if console.is_terminal:
        return track(parts, what, total, console=console, transient=True)
    return _lines(parts, what, total, console)


def _lines(parts: Iterable[T], what: str, total: int, console: Console) -> Iterator[T]:
    begun = said = time.monotonic()
    for done, part in enumerate(parts, start=1):
        yield part
        now = time.monotonic()
        if now - said >= PAUSE:
            said = now
            left = time_left(now - begun, done, total - done)
            console.print(f"{what}: {done} of {total}, {left} left", soft_wrap=True, markup=False, highlight=False)


def time_left(seconds: float, done: int, more: int) -> timedelta:
    """How long the rest takes, in whole seconds.

    Args:
        seconds: What is done took.
        done: Parts that are done.
        more: Parts that are not.
    """
    return timedelta(seconds=round(seconds / done * more))
