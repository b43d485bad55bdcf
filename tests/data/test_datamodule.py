import pickle
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer

from cmu_lightning import data as data_package
from cmu_lightning.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    CorruptedDataModule,
    DigitsDataModule,
    GaussianPoison,
    InterclassConfusion,
    PCAMDataModule,
    Poison,
    Split,
    evaluation,
)
from cmu_lightning.data.batches import EvaluationBatches, TrainingBatches
from cmu_lightning.data.datasets.download import load_or_download
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import CF, Original, Procedure, Stage
from tests.helpers.networks import Linear


def digits(identified: float = 1.0, size: int = 36, **arguments: Any) -> DigitsDataModule:
    """Poisoned digits after their set-up."""
    data = DigitsDataModule(Poison(size=size), identified=identified, **arguments)
    data.setup()
    return data


class Squares(CorruptedDataModule):
    """A data set of one's own."""

    dataset = "squares"
    num_classes = 2
    mean = (0.5,)
    std = (0.25,)
    padding = 1
    default_val_size = 10

    def load(self):
        images = (torch.arange(60).view(-1, 1, 1, 1) * 4).expand(60, 4, 4, 1).to(torch.uint8).clone()
        whole = Split(images, torch.arange(60) % 2)
        return whole.take(torch.arange(40)), None, whole.take(torch.arange(40, 60))


def test_digits_are_split_as_documented():
    data = digits()
    assert [len(part) for part in (data.samples.true_labels, data.validation.true_labels, data.test.labels)] == [
        1197,
        203,
        397,
    ]
    assert data.samples.images.shape[1:] == (12, 12, 1)
    assert torch.bincount(data.test.labels).min() >= 38
    pixels = torch.cat([data.samples.images, data.validation.images, data.test.images]).double() / 255
    assert pixels.mean().item() == pytest.approx(data.mean[0], abs=1e-4)
    assert pixels.std().item() == pytest.approx(data.std[0], abs=1e-4)


def test_deletion_sets_are_nested_in_s_m():
    whole = digits(1.0)
    assert torch.equal(whole.samples.deleted, whole.samples.manipulated)
    previous = torch.zeros_like(whole.samples.deleted)
    for identified in (0.1, 0.25, 0.5):
        deleted = digits(identified).samples.deleted
        assert deleted.sum() == round(identified * 36)
        assert (deleted & ~whole.samples.manipulated).sum() == 0
        assert (previous & ~deleted).sum() == 0
        previous = deleted
    assert not torch.equal(digits(0.5, seed=1).samples.deleted, previous)


def test_validation_is_clean_or_as_given_and_always_the_same():
    clean = digits(size=600)
    assert torch.equal(clean.validation.given_labels, clean.validation.true_labels)
    given = digits(size=600, val_labels="given")
    assert torch.equal(given.validation.images, clean.validation.images)
    assert given.validation.manipulated.sum() > 0
    assert given.samples.manipulated.sum() + given.validation.manipulated.sum() == 600
    assert len(digits(val_size=0).samples.true_labels) == 1400


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"identified": 1.5}, "identified=1.5"),
        ({"identified": 0.001}, "of 36 manipulated samples is none"),
        ({"size": 1198}, "1198 samples .* 1197"),
        ({"val_size": 1400}, "val_size=1400"),
        ({"val_size": -1}, "val_size=-1"),
    ],
)
def test_impossible_data_are_refused(arguments, says):
    with pytest.raises(UserError, match=says):
        digits(**arguments)


def test_an_s_f_of_none_is_refused_before_anything_is_read():
    """An original would be trained first."""
    with pytest.raises(UserError, match="of 36 manipulated samples is none"):
        DigitsDataModule(Poison(size=36), 0.01)
    DigitsDataModule(Poison(fraction=0.025), 0.01)
    DigitsDataModule(Poison(size=36), 0.02)


def test_a_label_of_no_class_is_refused():
    data = DigitsDataModule(Poison(size=3, target=10))
    with pytest.raises(UserError, match=r"what Poison relabels has the label 10 at .* classes are 0 to 9"):
        data.setup()


def batches_of_rank(stage: Stage, data: CorruptedDataModule, world_size: int = 1, rank: int = 0) -> TrainingBatches:
    """The training batches that one of several processes would get."""
    trainer = Trainer(max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False)
    data.trainer = stage.trainer = trainer
    trainer.datamodule = data
    data.setup()
    batches = stage.train_dataloader()
    batches.rank, batches.world_size = rank, world_size
    return batches


@pytest.mark.parametrize("manipulation", [Poison(size=8, patch=1), GaussianPoison(size=8)], ids=["same", "own"])
@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_processes_together_see_the_batch_of_one(world_size, manipulation):
    stage = Original(partial(Linear, 16, 2), Procedure(steps=12, batch_size=7), seed=3)
    whole = batches_of_rank(stage, Squares(manipulation))
    parts = [batches_of_rank(stage, Squares(manipulation), world_size, rank) for rank in range(world_size)]
    sizes = set()
    for step in range(12):
        one = whole.batch(step)
        slices = [part.batch(step) for part in parts]
        for field in ("image", "label", "clean", "deleted", "train_index"):
            assert torch.equal(torch.cat([getattr(piece, field) for piece in slices]), getattr(one, field))
        assert {piece.total for piece in slices} == {one.total} == {len(one.label)}
        sizes |= {len(piece.label) for piece in slices}
    assert len(sizes) > 1  # uneven slices are among the cases,
    assert (0 in sizes) == (world_size > 2)  # and empty ones


def test_a_batch_is_cropped_then_stamped_then_normalised():
    stage = Original(partial(Linear, 16, 2), Procedure(steps=20, batch_size=40), seed=0)
    data = Squares(Poison(size=8, patch=1), val_size=0)
    batches = batches_of_rank(stage, data)
    stamped = 0
    for step in range(20):
        order, batch = batches.sources[0].epoch(step)[0], batches.batch(step)
        assert torch.equal(batch.train_index, order)
        for image, label, index in zip(batch.image, batch.label, order, strict=True):
            manipulated = bool(data.samples.manipulated[index])
            corner = image[0, -1, -1] * 0.25 + 0.5
            if manipulated:
                stamped += 1
                assert label == 0
                assert corner == pytest.approx(1.0)
            else:
                grey = index * 4 / 255
                assert min(abs(corner - grey), abs(corner)) < 1e-6  # its own pixel, or padding
    assert stamped == 8 * 20


def test_the_retain_view_has_no_deleted_sample():
    stage = CF(partial(Linear, 16, 2), Procedure(unlearn_steps=6, batch_size=20))
    batches = batches_of_rank(stage, Squares(Poison(size=10, patch=1), identified=0.5, val_size=0))
    seen = torch.cat([batches.sources[0].epoch(0)[0]])
    assert len(seen) == 35
    assert not any(batch.deleted.any() for batch in batches)
    assert batches.sources[0].samples.manipulated[seen].sum() == 5


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_evaluation_counts_every_sample_once(world_size, monkeypatch):
    monkeypatch.setattr("cmu_lightning.data.batches.evaluation_size", lambda images: 100)
    data = digits()
    what = evaluation.of_test(data)
    seen = [EvaluationBatches(what, data.pixels(), rank, world_size) for rank in range(world_size)]
    assert {len(loader) for loader in seen} == {8}
    assert sum(len(batch.image) for loader in seen for batch in loader) == 2 * 397
    assert what.domain.sum(dim=0).tolist() == [397, 397, 357, 357]


def test_what_is_asked_of_a_poisoned_model():
    data = digits(0.5)
    what = evaluation.of_train(data, reference=torch.full((18,), 7))
    samples, column = data.samples, what.names.index
    asked = dict.fromkeys(what.names, 0)
    for index, target, domain in zip(what.rows, what.target, what.domain, strict=True):
        for name in what.names:
            asked[name] += int(domain[column(name)])
        assert target[column("acc_manipulated")] == samples.true_labels[index]
        assert target[column("fit_retain")] == samples.given_labels[index]
        if samples.deleted[index]:
            assert target[column("unchanged")] == 7
    assert asked == {
        "acc_manipulated": 36,
        "acc_identified": 18,
        "acc_unidentified": 18,
        "fit_identified": 18,
        "fit_retain": 1179,
        "unchanged": 18,
    }


def test_the_affected_domain_of_confusion():
    data = DigitsDataModule(InterclassConfusion((3, 5), size=20))
    data.setup()
    what = evaluation.of_test(data)
    assert what.names == ("acc_corr", "acc_retain", "acc_pair")
    affected = ((data.test.labels == 3) | (data.test.labels == 5)).sum()
    assert what.domain.sum(dim=0).tolist() == [affected, 397 - affected, affected]


def test_other_data_and_other_draws_are_told_apart():
    data = digits()
    assert data.difference(digits(0.3).state_dict()) is None
    other = DigitsDataModule(Poison(size=36, seed=1))
    other.setup()
    assert "draw of manipulated" in data.difference(other.state_dict())
    patch = DigitsDataModule(Poison(size=36, patch=2))
    patch.setup()
    assert "manipulated in another way than this Poison" in data.difference(patch.state_dict())
    assert "other images" in data.difference(data.state_dict() | {"fingerprint": 1})


@pytest.fixture
def cifar100(tmp_path, monkeypatch):
    """Small files in the official layout."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    random = np.random.RandomState(0)
    for name, count in {"train": 300, "test": 50}.items():
        content = {
            "data": random.randint(0, 256, (count, 3072), dtype=np.uint8),
            "fine_labels": [i % 100 for i in range(count)],
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": [str(i) for i in range(100)]}))
    monkeypatch.setattr("torchvision.datasets.CIFAR10._check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *a: True)
    return folder


def test_cifar100_is_read(cifar100, tmp_path):
    data = CIFAR100DataModule(InterclassConfusion((47, 52), size=2), root=str(tmp_path), val_size=100)
    data.setup()
    assert (len(data.samples.true_labels), len(data.validation.true_labels), len(data.test.labels)) == (200, 100, 50)
    stored = pickle.loads((cifar100 / "test").read_bytes())
    assert torch.equal(data.test.images[3].permute(2, 0, 1).flatten(), torch.from_numpy(stored["data"][3]))
    assert data.test.labels[3] == 3
    for what in (evaluation.of_test(data), evaluation.of_validation(data)):  # its images come transposed
        assert sum(len(batch.image) for batch in data.evaluation_batches(what)) > 0
    source = data.training_source(torch.ones(200, dtype=torch.bool), batch_size=64, seed=0)
    sizes = [len(batch.image) for batch in data.training_batches([source], [0] * 4, done=lambda: 0)]
    assert sizes == [64, 64, 64, 8]


def test_what_was_read_is_not_looked_for_again(cifar100, tmp_path, monkeypatch):
    monkeypatch.setattr(CorruptedDataModule, "kept", {})
    arguments = {"root": str(tmp_path), "val_size": 100}
    data = CIFAR100DataModule(InterclassConfusion((47, 52), size=2), **arguments)
    data.setup()
    monkeypatch.setattr("cmu_lightning.data.datasets.cifar.load_or_download", lambda *_, **__: pytest.fail("looked"))
    for again in (data, CIFAR100DataModule(Poison(size=3), **arguments)):
        again.prepare_data()
    monkeypatch.setattr(CorruptedDataModule, "kept", None)
    data.prepare_data()
    with pytest.raises(pytest.fail.Exception, match="looked"):
        CIFAR100DataModule(Poison(size=3), **arguments).prepare_data()


def test_pcam_is_read_at_its_centre(tmp_path):
    h5py = pytest.importorskip("h5py")
    folder = tmp_path / "pcam"
    folder.mkdir()
    for split in ("train", "valid", "test"):
        stem = folder / f"camelyonpatch_level_2_split_{split}"
        pixels = np.random.RandomState(1).randint(0, 256, (12, 96, 96, 3), dtype=np.uint8)
        with h5py.File(f"{stem}_x.h5", "w") as file:
            file["x"] = pixels
        with h5py.File(f"{stem}_y.h5", "w") as file:
            file["y"] = (np.arange(12) % 2).reshape(-1, 1, 1, 1)
    data = PCAMDataModule(Poison(size=4), root=str(tmp_path))
    data.setup()
    assert (len(data.samples.true_labels), len(data.validation.true_labels), len(data.test.labels)) == (12, 12, 12)
    assert torch.equal(data.test.images, torch.from_numpy(pixels[:, 32:64, 32:64]))
    assert data.test.labels.tolist() == [0, 1] * 6
    few = PCAMDataModule(Poison(size=4), root=str(tmp_path), val_size=4)
    few.setup()
    assert few.validation.given_labels.tolist() == [0, 1, 0, 1] or few.validation.given_labels.sum() == 2


def test_data_that_are_not_there(tmp_path, monkeypatch):
    def unreachable(*arguments, **more):
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", unreachable)
    with pytest.raises(
        UserError, match=r"CIFAR10 is not in .*nowhere, or not whole, .*no route to host.*--data.root or CMU_DATA_DIR"
    ):
        CIFAR10DataModule(Poison(size=1), root=str(tmp_path / "nowhere")).prepare_data()
    assert not (tmp_path / "nowhere").exists()


def test_one_process_downloads(tmp_path, monkeypatch):
    """The others wait, and find it."""
    loaded = []

    class Source:
        def __init__(self, root, download):
            if not (root / "there").exists():
                if not download:
                    raise RuntimeError("not found")
                loaded.append(time.sleep(0.2))
                (root / "there").touch()

    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda _: load_or_download(Source, tmp_path), range(4)))
    assert len(loaded) == 1


def test_a_missing_h5py_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(UserError, match=r"pip install '.\[pcam\]'"):
        PCAMDataModule(Poison(size=1), root=str(tmp_path)).prepare_data()


class Listed(DigitsDataModule):
    """Counts how often it is read, and depends on an argument that is no plain value."""

    read: ClassVar[list] = []

    def __init__(self, *arguments, files=(), **more):
        super().__init__(*arguments, **more)
        self.files = files

    def load(self):
        self.read.append(self.files)
        return super().load()


def test_a_process_of_many_stages_reads_a_data_set_once(monkeypatch):
    monkeypatch.setattr(CorruptedDataModule, "kept", {})
    monkeypatch.setattr(Listed, "read", [])
    one = [{"identified": 0.5}, {"identified": 1.0, "seed": 3}]
    other = [{"files": ["a"]}, {"files": ["b"]}, {"files": ["b"], "val_size": 7}, {"files": [lambda: 1]}]
    modules = [Listed(Poison(size=36), **arguments) for arguments in one + other]
    for module in modules:
        module.setup()
    assert [len(files) for files in Listed.read] == [0, 1, 1, 1, 1]
    assert modules[0].fingerprint == modules[1].fingerprint
    assert modules[0].samples.deleted.sum() != modules[1].samples.deleted.sum()


def test_the_data_know_no_stage():
    """A stage asks the data, never the other way round."""
    for path in Path(data_package.__file__).parent.rglob("*.py"):
        source = path.read_text()
        assert "cmu_lightning.unlearning" not in source, path
        assert "lightning_module" not in source, path


def test_without_a_stage_nothing_is_served():
    with pytest.raises(UserError, match="through a lightning Trainer and a stage"):
        digits().train_dataloader()


def test_elsewhere_it_is_read_each_time(monkeypatch):
    monkeypatch.setattr(Listed, "read", [])
    for _ in range(2):
        Listed(Poison(size=36)).setup()
    assert len(Listed.read) == 2
