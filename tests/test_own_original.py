"""Models that were trained elsewhere."""

import json
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

import cmu_lightning
from cmu_lightning.errors import UserError
from cmu_lightning.models.made import Made
from cmu_lightning.tracking.checkpoint import load_network, read_original
from tests.networks import Linear

POISON = ("fit", "--config", "poison_digits.yaml", "--runs_dir", "runs")
CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5")


class Wrapped(nn.Module):
    """Its own keys begin as those of a wrapper do."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Linear(4, 2)


def same(network, other):
    mine, theirs = network.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[key], theirs[key]) for key in mine)


WRITTEN = {
    "a plain state dict": lambda weights: torch.save(weights, "own.pt"),
    "a checkpoint": lambda weights: torch.save({"state_dict": weights, "epoch": 3, "optimizer_states": [{}]}, "own.pt"),
    "safetensors": lambda weights: save_file(weights, "own.safetensors"),
}
PREFIXES = ["", "module.", "model.", "module.model.", "_orig_mod."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("make", [partial(Linear, 4, 2), Wrapped], ids=["plain", "wrapped"])
def test_weights_in_every_form(written, prefix, make):
    theirs = make()
    WRITTEN[written]({f"{prefix}{key}": value for key, value in theirs.state_dict().items()})
    (path,) = Path().glob("own.*")
    assert same(load_network(make(), read_original(path), path), theirs)


def test_a_prefix_of_some_keys_stays():
    weights = Linear(4, 2).state_dict()
    torch.save({("module." if "1" in key else "") + key: value for key, value in weights.items()}, "own.pt")
    with pytest.raises(UserError, match=r"1.weight is absent there and \(32, 4\) in Linear"):
        load_network(Linear(4, 2), read_original("own.pt"), "own.pt")


WRONG = {
    "another shape": (
        lambda: torch.save(Linear(144, 7).state_dict(), "own.pt"),
        r"3.weight is \(7, 32\) there and \(10, 32\)",
    ),
    "a whole module": (lambda: torch.save(Linear(144, 10), "own.pt"), r"save the network's state_dict\(\)"),
    "no weights": (lambda: torch.save({"model": 3}, "own.pt"), "own.pt holds no state_dict"),
    "weights of something else": (lambda: torch.save({"state_dict": {"a": 3}}, "own.pt"), "own.pt holds no state_dict"),
    "nothing": (lambda: None, "no checkpoint own.pt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_an_original(case, fit, capsys):
    WRONG[case][0]()
    assert fit(*CF, "--runs_dir", "runs", "--model.original", "own.pt") == 2
    error = capsys.readouterr().err.strip()
    assert re.search(WRONG[case][1], error), error
    assert error.count("\n") == 0
    assert [path for path in Path("runs").rglob("*") if ".locks" not in path.parts] == []


def test_damaged_safetensors():
    Path("own.safetensors").write_bytes(b"\x08")
    with pytest.raises(UserError, match="cannot be read as safetensors"):
        read_original("own.safetensors")
    with pytest.raises(UserError, match=r"no checkpoint other\.safetensors"):
        read_original("other.safetensors")


def test_an_original_beside_files_of_another_program(fit):
    Path("models").mkdir()
    Path("models/metrics.json").write_text("{}")
    save_file(Linear(144, 10).state_dict(), "models/own.safetensors")
    assert fit(*CF, "--runs_dir", "runs", "--model.original", "models/own.safetensors") == 0
    (path,) = Path("runs/poison_digits/CF").glob("*/metrics.json")
    assert len(json.loads(path.read_text())["original"]) == 10


def test_what_becomes_of_a_function():
    made = Made("torchvision.models.resnet18", {"num_classes": 3})
    assert type(made) is type(resnet18())
    assert made.fc.out_features == 3


MINE = """
from torch import nn
def net(width: int, num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(144, width), nn.CELU(), nn.Linear(width, num_classes))
class Net(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(144, width), nn.CELU(), nn.Linear(width, 10))
"""


@pytest.mark.parametrize("name", ["net", "Net"])
def test_a_network_in_the_current_folder(name):
    """In a process of its own, with BadT, which needs a second network."""
    Path("net_here.py").write_text(MINE)
    command = [
        sys.executable,
        "-m",
        "cmu_lightning",
        *POISON,
        "--config",
        "unlearn/badt.yaml",
        "--network",
        f"net_here.{name}",
    ]
    command += ["--network.width", "9", "--procedure.steps", "3", "--procedure.unlearn_steps", "3"]
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(144, 9), nn.CELU(), nn.Linear(9, 10)).state_dict(), "own.pt")
    ended = subprocess.run([*command, "--model.original", "own.pt"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    (run,) = Path("runs/poison_digits/BadT").iterdir()
    sys.path.insert(0, ".")
    try:
        assert cmu_lightning.load(run)(torch.zeros(2, 1, 12, 12)).shape == (2, 10)
    finally:
        sys.path.remove(".")
        sys.modules.pop("net_here", None)
