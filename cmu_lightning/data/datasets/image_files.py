"""Image files in folders, and the files that are skipped: broken links, hidden folders, other formats."""

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NoReturn

from cmu_lightning.errors import UserError

LeftOut = dict[str, list[str]]
"""Paths of files that are not images of the data, by reason."""

HIDDEN, BROKEN, LOOP, NO_FILE, OTHER = "hidden", "broken links", "links in a circle", "no files", "other formats"
UNWRITABLE = "names that no list can hold"
SHOWN = 3
"""Number of paths that a message names for each reason."""


def find_images(folder: str | Path, suffixes: Collection[str], left_out: LeftOut) -> list[str]:
    """Return the image files in a folder and in all folders within it, sorted by folder and name; follow links.

    Args:
        folder: Folder to search.
        suffixes: Ends of the names of image files, in lower case, such as `.png`.
        left_out: Gets the paths of all other files, and of folders that are not searched.

    Raises:
        UserError: A folder cannot be read.
    """
    found = []
    for parent, names in sorted(_folders(folder, left_out)):
        for name in sorted(names):
            path = Path(parent, name)
            reason = _reason(path, suffixes)
            if reason is None and not can_be_listed(path.relative_to(folder)):
                reason = UNWRITABLE
            if reason:
                left_out.setdefault(reason, []).append(str(path))
            else:
                found.append(str(path))
    return found


def find_class_folders(folder: Path, left_out: LeftOut) -> list[str]:
    """Return the names of the folders in a folder, sorted.

    Args:
        folder: Folder of a split.
        left_out: Gets the paths of hidden folders, and of files that are in no folder of a class.

    Raises:
        UserError: The folder cannot be read.
    """
    found = []
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        _refuse(error)
    for path in entries:
        if path.is_dir() and not path.name.startswith("."):
            found.append(path.name)
        else:
            reason = _reason(path, ("",)) or "in no class folder"
            left_out.setdefault(reason, []).append(f"{path}{os.sep}" if path.is_dir() else str(path))
    return found


def _folders(folder: str | Path, left_out: LeftOut) -> Iterator[tuple[str, list[str]]]:
    """Yield the path of each folder, and the names of what is in it apart from folders."""
    for parent, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        for name in list(folders):
            path = Path(parent, name)
            # A link to an enclosing folder would be followed until the path is too long.
            is_loop = path.is_symlink() and Path(parent).resolve().is_relative_to(path.resolve())
            if name.startswith(".") or is_loop:
                folders.remove(name)
                left_out.setdefault(LOOP if is_loop else HIDDEN, []).append(f"{path}{os.sep}")
        yield str(parent), names


def _reason(path: Path, suffixes: Collection[str]) -> str | None:
    """Return why a file is left out; None if it is an image by its name."""
    if path.name.startswith("."):
        return HIDDEN
    if not path.exists():
        return BROKEN
    if not path.is_file():
        return NO_FILE
    return None if path.name.lower().endswith(tuple(suffixes)) else OTHER


def can_be_listed(path: Path) -> bool:
    """Return whether a path can be written to a CSV file and found again: it is UTF-8 without a carriage return.

    Args:
        path: Path of a file.
    """
    try:
        return b"\r" not in str(path).encode()
    except UnicodeEncodeError:  # bytes that are no text
        return False


def _refuse(error: OSError) -> NoReturn:
    raise UserError(f"the folder {error.filename} cannot be read ({error.strerror}): let it be read, or remove it")


def describe(left_out: LeftOut) -> str:
    """Return the numbers of skipped files by reason, and the first names of each, in one line.

    Args:
        left_out: What `find_images` has left out.

    >>> describe({"hidden": ["a/.b/"], "broken links": [f"a/{number}.png" for number in range(4)]})
    'hidden: 1 (a/.b/); broken links: 4 (a/0.png, a/1.png, a/2.png, ...)'
    """
    parts = []
    for reason, paths in left_out.items():
        names = [path if path.isprintable() else repr(path) for path in paths[:SHOWN]]
        parts.append(f"{reason}: {len(paths):,} ({', '.join(names + ['...'] * (len(paths) > SHOWN))})")
    return "; ".join(parts)
