"""Finished runs of poison_digits, and what commands on them must refuse."""

import re
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main


class CodeOnLoading:
    """An object whose pickle creates the file `was_here` when it is read without care."""

    def __reduce__(self) -> tuple[object, ...]:
        return (Path("was_here").touch, ())


def run_folder(runs_dir: Path, method: str = "CF") -> Path:
    """Return the folder of the only run of a method."""
    (found,) = runs_dir.glob(f"poison_digits/{method}/*")
    return found


def assert_refused(arguments: list[str], pattern: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Check that a command ends with exit code 2 and one sentence, and leaves every file as it was."""
    capsys.readouterr()
    before = {path: path.stat().st_mtime_ns for path in Path().rglob("*")}
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert re.search(pattern, error), error
    assert {path: path.stat().st_mtime_ns for path in Path().rglob("*")} == before
