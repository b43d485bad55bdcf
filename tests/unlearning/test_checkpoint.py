"""Files of tensors: every flipped bit is noticed, or changes nothing."""

import errno
import random

import pytest
import torch

from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.checkpoint import DamagedFile, is_damaged, read_original, read_tensors, save_tensors
from tests.helpers.damage import flip_bit

CONTENT = {
    "state_dict": {"weight": torch.arange(60.0).view(6, 10), "bias": torch.zeros(6)},
    "cmu_lightning": {"hash": "0123456789", "seconds": 1.5, "reference": torch.arange(6)},
}


@pytest.fixture
def path(tmp_path):
    """Return a file of tensors and plain data."""
    save_tensors(tmp_path / "last.ckpt", CONTENT)
    return tmp_path / "last.ckpt"


def is_same(one, other):
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(is_same(one[key], other[key]) for key in one)
    return torch.equal(one, other) if torch.is_tensor(one) else one == other


def test_what_was_written_is_read(path):
    assert is_same(read_tensors(path), CONTENT)
    assert not is_damaged(path)


def test_every_flipped_bit_is_noticed_or_changes_nothing(path):
    whole, chance, noticed = path.read_bytes(), random.Random(0), 0
    for _ in range(200):
        damaged = bytearray(whole)
        damaged[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged)
        try:
            read = read_tensors(path)
        except UserError:
            noticed += 1
        else:
            # The padding between records holds nothing.
            assert is_same(read, CONTENT)
    assert noticed > 50


def test_every_flipped_bit_of_a_weight_is_noticed(path):
    whole = path.read_bytes()
    weights = CONTENT["state_dict"]["weight"].numpy().tobytes()
    begin = whole.index(weights)
    for at in range(begin, begin + len(weights), 5):
        flip_bit(path, (at + 0.5) / len(whole))
        with pytest.raises(DamagedFile, match="is damaged, its checksums do not agree"):
            read_original(path)
        path.write_bytes(whole)


@pytest.mark.parametrize("length", [0, 1, 100, 0.5, 0.99])
def test_a_file_that_was_cut_off_is_damaged(path, length):
    whole = path.read_bytes()
    path.write_bytes(whole[: length if isinstance(length, int) else int(length * len(whole))])
    assert is_damaged(path)


@pytest.mark.parametrize("length", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_large_file_that_was_cut_off_is_damaged(tmp_path, length):
    """Its end is sought at a place before its beginning."""
    path = tmp_path / "last.ckpt"
    save_tensors(path, CONTENT | {"large": [torch.zeros(size) for size in (5, 100_000, 7)]})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(length * len(whole))])
    assert is_damaged(path)


def test_zeros_are_damage(path):
    path.write_bytes(bytes(3000))
    assert is_damaged(path)


def test_what_cannot_be_opened_is_no_damage(path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)"):
        is_damaged(path)


def test_a_network_disk_that_fails_is_no_damage(path, monkeypatch):
    def fail(archive):
        raise OSError(errno.ESTALE, "Stale file handle")

    monkeypatch.setattr("zipfile.ZipFile.testzip", fail)
    with pytest.raises(UserError, match=r"cannot be read \(Stale file handle\)"):
        is_damaged(path)


@pytest.mark.parametrize("old_format", [True, False])
def test_files_without_checksums_are_read(path, old_format):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(CONTENT, path, _use_new_zipfile_serialization=not old_format)
    finally:
        torch.serialization.set_crc32_options(True)
    assert is_same(read_tensors(path), CONTENT)
