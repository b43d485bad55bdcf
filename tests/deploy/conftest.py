"""Fixtures of the tests of deploy."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(unlearned: Path, tmp_path: Path) -> Path:
    """Copy the runs folder with an original and a run of CF, which a test may change."""
    return Path(shutil.copytree(unlearned, tmp_path / "runs"))
