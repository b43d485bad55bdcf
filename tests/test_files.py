"""Atomic writes and locks: several writers at once, full disks, killed processes; JSON that is too deep."""

import errno
import fcntl
import json
import os
import signal
import sys
import threading
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from cmu_lightning import files
from cmu_lightning.errors import UserError
from cmu_lightning.files import (
    Lock,
    digest_of,
    locked,
    parse_json,
    part_of,
    scratch_folder,
    temporary_folder,
    write_atomically,
)


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


def test_a_lock_excludes_and_leaves_no_file(tmp_path):
    path, order = tmp_path / "runs" / ".locks" / "a.lock", []

    def work(name):
        with locked(path, "a run", "give another folder"):
            order.append(name)
            assert not Lock(path).acquire(wait=False)
            order.append(name)

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert order[::2] == order[1::2]
    assert sorted(order[::2]) == list(range(8))
    assert not [each for each in tmp_path.rglob("*") if each.is_file()]


def test_folders_go_with_the_lock_for_which_they_were_made(tmp_path):
    with locked(tmp_path / "runs" / ".locks" / "a.lock", "a run", "give another folder"):
        assert (tmp_path / "runs" / ".locks" / "a.lock").is_file()
    assert list(tmp_path.iterdir()) == []


def test_a_lock_removes_no_folder_that_was_there_or_in_which_something_is(tmp_path):
    lock = Lock(tmp_path / "made" / "folder" / "a.lock")
    lock.acquire()
    (tmp_path / "made" / "result").touch()
    lock.release()
    assert [path.name for path in (tmp_path / "made").iterdir()] == ["result"]
    (tmp_path / "there").mkdir()
    lock = Lock(tmp_path / "there" / "a.lock")
    lock.acquire()
    lock.release()
    assert list((tmp_path / "there").iterdir()) == []


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    path = tmp_path / "a.lock"
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        Lock(path).acquire()
        os.write(write, b".")
        signal.pause()
    os.read(read, 1)
    mine = Lock(path)
    assert not mine.acquire(wait=False)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert mine.acquire(wait=False)
    mine.release()
    assert not path.exists()
    os.close(read)
    os.close(write)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").touch()
    lock = locked(tmp_path / "file" / "a.lock", "a run", "give another folder")
    with pytest.raises(UserError, match=r"nothing can be written to .*file .*: give another folder"), lock:
        pass


def test_the_scratch_folder_of_a_killed_process_is_removed_and_a_living_ones_is_not(tmp_path):
    out = tmp_path / "out"
    stale = part_of(out)
    stale.mkdir()
    (stale / "model").touch()
    with scratch_folder(out) as living:
        (living / "model").touch()
        assert not stale.exists()
        with scratch_folder(out) as second:
            assert {living, second} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


def test_a_temporary_folder_is_this_process_s_own_and_others_stay(tmp_path, monkeypatch):
    """Only what a killed process has left goes, whatever else is called like it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = part_of(tmp_path / "cmu_lightning")
    for folder in (left, tmp_path / "cmu_lightning", tmp_path / "cmu_lightning-2026-11-28"):
        folder.mkdir()
    with temporary_folder() as folder:
        assert {path.name for path in tmp_path.iterdir()} == {"cmu_lightning", "cmu_lightning-2026-11-28", folder.name}
        with temporary_folder():
            assert folder.exists()
    assert not folder.exists()


def test_a_system_without_file_locks_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)
    spec = spec_from_file_location("files_elsewhere", files.__file__)
    with pytest.raises(UserError, match=r"no file locks \(fcntl\) on .*: use Linux or macOS, or WSL on Windows"):
        spec.loader.exec_module(module_from_spec(spec))


@pytest.mark.parametrize("depth", [65, 500, 100_000])
def test_json_that_is_too_deep_is_refused(depth):
    for opening, closing in (("[", "]"), ('{"a": ', "}")):
        with pytest.raises(ValueError, match="more than 64 brackets"):
            parse_json(opening * depth + "1" + closing * depth)
    content = json.loads("[" * 64 + "]" * 64)
    assert parse_json(json.dumps(content)) == content


def test_a_digest_is_of_the_content():
    assert digest_of({"a": 1, "b": [0.5]}) == digest_of({"b": [0.5], "a": 1})
    assert len({digest_of(each) for each in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"b": 1}, [1])}) == 5
