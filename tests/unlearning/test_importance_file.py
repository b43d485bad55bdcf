"""Importances are computed once for each network, S_f and estimator, and are kept beside the original."""

import shutil
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from cmu_lightning.data import DigitsDataModule
from cmu_lightning.unlearning import LFSSD, SSD, Potion, Procedure
from cmu_lightning.unlearning.importance import ImportanceFile
from tests.helpers.damage import flip_bit
from tests.helpers.networks import Linear
from tests.helpers.short_stages import LINEAR, SHORT, fitted


def test_importances_are_computed_once(tmp_path, original, monkeypatch):
    first = SSD(LINEAR, SHORT, original)
    fitted(tmp_path, first)
    (path,) = (tmp_path / "importances").glob("*.pt")
    made = path.stat().st_mtime_ns
    computed = []
    monkeypatch.setattr(SSD, "importance", lambda *_: computed.append(1))
    second = SSD(LINEAR, SHORT, original, selection=1.0)
    fitted(tmp_path, second)
    assert not computed
    assert path.stat().st_mtime_ns == made
    spent = torch.load(path, weights_only=True)["seconds"]
    assert second.seconds > spent > 0
    assert second.samples_backward == first.samples_backward == 1197


@pytest.mark.parametrize(
    "other",
    [
        lambda original: (SSD(LINEAR, SHORT, original, fisher="sample"), 0.5),
        lambda original: (SSD(LINEAR, SHORT, original, augment=True), 0.5),
        lambda original: (LFSSD(LINEAR, SHORT, original), 0.5),
        lambda original: (Potion(LINEAR, SHORT, original, rho=1.0), 0.5),
        lambda original: (SSD(LINEAR, SHORT, original), 0.3),
    ],
)
def test_other_importances_are_kept_apart(tmp_path, original, other):
    fitted(tmp_path, SSD(LINEAR, SHORT, original))
    fitted(tmp_path, *other(original))
    assert len(list((tmp_path / "importances").glob("*.pt"))) == 2


def test_augmented_importances_are_of_moved_images_in_another_order(tmp_path, original, monkeypatch):
    """One batch of everything, not moved, is what it would be without; moved, it is another."""
    whole, found = Procedure(batch_size=1197), {}
    for padding, augment in ((0, False), (0, True), (1, True)):
        monkeypatch.setattr(DigitsDataModule, "padding", padding)
        shutil.rmtree(tmp_path / "importances", ignore_errors=True)
        fitted(tmp_path, SSD(LINEAR, whole, original, augment=augment))
        (path,) = (tmp_path / "importances").glob("*.pt")
        found[padding, augment] = torch.load(path, weights_only=True)["retain"]
    torch.testing.assert_close(found[0, True], found[0, False], rtol=1e-3, atol=1e-12)
    assert not torch.allclose(found[1, True], found[0, False], rtol=0.01, atol=1e-12)
    rows = {}
    for augment in (False, True):
        stage = SSD(LINEAR, SHORT, original, augment=augment)
        fitted(tmp_path, stage)
        passed = next(iter(stage.trainer.train_dataloader)).retain
        rows[augment] = torch.cat([batch.label for batch in passed])
    assert not torch.equal(rows[True], rows[False])
    assert torch.equal(rows[True].sort().values, rows[False].sort().values)


class Scaled(SSD):
    """An objective and a measure with parameters of their own."""

    power, root = 2, 1.0

    def objective(self, logits, labels):
        return logits.abs().pow(self.power).sum(dim=1)

    def measure(self, gradient):
        return (self.values * gradient).abs() ** self.root


def other_parameter(name):
    def changed(monkeypatch):
        monkeypatch.setattr(Scaled, name, 3)
        return Scaled

    return changed


def other_normalisation(monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "mean", (0.4,))
    return SSD


def other_padding(monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "padding", 0)
    return partial(SSD, augment=True)


@pytest.mark.parametrize(
    ("first", "other"),
    [
        (SSD, other_normalisation),
        (partial(SSD, augment=True), other_padding),
        (Scaled, other_parameter("power")),
        (Scaled, other_parameter("root")),
        (SSD, lambda monkeypatch: lambda network, *more: SSD(partial(Rectified, 144, 10), *more)),
        (SSD, lambda monkeypatch: lambda network, *more: SSD(partial(Tempered, 3.0), *more)),
    ],
)
def test_importances_of_the_same_weights_seen_otherwise_are_kept_apart(tmp_path, original, monkeypatch, first, other):
    fitted(tmp_path, first(LINEAR, SHORT, original))
    fitted(tmp_path, other(monkeypatch)(LINEAR, SHORT, original))
    assert len(list((tmp_path / "importances").glob("*.pt"))) == 2


class Tempered(Linear):
    """An argument that neither the weights nor its text tell."""

    def __init__(self, scale):
        super().__init__(144, 10)
        self.scale = scale

    def forward(self, images):
        return self.scale * super().forward(images)


class Rectified(Linear):
    """The same keys, another function."""

    def __init__(self, pixels, num_classes):
        super().__init__(pixels, num_classes)
        self[2] = torch.nn.ReLU()


def test_waiting_for_anothers_importances_is_no_work(tmp_path, original, monkeypatch):
    fitted(tmp_path, SSD(LINEAR, SHORT, original))
    locked = ImportanceFile.locked

    @contextmanager
    def slow(self):
        time.sleep(1.5)
        with locked(self):
            yield

    monkeypatch.setattr(ImportanceFile, "locked", slow)
    stage = SSD(LINEAR, SHORT, original)
    fitted(tmp_path, stage)
    (path,) = (tmp_path / "importances").glob("*.pt")
    assert stage.seconds < torch.load(path, weights_only=True)["seconds"] + 1


def test_damaged_importances_are_made_again(tmp_path, original):
    fitted(tmp_path, SSD(LINEAR, SHORT, original))
    (path,) = (tmp_path / "importances").glob("*.pt")
    whole = torch.load(path, weights_only=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        fitted(tmp_path, SSD(LINEAR, SHORT, original))
    again = torch.load(path, weights_only=True)
    assert torch.equal(whole["deleted"], again["deleted"])


def test_a_flipped_bit_in_importances_makes_them_again(tmp_path, original):
    fitted(tmp_path, SSD(LINEAR, SHORT, original))
    (path,) = (tmp_path / "importances").glob("*.pt")
    whole = torch.load(path, weights_only=True)
    flip_bit(path)
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        fitted(tmp_path, SSD(LINEAR, SHORT, original))
    assert torch.equal(whole["deleted"], torch.load(path, weights_only=True)["deleted"])


def test_hostile_importances_run_nothing_and_are_made_again(tmp_path, original):
    fitted(tmp_path, SSD(LINEAR, SHORT, original))
    (path,) = (tmp_path / "importances").glob("*.pt")
    whole = torch.load(path, weights_only=True)

    class Hostile:
        def __reduce__(self):
            return Path.touch, (tmp_path / "owned",)

    torch.save(whole | {"summary": Hostile()}, path)
    with pytest.warns(UserWarning, match="is damaged and is computed again"):
        fitted(tmp_path, SSD(LINEAR, SHORT, original))
    assert not (tmp_path / "owned").exists()
    assert torch.load(path, weights_only=True)["summary"] == whole["summary"]


def test_a_file_in_the_place_of_another_one_is_made_again(tmp_path):
    one, other = (ImportanceFile(tmp_path, {"seed": seed}, {"deleted"}) for seed in (0, 1))
    for file, value in ((one, 0.0), (other, 1.0)):
        file.write({"deleted": torch.tensor([value])})
        assert file.read() == {"deleted": torch.tensor([value])}
    shutil.copy(other.path, one.path)
    with pytest.warns(UserWarning, match=f"{one.path.name} is damaged and is computed again"):
        assert one.read() is None
