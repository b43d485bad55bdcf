"""Atomic writes and locks between processes."""

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import gettempdir
from typing import Any, BinaryIO

from cmu_lightning.console import PlainConsole
from cmu_lightning.errors import UserError

try:
    import fcntl
except ImportError as error:
    raise UserError(
        f"Python has no file locks (fcntl) on {sys.platform}, and this project needs them, as it needs process groups "
        "and signals: use Linux or macOS, or WSL on Windows"
    ) from error

MAX_DEPTH = 64
"""Nested brackets that a JSON text may have; results have 6."""

MOST_RACES = 100
"""Attempts to make a lock in a folder that keeps disappearing, before this counts as an error."""

PART = ".part"
"""Suffix of files that are being written; their names begin with a dot."""


def write_atomically(path: Path, content: str | bytes | memoryview) -> None:
    """Write a file as a whole: a reader sees the old content or the new one, never a part of it.

    This also holds if several processes write the same file at once, if a writer is killed, and if the machine loses
    its power. Every file that this project writes and reads back is written here.

    Args:
        path: Path of the file; its folder is created where it does not exist.
        content: Text, which is written as UTF-8, or bytes.

    Raises:
        OSError: There is no space or no permission; an older file stays unchanged, and nothing else is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale_parts(path)
    part, file = _open_part(path)
    with file:
        try:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            # Without this, a file may get its name before its content, and be empty after a loss of power.
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


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Make a temporary folder next to a file or a folder that is to be written, and remove it in the end.

    If this process is killed, the next one that makes one for the same path removes its remains.

    Args:
        path: Path of the file or folder, whose parent exists.
    """
    _remove_stale_parts(path)
    while True:
        part = part_of(path)
        part.mkdir()
        try:
            descriptor = os.open(part, os.O_RDONLY)
        except FileNotFoundError:  # as in `_open_part`
            continue
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if _is_at(descriptor, part):
            break
        os.close(descriptor)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(descriptor)


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder among the system's temporary ones, and remove it in the end, and those of killed processes."""
    with scratch_folder(Path(gettempdir()) / "cmu_lightning") as folder:
        yield folder


def _remove_stale_parts(path: Path) -> None:
    """Remove the remains of killed writers of a file or folder: parts whose lock nobody holds."""
    for part in path.parent.iterdir():
        if part.name.startswith(f".{path.name}.") and part.name.endswith(PART):
            with suppress(OSError):  # its writer lives, or has just ended
                descriptor = os.open(part, os.O_RDONLY)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if part.is_dir():
                        shutil.rmtree(part)
                    else:
                        part.unlink()
                finally:
                    os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Make a new name in a folder survive a loss of power, if the file system can."""
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


def parse_json(text: str | bytes) -> Any:
    """Return the content of a JSON text, if it is no deeper than what this project writes.

    Python's own reader, and functions that walk over the content later, fail on endless nesting with other errors.

    Args:
        text: The text, or its bytes in UTF-8.

    Raises:
        ValueError: The text is not JSON, or nested too deep.
    """
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError(f"more than {MAX_DEPTH} brackets within each other") from error
    level, depth = [content], 0
    while level:
        inner = [part for part in level if isinstance(part, dict | list)]
        level = [each for part in inner for each in (part.values() if isinstance(part, dict) else part)]
        depth += 1
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"more than {MAX_DEPTH} brackets within each other")
    return content


def digest_of(content: Any) -> str:
    """Return a digest of plain data, 16 hexadecimal digits, equal for mappings in any order.

    Args:
        content: Mappings, lists, strings, numbers, booleans and None.
    """
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def part_of(path: Path) -> Path:
    """Return a path under which a file can be written before it is renamed to its own; a new one at each call.

    Args:
        path: Path of the file.
    """
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}{PART}")


class Lock:
    """A lock between processes; the operating system releases it when its holder dies.

    Its file is there only while the lock is held. Folders that its holder has made for it go with it, if nothing else
    is in them.

    Args:
        path: Path of the file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     one, other = Lock(Path(folder) / "a.lock"), Lock(Path(folder) / "a.lock")
    ...     one.acquire(), other.acquire(wait=False), one.release(), other.acquire(wait=False), other.release()
    (True, False, None, True, None)
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None
        self.made: list[Path] = []

    def acquire(self, wait: bool = True) -> bool:
        """Return whether the lock is held now.

        Args:
            wait: Whether to wait for another holder, in this process or another one.

        Raises:
            OSError: The file cannot be written, or its file system has no locks.
        """
        gone = 0
        while True:
            self.made += [each for each in self.path.parents if not each.exists()]
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            # The last holder has just removed the folder that it had made.
            except (FileNotFoundError, FileExistsError):
                gone += 1
                if gone == MOST_RACES:
                    raise
                continue
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                os.close(descriptor)
                return False
            except BaseException:
                os.close(descriptor)
                raise
            # The last holder may have removed the file between its opening here and its lock.
            if _is_at(descriptor, self.path):
                self.descriptor = descriptor
                return True
            os.close(descriptor)

    def release(self) -> None:
        """Release the lock, and remove its file and what was made for it, as far as nothing else is in it."""
        if self.descriptor is not None:
            try:
                with suppress(OSError):  # a folder that cannot be written any more
                    self.path.unlink()
            finally:  # also where Ctrl-C comes here
                os.close(self.descriptor)
                self.descriptor = None
        for folder in dict.fromkeys(self.made):
            with suppress(OSError):
                folder.rmdir()
        self.made = []


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is still the one of a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:  # it is gone, also on a network's file system
        return False


@contextmanager
def locked(path: Path, description: str, hint: str) -> Iterator[None]:
    """Hold a lock; while another process holds it, wait and show that.

    Args:
        path: Path of the lock file.
        description: What the lock protects, as shown to a user who waits.
        hint: What a user can do if the lock file cannot be written.

    Raises:
        UserError: The lock file cannot be written.
    """
    lock = Lock(path)
    try:
        if not lock.acquire(wait=False):
            with PlainConsole(stderr=True).status(f"another process works on {description}; waiting for it"):
                lock.acquire()
    except OSError as error:
        raise UserError(f"nothing can be written to {path.parent} ({error}): {hint}") from error
    try:
        yield
    finally:
        lock.release()
