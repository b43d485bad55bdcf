"""Images in a file give what images in memory give."""

import os
from pathlib import Path
from shutil import copytree

import h5py
import numpy as np
import pytest
import torch

from cmu_lightning.data import DigitsDataModule, PCAMDataModule, Poison, memmap
from cmu_lightning.data.memmap import MappedImages
from cmu_lightning.unlearning import CF, SSD, Original
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, trainer


def on_disk(folder: Path, identified: float = 0.5) -> DigitsDataModule:
    """Poisoned digits whose images stay in a file."""
    return DigitsDataModule(Poison(size=36), identified=identified, memory_map=str(folder))


@pytest.mark.parametrize("method", [CF, SSD])
def test_training_and_results_are_those_of_images_in_memory(tmp_path, method):
    found = []
    for name, data in {"memory": digits(0.5), "file": on_disk(tmp_path)}.items():
        run = trainer(tmp_path / name)
        stage = Original(LINEAR, SHORT)
        run.fit(stage, datamodule=data)
        run.save_checkpoint(tmp_path / f"{name}.ckpt", weights_only=True)
        unlearner = method(LINEAR, SHORT, str(tmp_path / f"{name}.ckpt"))
        run = trainer(tmp_path / name)
        run.fit(unlearner, datamodule=data)
        run.test(unlearner, datamodule=data, verbose=False)
        found.append((dict(unlearner.network.state_dict()), unlearner.results, data))
    (weights, results, memory), (theirs, same_results, file) = found
    assert equal_tensors(weights, theirs)
    assert results == same_results
    assert isinstance(file.samples.images, MappedImages)
    assert not isinstance(memory.samples.images, MappedImages)
    assert file.difference(memory.state_dict()) is None


def test_rows_of_rows_and_a_checksum_in_pieces(monkeypatch):
    images = torch.randint(0, 256, (50, 3, 3, 1), dtype=torch.uint8)
    whole = memmap.checksum(images, 7)
    monkeypatch.setattr(memmap, "CHUNK", 7)
    there = memmap.map_images(images, ".")
    assert torch.equal(there[torch.arange(50)], images)
    assert memmap.checksum(there, 7) == memmap.checksum(images, 7) == whole
    even = there.take(torch.arange(50) % 2 == 0).take(torch.tensor([3, 1]))
    assert even.shape == (2, 3, 3, 1)
    assert torch.equal(even[0:2], images[[6, 2]])


def test_no_room_is_said(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(memmap.UserError, match=r"memory_map=.*/file cannot hold 0.0 GiB"):
        on_disk(tmp_path / "file").setup()


def test_where_a_disk_reserves_nothing_images_are_kept_too(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate")  # as on macOS
    images = torch.randint(256, (5, 4, 4, 3), dtype=torch.uint8)
    kept = memmap.map_images(images, str(tmp_path))
    assert torch.equal(kept[torch.arange(5)], images)


def test_a_folder_that_is_not_there_is_made(tmp_path):
    on_disk(tmp_path / "new/folder").setup()
    assert (tmp_path / "new/folder").is_dir()


def test_the_command_line_takes_it_and_it_is_no_part_of_a_run(runs, fit, capsys):
    copied = Path(copytree(runs, "runs"))
    assert fit("--data.memory_map", ".", "--runs_dir", str(copied)) == 0
    assert "finished before" in capsys.readouterr().out


def test_patches_are_read_in_pieces_into_the_file(tmp_path, monkeypatch):
    folder = tmp_path / "pcam"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 96, 96, 3), dtype=np.uint8)
    for split in ("train", "valid", "test"):
        with h5py.File(folder / f"camelyonpatch_level_2_split_{split}_x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(folder / f"camelyonpatch_level_2_split_{split}_y.h5", "w") as file:
            file["y"] = (np.arange(30) % 2).reshape(-1, 1, 1, 1)
    monkeypatch.setattr("cmu_lightning.data.datasets.pcam.CHUNK", 7)
    data = PCAMDataModule(Poison(size=3), root=str(tmp_path), memory_map=str(tmp_path))
    data.setup()
    assert isinstance(data.samples.images, MappedImages)
    assert np.array_equal(data.samples.images[0:30].numpy(), pixels[:, 32:64, 32:64])
