"""Atomic writes: several writers at once, full disks, killed writers."""

import errno
import fcntl
import os
import threading
from pathlib import Path

import pytest

from cmu_lightning.files import part_of, write_atomically


def test_no_reader_sees_a_part_of_what_several_write(tmp_path):
    path, long, torn, ends = tmp_path / "notes" / "a.json", 200_000, [], threading.Event()

    def write(letter):
        for _ in range(20):
            write_atomically(path, letter * long)

    def read():
        while not ends.is_set():
            content = path.read_text()
            if len(content) != long or len(set(content)) != 1:
                torn.append(content[:10])

    write_atomically(path, "a" * long)
    reader, writers = threading.Thread(target=read), [threading.Thread(target=write, args=each) for each in "abcd"]
    for each in (reader, *writers):
        each.start()
    for each in writers:
        each.join()
    ends.set()
    reader.join()
    assert not torn
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def test_the_content_is_on_the_disk_before_its_name(tmp_path, monkeypatch):
    path, synced = tmp_path / "a.json", []
    sync = os.fsync

    def record(descriptor):
        synced.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.exists()))
        sync(descriptor)

    monkeypatch.setattr("os.fsync", record)
    write_atomically(path, b"content")
    (part, before), (folder, after) = synced
    assert (part.parent, folder, before, after) == (tmp_path, tmp_path, False, True)
    assert part.name.startswith(".a.json.")
    assert part.name.endswith(".part")


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, call):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "a.json"
    write_atomically(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(call, full)
        with pytest.raises(OSError, match="No space left"):
            write_atomically(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "old")]


def test_what_killed_writers_left_is_removed_and_what_living_ones_write_is_not(tmp_path):
    path = tmp_path / "a.json"
    stale, living, other = part_of(path), part_of(path), part_of(tmp_path / "b.json")
    for part in (stale, living, other):
        part.write_text("half")
    with living.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_atomically(path, "whole")
    assert {file.name for file in tmp_path.iterdir()} == {path.name, living.name, other.name}
