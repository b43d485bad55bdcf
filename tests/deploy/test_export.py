"""An export: weights, ONNX file and model card."""

import json
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.deploy import card, export
from cmu_lightning.deploy.export import largest_difference, write_onnx
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import write_metrics
from cmu_lightning.models import ResNet9, WideResNet
from cmu_lightning.models.factory import NetworkFromFunction
from tests.helpers.damage import flip_bit
from tests.helpers.finished import CodeOnLoading, assert_refused, run_folder

FILES = ["README.md", "model.onnx", "model.safetensors"]


@pytest.fixture(scope="module")
def exported(unlearned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "to" / "model"
    assert main(["export", str(run_folder(unlearned)), "--out", str(folder)]) == 0
    return folder


def test_three_files_and_nothing_else(exported):
    assert sorted(path.name for path in exported.iterdir()) == FILES
    assert list(exported.parent.iterdir()) == [exported]


def test_the_weights_are_the_runs_bit_for_bit(exported, unlearned):
    state = torch.load(run_folder(unlearned) / "last.ckpt", weights_only=True)["state_dict"]
    given = load_file(exported / "model.safetensors")
    assert {f"network.{name}" for name in given} == state.keys()
    for name, value in given.items():
        assert value.dtype == state[f"network.{name}"].dtype
        assert torch.equal(value, state[f"network.{name}"])


def test_onnx_gives_the_networks_logits(exported, unlearned):
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    network = cmu_lightning.load(run_folder(unlearned))
    assert [each.name for each in (*session.get_inputs(), *session.get_outputs())] == ["images", "logits"]
    for count in (1, 3, 50):
        images = torch.randn(count, 1, 12, 12, generator=torch.Generator().manual_seed(count))
        (given,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(given, network(images).detach().numpy(), atol=1e-4)


def test_the_card_holds_the_numbers(exported, unlearned):
    text = (exported / "README.md").read_text()
    stored, original = (
        json.loads((run_folder(unlearned, method) / "metrics.json").read_text()) for method in ("CF", "Original")
    )
    cells = {}
    for line in text.splitlines():
        if found := re.fullmatch(r"\| `(\w+)` \| .* \| (.*) \| (.*) \|", line):
            cells[found[1]] = (found[2].strip(), found[3].strip())
    measured = {"acc_corr", "acc_retain", "asr", "val_acc", "changed", "selection_score", "fit_retain"}
    assert measured <= cells.keys()
    for name, given in cells.items():
        assert given == tuple(f"{column[name]:.4f}" if name in column else "" for column in (original, stored)), name
    for said in (
        "poison_digits",
        "CF",
        "`Linear(pixels=144, ",
        "18 samples",
        "0.1357",
        "0.293",
        "(1, 12, 12)",
        "0 to 9",
    ):
        assert said in text
    for said in (stored["hash"], stored["original"], stored["fingerprint"], stored["environment"]["torch"]):
        assert str(said) in text
    assert "`unlearn_steps=20`" in text
    assert "`steps=" not in text  # of the original, whose procedure is its own
    assert str(unlearned) not in text
    assert "destroyed**" not in text


def test_the_cards_code_runs(exported, copied, monkeypatch):
    first, *others = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    exec(compile(first, "README.md", "exec"), own := {})
    monkeypatch.chdir(exported)
    for code in others:
        exec(compile(code, "README.md", "exec"), scope := {})
        if "network" in scope:
            weights = scope["network"].state_dict()
    assert len(others) == 2
    assert all(torch.equal(value, weights[name]) for name, value in own["network"].state_dict().items())
    black = torch.full((1, 1, 12, 12), -0.1357 / 0.2930)
    np.testing.assert_allclose(scope["logits"], own["network"](black).detach().numpy(), atol=1e-4)


def test_an_earlier_export_is_replaced_whole(exported, runs):
    out = Path(shutil.copytree(exported, "mine"))
    (out / "model.onnx").write_text("old")
    assert main(["export", str(run_folder(runs, "Original")), "--out", "mine"]) == 0
    assert sorted(path.name for path in out.iterdir()) == FILES
    assert sorted(path.name for path in Path().iterdir()) == ["mine"]
    assert onnxruntime.InferenceSession(out / "model.onnx")
    text = (out / "README.md").read_text()
    assert "the effect of the manipulation is in it" in text
    assert "selection_score" not in text
    assert "`steps=40`" in text
    assert "unlearn_steps" not in text


@pytest.fixture
def same_onnx(exported: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every export gets the ONNX file of `exported`, which takes no time to write."""

    def copy(network: nn.Module, images: torch.Tensor, path: Path) -> None:
        shutil.copy(exported / "model.onnx", path)

    monkeypatch.setattr(export, "write_onnx", copy)


@pytest.mark.usefixtures("same_onnx")
def test_the_card_names_a_destroyed_model_a_missing_comparison_and_a_lost_original(copied, monkeypatch):
    run = run_folder(copied)
    stored = json.loads((run / "metrics.json").read_text())
    write_metrics(run, stored | {"val_acc": 0.1})
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name))
    assert main(["export", str(run), "--out", "mine"]) == 0
    text = Path("mine/README.md").read_text()
    assert "this model is destroyed**" in text
    assert "was not compared with the network" in text
    shutil.rmtree(run_folder(copied, "Original"))
    assert main(["export", str(run), "--out", "mine"]) == 0
    text = Path("mine/README.md").read_text()
    assert "numbers of the original were not found" in text
    assert "| `val_acc` | validation accuracy | 0.1000 |" in text


def test_the_card_names_all_arguments_of_a_network():
    """Those that a class takes as keywords stand elsewhere in a config."""
    spec = {"class_path": "mine.Net", "init_args": {"num_classes": 3}, "dict_kwargs": {"width": 16}}
    assert card._network(spec) == {"module": "mine", "name": "Net", "arguments": "num_classes=3, width=16"}
    function = {"function": "timm.create_model", "arguments": {"model_name": "vit"}}
    path = f"{NetworkFromFunction.__module__}.NetworkFromFunction"
    made = card._network({"class_path": path, "init_args": function})
    assert made == {"module": "timm", "name": "create_model", "arguments": "model_name='vit'"}


def test_a_checkpoint_with_a_flipped_bit_is_refused(copied, capsys):
    run = run_folder(copied)
    flip_bit(run / "last.ckpt")
    assert_refused(["export", str(run), "--out", "mine"], r"last\.ckpt is damaged", capsys)


@pytest.mark.usefixtures("same_onnx")
def test_names_in_the_card_stay_names(copied):
    """Neither HTML nor a link, no other column, line or code span."""
    run, odd = run_folder(copied), "<img src=x>|\n# `x` ![a](b)"
    stored = json.loads((run / "metrics.json").read_text())
    odd_values = {"method": odd, "dataset": odd, "hyperparameters": {odd: odd}, "manipulation": odd}
    odd_values["environment"] = stored["environment"] | {"device": odd}
    write_metrics(run, stored | odd_values)
    assert main(["export", str(run), "--out", "mine"]) == 0
    text = Path("mine/README.md").read_text()
    shown, code = "&lt;img src=x>\\| # `x` ![a]\\(b)", "<img src=x>\\| # `x` ![a](b)"
    assert f"| method | {shown} |" in text
    assert f"| hyperparameters | `` {code}={code} `` |" in text
    assert f"| manipulation | `` {code}(" in text
    assert f"on {shown} |" in text
    assert "\n# `x`" not in text
    assert "<img" not in text.replace(code, "")


def test_a_checkpoint_that_runs_code_is_refused(copied, capsys):
    run = run_folder(copied)
    torch.save({"state_dict": CodeOnLoading()}, run / "last.ckpt")
    assert_refused(["export", str(run), "--out", "mine"], "last.ckpt is refused", capsys)


@pytest.mark.usefixtures("same_onnx")
def test_an_onnx_file_of_another_network_is_refused(unlearned, capsys):
    arguments = ["export", str(run_folder(unlearned, "Original")), "--out", "new/mine"]
    assert_refused(arguments, "ONNX file of Linear gives logits that differ by", capsys)


class Undecided(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1) if images.sum() > 0 else -images.flatten(1)


def test_a_network_that_the_exporter_does_not_understand(tmp_path, capfd):
    with pytest.raises(
        UserError, match=r"^Undecided cannot be written as ONNX \(.*data-dependent.*\): change"
    ) as raised:
        write_onnx(Undecided(), torch.randn(3, 1, 4, 4), tmp_path / "model.onnx")
    assert str(raised.value).isprintable()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("network", "shape"),
    [(ResNet9(4, in_channels=1, width=4), (1, 12, 12)), (WideResNet(depth=10, width=1, num_classes=10), (3, 16, 16))],
)
def test_the_projects_networks(network, shape, tmp_path, capfd):
    images = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    network.train()(images)  # other batch statistics than at the start
    write_onnx(network.eval(), images, tmp_path / "model.onnx")
    assert largest_difference(network, images, tmp_path / "model.onnx") < 1e-4
    assert capfd.readouterr() == ("", "")


WRONG = {
    "no run": (["nowhere", "--out", "new"], "no run folder nowhere"),
    "no folder": (["RUN"], "required: --out"),
    "a folder of other things": (["RUN", "--out", "full"], "--out full holds notes.txt, which no earlier export"),
    "an export and more": (["RUN", "--out", "more"], "--out more holds notes.txt"),
    "half an export": (["RUN", "--out", "half"], "--out half holds only part of an export"),
    "a file": (["RUN", "--out", "full/notes.txt"], "notes.txt is a file"),
    "a file above": (["RUN", "--out", "full/notes.txt/new"], "notes.txt/new cannot be written"),
    "where one is": (["RUN", "--out", "."], "is the current folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_reported_in_one_sentence(case, unlearned, exported, capsys):
    for folder in ("full", "more", "half"):
        Path(folder).mkdir()
    shutil.copytree(exported, "more", dirs_exist_ok=True)
    Path("full/notes.txt").write_text("mine")
    Path("more/notes.txt").write_text("mine")
    Path("half/README.md").write_text("mine")
    arguments, says = WRONG[case]
    run = str(run_folder(unlearned))
    assert_refused(["export", *(run if each == "RUN" else each for each in arguments)], says, capsys)


@pytest.mark.parametrize("name", ["onnx", "onnxscript", "safetensors"])
def test_without_the_extra(name, unlearned, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    says = rf"export needs {name}: pip install '.\[export\]'"
    assert_refused(["export", str(run_folder(unlearned)), "--out", "new"], says, capsys)
