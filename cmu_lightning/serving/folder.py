"""A folder that is written as a whole or not at all."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from cmu_lightning.errors import UserError


def refuse_occupied(out: Path, files: Collection[str]) -> None:
    """Make sure that nothing of a user's is replaced.

    Args:
        out: Where a folder is to be.
        files: What an earlier one holds.

    Raises:
        UserError: There is something else.
    """
    if out.resolve() == Path.cwd():
        raise UserError(f"--out {out} is the folder that you are in: name one inside it")
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    there = {path.name for path in out.iterdir()} if out.exists() else set()
    if there and there != set(files):
        other = min(there - set(files), default=None)
        what = f"holds {other}, which is not of an earlier export" if other else "is no whole earlier export"
        raise UserError(f"--out {out} {what}: give a new or an empty folder")


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A folder to write to, which takes the place of `out` once all has gone well.

    Args:
        out: May exist, and is then replaced.
    """
    out = out.resolve()
    above = next(folder for folder in out.parents if folder.exists())  # on the same disk, and no empty parents remain
    with TemporaryDirectory(prefix=f".{out.name}.", dir=above) as scratch:
        new = Path(scratch) / "new"
        new.mkdir()
        yield new
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists():
            out.rename(Path(scratch) / "old")
        new.rename(out)
