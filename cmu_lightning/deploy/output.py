"""Checks of the path `--out` before anything is computed, and replacement of an output folder as a whole."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cmu_lightning.errors import UserError
from cmu_lightning.files import part_of, scratch_folder


def refuse_folder(out: Path, kind: str) -> None:
    """Refuse a folder where a file is to be written.

    Args:
        out: Path of the file.
        kind: Kind of the file, such as CSV.

    Raises:
        UserError: The path is a folder.
    """
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give the name of a {kind} file")


def refuse_unwritable(out: Path) -> None:
    """Refuse a path where no file can be written.

    Args:
        out: Path of the file; folders above it are created.

    Raises:
        UserError: The file cannot be written.
    """
    part = part_of(out)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}): give another file") from error


def refuse_foreign_files(out: Path, files: Collection[str]) -> None:
    """Refuse a folder whose content an earlier export did not write.

    Args:
        out: Path of the folder, which may not exist yet.
        files: Names of the files of a whole export.

    Raises:
        UserError: The path is the current folder, a file, or a folder that holds anything else than a whole export.
    """
    if out.resolve() == Path.cwd():
        raise UserError(f"--out {out} is the current folder: name one inside it")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    if there and there != set(files):
        foreign = min(there - set(files), default=None)
        reason = f"holds {foreign}, which no earlier export wrote" if foreign else "holds only part of an export"
        raise UserError(f"--out {out} {reason}: give a new or an empty folder")


@contextmanager
def replace_folder(out: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces `out` if the block succeeds; if it fails, `out` stays as it was.

    Args:
        out: Path of the folder, which may not exist yet.
    """
    out = out.resolve()
    made = [folder for folder in out.parents if not folder.exists()]
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        # The scratch folder is on the same disk, so that renaming works.
        with scratch_folder(out) as scratch:
            new = scratch / "new"
            new.mkdir()
            yield new
            if out.exists():
                out.rename(scratch / "old")
            try:
                new.rename(out)
            except BaseException:
                if (scratch / "old").exists() and not out.exists():
                    (scratch / "old").rename(out)
                raise
    finally:
        for folder in made:  # a failure leaves no empty parents behind
            with suppress(OSError):
                folder.rmdir()
