"""Files that are whole or not there, and locks."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from cmu_lightning.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a file that is either whole or not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    part.write_text(text)
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, as a whole or not at all."""
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def part_of(path: Path) -> Path:
    """Where a file is written before it takes its place."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def locked(path: Path, what: str, mend: str) -> Iterator[None]:
    """Hold a lock, which dies with its holder; wait for another process that has it, and show that.

    Args:
        path: Path of the lock.
        what: Is worked on.
        mend: What to do where the lock cannot be written.

    Raises:
        UserError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with Console(stderr=True).status(f"another process works on {what}; waiting for it"):
                lock.acquire()
    except OSError as error:
        raise UserError(f"nothing can be written to {path.parent} ({error}): {mend}") from error
    try:
        yield
    finally:
        lock.release()
