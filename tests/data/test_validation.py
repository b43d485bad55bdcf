"""What classes of one's own give, where it cannot be."""

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from cmu_lightning.data import ClassBiased, Detector, DigitsDataModule, Discovery, Inspection, Poison, Uniform
from cmu_lightning.data.samples import Split
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning import Original
from tests.helpers.short_stages import LINEAR, SHORT, digits, equal_tensors, trainer


class Given(DigitsDataModule):
    """Digits whose splits go through a function."""

    def __init__(self, change):
        super().__init__(Poison(size=36))
        self.change = change

    def load(self):
        return self.change(*super().load())


def floats(train, validation, test):
    return Split(train.images / 255, train.labels), validation, test


def short(train, validation, test):
    return Split(train.images, train.labels[1:]), validation, test


def narrow(train, validation, test):
    return Split(train.images, train.labels.int()), validation, test


def arrays(train, validation, test):
    return Split(train.images.numpy(), train.labels), validation, test


def small(train, validation, test):
    return train, validation, Split(test.images[:, :8], test.labels)


def two(train, validation, test):
    return train, test


SPLITS = {
    floats: r"Given.load\(\) gives training images of float32 of \(\d+, 12, 12, 1\): give a uint8 tensor",
    short: r"training labels of int64 of \(\d+,\): give an int64 tensor of \(\d+,\)",
    narrow: "training labels of int32",
    arrays: "training images of ndarray",
    small: r"images of several shapes, .*'training': \(12, 12, 1\), 'test': \(8, 12, 1\)",
    two: "gives 2 splits: give training, validation or None",
}


@pytest.mark.parametrize("change", SPLITS)
def test_splits(change):
    with pytest.raises(UserError, match=SPLITS[change]):
        Given(change).setup()


def test_a_mean_for_each_channel(monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "mean", (0.1, 0.2, 0.3))
    with pytest.raises(UserError, match=r"mean=\[0.1, 0.2, 0.3\] of DigitsDataModule has 3 numbers for 1 channels"):
        digits().setup()


MANIPULATIONS = {
    "select": [
        (lambda labels: torch.tensor([3, 3]), r"Poison.select gives int64 of \(2,\): .* each once"),
        (lambda labels: torch.tensor([5, 3]), "ascending"),
        (lambda labels: torch.tensor([0, len(labels)]), "indices under 1197"),
        (lambda labels: labels == 0, "select gives bool of"),
    ],
    "relabel": [
        (lambda labels: labels[1:], r"Poison.relabel gives int64 of \(35,\): give int64 of \(36,\)"),
        (lambda labels: labels.float(), "relabel gives float32"),
    ],
    "affected": [(lambda labels: labels, r"Poison.affected gives int64 of \(397,\): give a bool tensor of \(397,\)")],
    "target_labels": [(lambda labels: 3, "Poison.target_labels gives int: give a class for each label, or None")],
    "unaffected": [(lambda labels: (labels == 0)[1:], r"unaffected gives bool of \(396,\)")],
}


@pytest.mark.parametrize(
    ("name", "at"), [(name, at) for name, cases in MANIPULATIONS.items() for at in range(len(cases))]
)
def test_manipulations(name, at):
    wrong, said = MANIPULATIONS[name][at]
    data = digits()
    setattr(data.manipulation, name, wrong)
    with pytest.raises(UserError, match=said):
        data.setup()


@pytest.mark.parametrize(
    "order",
    [
        *(torch.arange(35), torch.zeros(36, dtype=torch.long), torch.arange(1, 37), torch.arange(36).reshape(6, 6)),
        *(torch.arange(36.0), np.arange(36)),
    ],
)
def test_orders(order):
    discovery = Uniform()
    discovery.order = lambda *arguments: order
    with pytest.raises(UserError, match=r"Uniform.order gives .*: give each position in S_m, 0 to 35, once"):
        DigitsDataModule(Poison(size=36), identified=0.5, discovery=discovery).setup()


def test_a_discovery_that_is_neither_a_list_nor_an_order_nor_a_detector():
    class Nothing(Discovery):
        pass

    with pytest.raises(UserError, match="Nothing does not determine S_f: make it an OrderedDiscovery or a Detector"):
        DigitsDataModule(Poison(size=36), discovery=Nothing()).setup()


@pytest.mark.parametrize(
    ("scores", "said"),
    [
        (torch.zeros(1197, 1), r"float32 of \(1197, 1\): give one number for each of 1197"),
        (torch.zeros(1196), r"float32 of \(1196,\)"),
        (torch.full((1197,), float("nan")), r"float32 of \(1197,\) with NaN"),
        (np.zeros(1197), "ndarray"),
    ],
)
def test_scores(scores, said):
    class Odd(Detector):
        def scores(self, seen, random):
            return scores

    data = digits()
    data.setup()
    with pytest.raises(UserError, match=f"Odd.scores gives {said}"):
        Odd(count=3).detect(Inspection(LINEAR(), data.samples, data.pixels()), 0)


def test_pixels_of_another_precision(tmp_path):
    class Double(Poison):
        def stamp(self, images):
            return super().stamp(images).double()

    stages = [Original(LINEAR, SHORT), Original(LINEAR, SHORT)]
    for stage, kind in zip(stages, (Double, Poison), strict=True):
        trainer(tmp_path).fit(stage, datamodule=DigitsDataModule(kind(size=36)))
    assert equal_tensors(dict(stages[0].network.state_dict()), dict(stages[1].network.state_dict()))


def test_classes_that_nobody_has():
    data = DigitsDataModule(Poison(size=36), identified=0.5, discovery=ClassBiased([3, 12]))
    with pytest.raises(UserError, match=r"discovery.classes=\[3, 12\]: no sample is of class 12"):
        data.setup()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_one_loss_for_all_samples(reduction, tmp_path):
    class Reduced(Original):
        def loss(self, batch):
            return cross_entropy(self.network(batch.image), batch.label, reduction=reduction)

    with pytest.raises(UserError, match=r"Reduced.loss gives shape \(\) for 300 samples: give one loss for each"):
        trainer(tmp_path).fit(Reduced(LINEAR, SHORT), datamodule=digits())
