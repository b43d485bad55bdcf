"""Atomic writes and locks between processes."""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from cmu_lightning.console import PlainConsole
from cmu_lightning.errors import UserError

PART = ".part"
"""Ends the names of files that are being written; they begin with a dot."""


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file as a whole: a reader sees the old content or the new one, never a part of it.

    This also holds if several processes write the same file at once, if a writer is killed, and if the machine loses
    its power. Every file that this project writes and reads back is written here.

    Args:
        path: Path of the file; its folder is created where it does not exist.
        content: Text, which is written as UTF-8, or bytes.

    Raises:
        OSError: There is no room, or no permission; an older file stays as it was, and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_parts(path)
    part, file = _open_part(path)
    with file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            # Without this, a file may have its name before its content, and is empty after a loss of power.
            os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    _sync_folder(path.parent)


def _open_part(path: Path) -> tuple[Path, BinaryIO]:
    """Return a new, locked file next to the one that is written, under a name that no other writer has."""
    while True:
        part = part_of(path)
        file = part.open("xb")
        with suppress(OSError):  # a file system without locks: what killed writers leave stays there
            fcntl.flock(file, fcntl.LOCK_EX)
        # Between its creation and its lock, another writer may have taken the file for a stale one.
        if os.fstat(file.fileno()).st_nlink:
            return part, file
        file.close()


def _remove_stale_parts(path: Path) -> None:
    """Remove what writers of a file that were killed have left: parts whose lock nobody holds."""
    for part in path.parent.iterdir():
        if part.name.startswith(f".{path.name}.") and part.name.endswith(PART):
            with suppress(OSError), part.open("rb") as file:  # OSError: its writer lives, or has just ended
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                part.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder outlive a loss of power, where the file system can."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, as a whole.

    Args:
        path: Path of the file.
        content: Mappings, lists, strings, numbers, booleans and None.
    """
    write_atomically(path, json.dumps(content, indent=2) + "\n")


def part_of(path: Path) -> Path:
    """Return a path under which a file can be written before it is renamed to its own; a new one at each call.

    Args:
        path: Path of the file.
    """
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}{PART}")


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
            with PlainConsole(stderr=True).status(f"another process works on {description}; waiting for it"):
                lock.acquire()
    except OSError as error:
        raise UserError(f"nothing can be written to {path.parent} ({error}): {hint}") from error
    try:
        yield
    finally:
        lock.release()
