"""Images whose right labels are known: how they are read, and what they change in the choice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import cmu_lightning
from cmu_lightning.data import FolderDataModule, Unknown
from cmu_lightning.deploy.choice import Candidate, choose
from cmu_lightning.deploy.guards import Part, Parts, objection
from cmu_lightning.deploy.trusted import read_folder, refuse_missing
from cmu_lightning.errors import UserError


def draw(path: Path, value: int, size: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size), value, dtype=np.uint8)).save(path)


@pytest.fixture
def data(tmp_path):
    """Cats and dogs, 8x8, grey."""
    for split in ("train", "val"):
        for number, name in enumerate(("cat", "dog")):
            for value in range(4):
                draw(tmp_path / "images" / split / name / f"{value}.png", 100 * number + value)
    module = FolderDataModule(Unknown(), root=str(tmp_path / "images"), grey=True)
    module.prepare_data()
    module.setup("fit")
    return module


def test_a_folder_of_trusted_images(data, tmp_path):
    draw(tmp_path / "trusted/dog/b.png", 7)
    draw(tmp_path / "trusted/dog/deeper/c.png", 9)
    trusted = read_folder(tmp_path / "trusted", data)
    assert trusted.images.shape == (2, 8, 8, 1)
    assert trusted.images[:, 0, 0, 0].tolist() == [7, 9]
    assert trusted.labels.tolist() == [1, 1], "a class without images may be missing"
    draw(tmp_path / "trusted/dog/b.png", 8)
    assert read_folder(tmp_path / "trusted", data).digest != trusted.digest


@pytest.mark.parametrize(
    ("where", "size", "says"),
    [
        ("bird/a.png", 8, "has a folder bird, which is no class; name folders like cat, dog"),
        ("dog/a.png", 9, "a.png has 9x9 pixels and the run's images have 8x8"),
        ("dog/.hidden/a.png", 8, "holds no images: put them into a folder for each class"),
    ],
)
def test_a_folder_that_cannot_be_trusted(data, tmp_path, where, size, says):
    draw(tmp_path / "trusted" / where, 1, size)
    with pytest.raises(UserError, match=says):
        read_folder(tmp_path / "trusted", data)


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match="there is no such folder; give one that holds a folder for each class"):
        refuse_missing(tmp_path / "nothing")


def run(name: str, right: int | None, **metrics: float) -> Candidate:
    trusted = None if right is None else (right, 8)
    return Candidate(name, Path(name), {"method": name, "val_acc": 0.9, "fit_identified": 0.5} | metrics, trusted)


def test_trusted_images_count_like_flags():
    assert run("a", 3).score - run("a", None).score == pytest.approx(4 / 10)
    original, repaired = run("original", 0), run("PURE", 8, val_acc=0.89)
    chosen = choose(original, [repaired])
    assert chosen.run is repaired
    assert "it classifies 8 of 8 trusted images correctly (the original: 0)" in chosen.reason


def test_the_guard_against_noise_sees_them():
    """With no other gain, seven of eight trusted images are beyond the noise and one is not."""
    same = Part(np.zeros(50, int), np.zeros(50, int), np.zeros(50, int))
    wrong = np.ones(8, int)
    for count, is_noise in ((7, False), (1, True)):
        after = np.where(np.arange(8) < count, 0, 1)
        found = objection(Parts(same, same, same, ["a", "b"], Part(np.zeros(8, int), wrong, after)))
        assert (found is not None and "within the noise" in found) is is_noise


class Brightness(nn.Module):
    """Says 1 of bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.layer = nn.Linear(1, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.layer(self.scale * images.mean(dim=(1, 2, 3)).unsqueeze(1))


def test_in_python(tmp_path):
    torch.manual_seed(0)
    images = torch.cat([torch.randint(0, 100, (40, 4, 4)), torch.randint(150, 255, (40, 4, 4))]).byte().numpy()
    labels = np.repeat([0, 1], 40)
    network = Brightness()
    with torch.no_grad():
        network.layer.weight.copy_(torch.tensor([[-5.0], [5.0]]))
        network.layer.bias.zero_()
    trusted = images[::10], labels[::10]
    options = {"flagged": [3], "steps": 2, "only": "cf", "mean": 0.5, "std": 0.5, "folder": tmp_path}
    done = cmu_lightning.repair(network, images, labels, trusted=trusted, **options)
    assert done.report["trusted"].tolist() == [1.0, 1.0]
    assert done.outcome.as_json()["candidates"][0]["trusted"] == {"right": 8, "of": 8}
    wrong = cmu_lightning.repair(network, images, labels, trusted=(images[::10], 1 - labels[::10]), **options)
    assert wrong.report["trusted"].tolist() == [0.0, 0.0], "labels count"
    turned = cmu_lightning.repair(network, images, labels, trusted=(images[::-10], labels[::-10]), **options)
    assert turned.report["trusted"].tolist() == [1.0, 1.0], "other images are classified again"
    for path in tmp_path.rglob("trusted.npz"):
        path.write_bytes(path.read_bytes()[:-40])
    again = cmu_lightning.repair(network, images, labels, trusted=(images[::10], 1 - labels[::10]), **options)
    assert again.report["trusted"].tolist() == [0.0, 0.0], "damaged predictions are made again"
    with pytest.raises(
        UserError, match=r"trusted images have the shape \(2, 2, 1\) and the training images \(4, 4, 1\)"
    ):
        cmu_lightning.repair(network, images, labels, trusted=(images[:3, :2, :2], labels[:3]), **options)
