"""A folder that is replaced as a whole."""

import os
import signal
from pathlib import Path

import pytest

from cmu_lightning.deploy.output import replace_folder


def write(out: Path, text: str | None) -> None:
    """Write a file; None is a failure on the way."""
    with replace_folder(out) as folder:
        (folder / "a").write_text(text)


def test_the_old_folder_stays_until_the_new_one_is_whole():
    out = Path("new/parents/out")
    write(out, "old")
    with pytest.raises(TypeError):
        write(out, None)
    assert (out / "a").read_text() == "old"
    write(out, "new")
    assert (out / "a").read_text() == "new"
    assert list(out.parent.iterdir()) == [out]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(monkeypatch):
    out = Path("out")
    write(out, "old")
    rename = Path.rename

    def refuse(path, target):
        if path.name == "new":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(KeyboardInterrupt):
        write(out, "new")
    assert (out / "a").read_text() == "old"


def test_a_failure_leaves_no_new_parents():
    with pytest.raises(TypeError):
        write(Path("new/parents/out"), None)
    assert list(Path().iterdir()) == []


def test_what_a_killed_process_leaves_is_removed_by_the_next_one():
    out = Path("parents/out")
    child = os.fork()
    if child == 0:
        with replace_folder(out) as folder:
            (folder / "a").write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    (left,) = out.parent.iterdir()
    assert left.name.startswith(".out.")
    write(out, "whole")
    assert list(out.parent.iterdir()) == [out]
    assert (out / "a").read_text() == "whole"
