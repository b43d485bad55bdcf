"""Models that were trained elsewhere."""

import json
import re
import sys
from contextlib import chdir
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import resnet18

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.cli.fit import CLI
from cmu_lightning.cli.fit import main as fit_command
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.originals import original_at
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.unlearning.checkpoint import load_network, read_original
from tests.helpers.forked_commands import run_command
from tests.helpers.networks import Linear

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
    "a loop's own checkpoint": lambda weights: torch.save({"model_state_dict": weights, "epoch": 3}, "own.pt"),
    "another loop's": lambda weights: torch.save({"model": weights, "optimizer": {"state": {}}}, "own.pt"),
    "pytorch-cifar's": lambda weights: torch.save({"net": weights, "acc": 93.1, "epoch": 3}, "own.pt"),
    "yet another loop's": lambda weights: torch.save({"model_state": weights, "optimizer": {"state": {}}}, "own.pt"),
    "safetensors": lambda weights: save_file(weights, "own.safetensors"),
}
PREFIXES = ["", "module.", "model.", "module.model.", "_orig_mod.", "net.", "model._orig_mod.", "encoder.q."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("written", WRITTEN)
@pytest.mark.parametrize("make", [partial(Linear, 4, 2), Wrapped], ids=["plain", "wrapped"])
def test_weights_in_every_form(written, prefix, make):
    theirs = make()
    WRITTEN[written]({f"{prefix}{key}": value for key, value in theirs.state_dict().items()})
    (path,) = Path().glob("own.*")
    assert same(load_network(make(), read_original(path), path), theirs)


def test_what_a_stage_keeps_beside_its_network_is_left_out():
    theirs = Linear(4, 2)
    kept = {"mean": torch.zeros(1), **{f"network.{key}": value for key, value in theirs.state_dict().items()}}
    assert same(load_network(Linear(4, 2), {"state_dict": kept}, "own.pt"), theirs)


def prefixed(**networks):
    """Return one state dict of several networks, each under its prefix."""
    return {f"{name}.{key}": value for name, each in networks.items() for key, value in each.state_dict().items()}


def test_a_lightning_module_with_a_loss_that_has_weights(capsys):
    theirs = Linear(4, 2)
    kept = {"criterion.weight": torch.ones(2), **prefixed(model=theirs), "metric.total": torch.zeros(1)}
    torch.save({"state_dict": kept, "hyper_parameters": {"lr": 0.1}}, "own.pt")
    assert same(load_network(Linear(4, 2), read_original("own.pt"), "own.pt"), theirs)
    said = "the weights under model. of own.pt are used, and 2 others are ignored (criterion.weight, metric.total)"
    assert said in capsys.readouterr().err


def test_one_of_several_networks_by_its_prefix():
    student, teacher = Linear(4, 2), Linear(4, 2)
    torch.save({"state_dict": prefixed(student=student, teacher=teacher)}, "own.pt")
    held = read_original("own.pt")
    with pytest.raises(UserError, match=r"several such networks, student\., teacher\.: .* by --model.original_prefix"):
        load_network(Linear(4, 2), held, "own.pt")
    for prefix in ("teacher", "teacher."):
        assert same(load_network(Linear(4, 2), held, "own.pt", prefix), teacher)
    with pytest.raises(UserError, match=r"no key of own.pt begins with ema. but with student., teacher.: change"):
        load_network(Linear(4, 2), held, "own.pt", "ema")


def test_a_part_of_a_larger_network_is_no_network():
    torch.save(
        {f"model.{key}": value for key, value in {**Linear(4, 2).state_dict(), "5.weight": torch.ones(2)}.items()},
        "own.pt",
    )
    with pytest.raises(
        UserError, match=r"own.pt belongs to another architecture: 5.weight is \(2,\) there and absent in"
    ):
        load_network(Linear(4, 2), read_original("own.pt"), "own.pt")


def test_one_of_several_networks_by_its_key():
    one, other = Linear(4, 2), Linear(4, 2)
    torch.save({"G": one.state_dict(), "D": other.state_dict(), "more": {"ema": one.state_dict()}}, "own.pt")
    with pytest.raises(UserError, match=r"own.pt holds several networks, D, G: say where .* by --model.original_key"):
        read_original("own.pt")
    for key, expected in (("D", other), ("G", one), ("more.ema", one)):
        assert same(load_network(Linear(4, 2), read_original("own.pt", key), "own.pt"), expected)
    for key in ("E", "more", "G.1.weight", "more.ema.1"):
        with pytest.raises(UserError, match=rf"holds no weights at --model.original_key {key}: they are at D, G"):
            read_original("own.pt", key)
    torch.save({"deep": {"er": one.state_dict()}}, "deep.pt")
    with pytest.raises(
        UserError, match=r"holds no state_dict: .*, or say where its weights are by --model.original_key"
    ):
        read_original("deep.pt")


def test_weights_of_other_names_are_said_to_be_so():
    torch.save({f"a.{key}.b": value for key, value in Linear(4, 2).state_dict().items()}, "own.pt")
    with pytest.raises(
        UserError, match=r"1.weight is absent there .*; if it is the same, say .* by --model.original_prefix"
    ):
        load_network(Linear(4, 2), read_original("own.pt"), "own.pt")


def test_where_the_weights_are_from_the_command_line(fit):
    """`predict` finds them, too; they are no hyperparameters."""
    torch.save({"ckpt": {"net": prefixed(student=Linear(144, 10), teacher=Linear(144, 10))}}, "own.pt")
    own = ("--config", "unlearn/keep.yaml", "--data.identified", "0.5", "--model.original", "own.pt")
    where = ("--model.original_key", "ckpt.net", "--model.original_prefix", "student")
    assert fit(*own, *where, "--runs_dir", "runs") == 0
    (run,) = Path("runs/poison_digits/Keep").iterdir()
    assert json.loads((run / "metrics.json").read_text())["hyperparameters"] == {}
    assert main(["predict", str(run), "--out", "out.csv"]) == 0
    assert ",true" not in Path("out.csv").read_text()


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
    error = re.sub(r"\Aloading digits\n", "", capsys.readouterr().err.strip())
    assert re.search(WRONG[case][1], error), error
    assert error.count("\n") == 0
    assert [path for path in Path("runs").rglob("*") if ".locks" not in path.parts] == []


@pytest.mark.parametrize("more", [(), ("--data.discovery", "LossRanking", "--data.discovery.count", "9")])
def test_an_original_of_other_images_is_said_before_anything_is_asked_of_it(more, fit, capsys):
    torch.save(Linear(100, 10).state_dict(), "own.pt")
    other = ("--network.pixels", "100", "--model.original", "own.pt", "--runs_dir", "runs")
    assert fit("--config", "unlearn/cf.yaml", *other, *more) == 2
    assert "error: Linear does not take images of shape (1, 12, 12)" in capsys.readouterr().err
    assert not list(Path("runs").glob("poison_digits"))


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
    made = NetworkFromFunction("torchvision.models.resnet18", {"num_classes": 3})
    assert type(made) is type(resnet18())
    assert made.fc.out_features == 3


HUB = """
from torch import nn
MAKERS = {"tiny": lambda num_classes=1000: nn.Sequential(nn.Flatten(), nn.Linear(144, num_classes))}
def tiny(pretrained: bool = False, **kwargs) -> nn.Module:
    return MAKERS["tiny"](**kwargs)
"""


def test_arguments_that_a_function_hands_on(fit, tmp_path, monkeypatch, capsys):
    """As timm's functions do; nothing can tell which there are."""
    Path("hub_here.py").write_text(HUB)
    monkeypatch.syspath_prepend(str(tmp_path))
    few = ("--procedure.steps", "3", "--runs_dir", "runs", "--network", "hub_here.tiny")
    assert fit(*few, "--network.num_classes", "10") == 2
    assert "what a function takes as **kwargs goes under dict_kwargs" in capsys.readouterr().err
    assert fit(*few, "--network.dict_kwargs.num_classes", "10") == 0
    (run,) = Path("runs/poison_digits/Original").iterdir()
    assert cmu_lightning.load(run)[1].out_features == 10


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t"])
def test_defaults_that_are_classes_or_partials_stay_with_the_function(name, monkeypatch):
    """torchvision's transformers by name: nothing that is no plain data reaches the config."""

    class Parsed(CLI):
        def instantiate_classes(self):
            raise KeyboardInterrupt

    monkeypatch.setattr(Parsed, "before_instantiate_classes", lambda cli: resolved.append(resolve(cli)))
    resolved = []

    def resolve(cli):
        CLI.before_instantiate_classes(cli)
        return cli.config["fit"].network.init_args

    with pytest.raises(KeyboardInterrupt):
        fit_command(["fit", "--config", "poison_cifar10.yaml", "--network", f"torchvision.models.{name}"], Parsed)
    (found,) = resolved
    assert found.function == f"torchvision.models.{name}"
    assert json.loads(json.dumps(found.arguments)) == found.arguments
    assert not {"downsample_layer"} & found.arguments.keys()
    assert name == "swin_t" or "norm_layer" not in found.arguments


def test_a_class_for_a_function_is_refused(capsys):
    vit = ("--network", "torchvision.models.vit_b_16", "--network.norm_layer", "torch.nn.Identity")
    assert fit_command(["fit", "--config", "poison_cifar10.yaml", *vit]) == 2
    assert "network.norm_layer is a class or a function" in capsys.readouterr().err


def test_an_edited_checkpoint_is_another_original(runs, tmp_path):
    (path,) = runs.glob("*/Original/*/last.ckpt")
    assert original_at(str(path), runs).hash == path.parent.name[2:]
    content = torch.load(path, weights_only=True)
    torch.save(content, tmp_path / "copy.ckpt")
    assert original_at(str(tmp_path / "copy.ckpt"), runs).hash == path.parent.name[2:]
    content["state_dict"] = {key: value * 0.5 for key, value in content["state_dict"].items()}
    torch.save(content, tmp_path / "edited.ckpt")
    edited = original_at(str(tmp_path / "edited.ckpt"), runs)
    assert edited.hash != path.parent.name[2:]
    assert edited.folder == tmp_path / "edited.ckpt"


@pytest.mark.slow
def test_a_network_of_a_library_from_its_weights_to_an_export():
    """torchvision's ResNet-18, from a plain state dict."""
    torch.manual_seed(0)
    torch.save(resnet18(num_classes=10).state_dict(), "three.pt")
    rgb = np.random.RandomState(0).randint(0, 255, (40, 8, 8, 3), dtype=np.uint8)
    np.savez("images.npz", train_images=rgb, train_labels=np.arange(40) % 10)
    Path("list.txt").write_text("3\n14\n")
    data = "data: {class_path: TensorDataModule, init_args: {path: images.npz, manipulation: {class_path: Unknown}, "
    data += "discovery: {class_path: Flagged, init_args: {path: list.txt}}}}"
    own = "network: {class_path: torchvision.models.resnet18, init_args: {num_classes: 10}}"
    Path("own.yaml").write_text(f"setting: own\n{data}\n{own}\ntrainer: {{accelerator: cpu}}\n")
    keep = ("--config", "unlearn/keep.yaml", "--model.original", "three.pt", "--runs_dir", "runs")
    assert main(["fit", "--config", "own.yaml", *keep]) == 0
    (run,) = Path("runs/own/Keep").iterdir()
    assert main(["predict", str(run)]) == main(["export", str(run), "--out", "out"]) == 0
    card = Path("out/README.md").read_text()
    assert card.startswith("# resnet18 on arrays: Keep\n")
    assert "kept as it was" in card
    assert "acc_corr" not in card
    code = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    with chdir("out"):
        exec(compile(code[1], "README.md", "exec"), scope := {})
    state, theirs = scope["network"].state_dict(), torch.load("three.pt", weights_only=True)
    assert state.keys() == theirs.keys()
    assert all(torch.equal(state[name], theirs[name]) for name in state)


MINE = """
from torch import nn
def net(width: int, num_classes: int = 10) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(144, width), nn.CELU(), nn.Linear(width, num_classes))
class Net(nn.Sequential):
    def __init__(self, width: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(144, width), nn.CELU(), nn.Linear(width, 10))
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["net", "Net"])
def test_a_network_in_the_current_folder(name):
    """In a process of its own, with BadT, which needs a second network."""
    Path("net_here.py").write_text(MINE)
    network = f"--network net_here.{name} --network.width 9 --procedure.steps 3 --procedure.unlearn_steps 3"
    command = f"python -m cmu_lightning {' '.join(POISON)} --config unlearn/badt.yaml {network}"
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(144, 9), nn.CELU(), nn.Linear(9, 10)).state_dict(), "own.pt")
    ended = run_command(f"{command} --model.original own.pt")
    assert ended.code == 0, ended.err
    (run,) = Path("runs/poison_digits/BadT").iterdir()
    sys.path.insert(0, ".")
    try:
        assert cmu_lightning.load(run)(torch.zeros(2, 1, 12, 12)).shape == (2, 10)
    finally:
        sys.path.remove(".")
        sys.modules.pop("net_here", None)
