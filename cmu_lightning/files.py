"""Atomic writes and locks between processes."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from rich.console import Console

from cmu_lightning.errors import UserError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file as a whole: a reader sees the old content or the new one, never a part of it.

    Args:
        path: Path of the file; its folder is created where it does not exist.
        text: Content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_of(path)
    part.write_text(text)
    part.replace(path)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, as a whole.

    Args:
        path: Path of the file.
        content: Mappings, lists, strings, numbers, booleans and None.
    """
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def part_of(path: Path) -> Path:
    """Return the path under which a file is written before it is renamed to its own."""
    return path.with_name(f".{path.name}.part")


@contextmanager
def locked(path: Path, description: str, hint: str) -> Iterator[None]:
    """Hold a lock file; while another process holds it, wait and show that.

    The operating system releases the lock when its holder dies.

    Args:
        path: Path of the lock file.
        description: What the lock protects, as shown to a user who waits.
        hint: What a user can do if the lock file cannot be written.

    Raises:
        UserError: The lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with Console(stderr=True).status(f"another process works on {description}; waiting for it"):
                lock.acquire()
    except OSError as error:
        raise UserError(f"nothing can be written to {path.parent} ({error}): {hint}") from error
    try:
        yield
    finally:
        lock.release()
