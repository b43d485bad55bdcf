"""What networks take and give: images as they lie in memory, logits and not probabilities."""

import csv
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from cmu_lightning.__main__ import main
from cmu_lightning.console import _say_once
from cmu_lightning.data import DigitsDataModule, Poison, TensorDataModule, Unknown
from cmu_lightning.errors import UserError
from cmu_lightning.unlearning.networks import check_function, check_outputs
from tests.helpers.networks import Linear

SAID = "Viewed views images in another shape, so it gets them contiguous, not channels last"


class Viewed(nn.Module):
    """A convolution, whose outputs are viewed as rows."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.convolution, self.linear = nn.Conv2d(1, 4, 3, padding=1), nn.Linear(4 * 144, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(self.convolution(images).relu().view(len(images), -1))
        return logits


class ViewedRGB(nn.Linear):
    """An MLP's first lines on images of three channels."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.view(len(images), -1))


class NeverFits(nn.Linear):
    """A network that views images as no memory layout allows."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.transpose(1, 3).transpose(2, 3).view(len(images), -1))


@pytest.fixture(autouse=True)
def _say_again():
    _say_once.cache_clear()


@pytest.fixture
def digits():
    data = DigitsDataModule(Poison(size=36), identified=0.5)
    data.setup()
    return data


@pytest.fixture
def colours():
    rgb = np.random.RandomState(0).randint(0, 256, (40, 4, 4, 3), dtype=np.uint8)
    np.savez("rgb.npz", train_images=rgb, train_labels=np.arange(40) % 2)
    data = TensorDataModule(Unknown(), "rgb.npz")
    data.setup()
    return data


def test_contiguous_images_only_where_the_network_needs_them(digits, capsys):
    images, nothing = digits.samples.images[:3], torch.zeros(3, dtype=torch.bool)
    usual = digits.pixels()(images, nothing)
    assert usual.is_contiguous(memory_format=torch.channels_last)
    check_function(Viewed, Viewed(), digits)
    check_outputs(Viewed(), digits)
    assert capsys.readouterr().err == SAID + "\n"
    contiguous = digits.pixels()(images, nothing)
    assert contiguous.stride() == (144, 144, 12, 1)
    assert torch.equal(contiguous, usual)
    check_outputs(Linear(144, 10), digits)
    assert not digits.contiguous
    assert capsys.readouterr().err == ""


def test_an_mlp_on_colours(colours):
    network = ViewedRGB(48, 2)
    logits = check_outputs(network, colours)
    first = colours.samples.images[:1].permute(0, 3, 1, 2).reshape(1, -1).float().div(255).sub(0.5).div(0.5)
    assert torch.allclose(logits, nn.functional.linear(first, network.weight, network.bias), atol=1e-5)


def test_a_network_that_no_layout_helps_is_refused(colours, capsys):
    with pytest.raises(UserError, match=r"NeverFits does not take images of shape \(3, 4, 4\) \(view size"):
        check_outputs(NeverFits(48, 2), colours)
    assert not colours.contiguous
    assert capsys.readouterr().err == ""


def test_a_network_that_views_from_fit_to_predict(fit, capsys):
    network = ("--network", "tests.unlearning.test_networks.Viewed", "--procedure.steps", "5")
    cf = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5", "--procedure.unlearn_steps", "3")
    for more in ((), cf):
        assert fit(*network, "--runs_dir", "runs", *more) == 0
    assert capsys.readouterr().err.count(SAID) == 1
    (run,) = Path("runs/poison_digits/CF").iterdir()
    assert main(["test", "--config", f"{run}/config.yaml", "--ckpt_path", f"{run}/last.ckpt"]) == 0
    assert main(["predict", str(run)]) == 0
    with Path("predictions.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "validation"]
    right = sum(row["after"] == row["label"] for row in rows) / len(rows)
    assert right == pytest.approx(json.loads((run / "metrics.json").read_text())["val_acc"])


class Ending(nn.Sequential):
    """A network that ends in some module."""

    def __init__(self, last: nn.Module, num_classes: int = 10) -> None:
        super().__init__(Linear(144, num_classes), last)


@pytest.mark.parametrize(("last", "name"), [(nn.Softmax(1), "softmax"), (nn.Sigmoid(), "sigmoid")])
def test_probabilities_are_noticed_once(last, name, digits, capsys):
    for _ in range(2):
        check_function(partial(Ending, last), Ending(last), digits)
    said = capsys.readouterr().err
    assert said.startswith(f"Ending gives probabilities, as if it ended in {name}, and not logits")
    assert said.count("\n") == 1


class Constant(nn.Module):
    """A network whose last layer begins at 0, as torchvision's vision transformers do, or at a constant."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.linear = nn.Linear(144, 10)
        nn.init.zeros_(self.linear.weight)
        nn.init.constant_(self.linear.bias, value)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.linear(images.flatten(1))
        return logits


@pytest.mark.parametrize(
    "make",
    [
        partial(Linear, 144, 10),
        partial(Ending, nn.LogSoftmax(1)),
        partial(Ending, nn.ReLU()),
        partial(Ending, nn.Tanh()),
        partial(Constant, 0.0),
        partial(Constant, 0.3),
    ],
)
def test_logits_are_not_taken_for_probabilities(make, digits, capsys):
    for seed in range(5):
        torch.manual_seed(seed)
        check_function(make, make(), digits)
    assert capsys.readouterr().err == ""
