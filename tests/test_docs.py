"""The documents' code runs."""

import inspect
import json
import re
import shutil
import sys
from inspect import isabstract
from pathlib import Path
from pkgutil import resolve_name
from zipfile import ZipFile

import pytest
import torch
import yaml
from hatchling.builders.wheel import WheelBuilder
from torch.optim import Optimizer

from cmu_lightning import data, unlearning
from cmu_lightning.cli.fit import main
from cmu_lightning.parsing import PACKAGE
from tests.helpers.short_stages import weights

ROOT = PACKAGE.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_readmes_python(capsys):
    (code,) = blocks("README.md", "python")
    short = code.replace("steps=300", "steps=2").replace("max_epochs=1,", 'max_epochs=1, accelerator="cpu",')
    assert short.count("steps=2") == 1
    exec(compile(short, "README.md", "exec"), scope := {})
    assert {"acc_corr", "acc_retain"} <= scope["stage"].results.keys()


@pytest.fixture
def follow(fit, tmp_path, monkeypatch):
    """Writes the code of docs/extending.md that holds a word to mine.py, and runs the command that does."""

    def run(word: str, command: str) -> None:
        (code,) = (block for block in blocks("docs/extending.md", "python") if word in block)
        Path("mine.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.delitem(sys.modules, "mine", raising=False)
        document = (ROOT / "docs/extending.md").read_text()
        typed = rf"^python -m cmu_lightning fit --config poison_digits.yaml (.*{command}.*)$"
        arguments = re.search(typed, document, re.MULTILINE)[1].split()
        assert fit(*arguments, "--runs_dir", "runs") == 0

    return run


def stored(method: str) -> dict:
    (path,) = Path("runs/poison_digits", method).glob("*/metrics.json")
    return json.loads(path.read_text())


def test_an_unlearner_of_ones_own(runs, follow):
    shutil.copytree(runs, "runs")
    follow("class ClippedAscent", "mine")
    assert stored("ClippedAscent")["hyperparameters"] == {"weight": 0.2}
    assert stored("ClippedAscent")["identified"] == 0.5


@pytest.mark.parametrize("name", ["SecondBest", "Salience"])
def test_other_unlearners_of_ones_own(runs, fit, tmp_path, monkeypatch, name):
    shutil.copytree(runs, "runs")
    (code,) = (block for block in blocks("docs/extending.md", "python") if f"class {name}" in block)
    Path("mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert fit("--model", f"mine.{name}", "--data.identified", "0.5", "--runs_dir", "runs") == 0
    assert stored(name)["changed"] > 0


def test_a_test_of_ones_own(tmp_path, monkeypatch):
    for name, word in {"mine.py": "class ClippedAscent", "test_mine.py": "def test_its_loss"}.items():
        (code,) = (block for block in blocks("docs/extending.md", "python") if word in block)
        Path(name).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    exec(compile(Path("test_mine.py").read_text(), "test_mine.py", "exec"), scope := {})
    scope["test_its_loss"]()
    scope["test_it_starts_from_the_original_and_ends_elsewhere"](tmp_path)


def test_a_backdoor_of_ones_own(follow):
    follow("Backdoor", "Stripe")
    assert (stored("Original")["manipulation"], stored("Original")["manipulated"]) == ("Stripe", 36)
    assert "asr" in stored("Original")


def test_a_discovery_of_ones_own(runs, follow):
    shutil.copytree(runs, "runs")
    follow("OrderedDiscovery", "mine.Bright")
    assert stored("CF")["discovery_recall"] == 0.5


def test_a_detector_of_ones_own(runs, follow):
    shutil.copytree(runs, "runs")
    follow("Detector", "mine.Outliers")
    assert stored("CF")["deleted"] == 36


def arguments(kind: type) -> set[str]:
    """Names of a class's arguments, those that it passes to its bases as **kwargs included."""
    initialisers = [vars(base)["__init__"] for base in kind.__mro__[:-1] if "__init__" in vars(base)]
    return {name for each in initialisers for name in inspect.signature(each).parameters} - {"self", "kwargs"}


def test_the_page_of_manipulations_names_every_one_and_its_arguments():
    page = (ROOT / "docs/manipulations.md").read_text()
    shown = (ROOT / "docs/manipulations.py").read_text()
    for name in set(data.__all__) - {"Discovery"}:
        kind = getattr(data, name)
        if isinstance(kind, type) and issubclass(kind, data.Manipulation | data.Discovery) and not isabstract(kind):
            assert f"`{name}`" in page
            undrawn = data.Discovery | data.Unknown | data.LabelsFromFile
            assert issubclass(kind, undrawn) or f'"{name}"' in shown
            for argument in arguments(kind):
                assert f"`{argument}`" in page, (name, argument)


def test_the_page_of_methods_names_every_one():
    page = (ROOT / "docs/methods.md").read_text()
    kinds = [getattr(unlearning, name) for name in unlearning.__all__]
    methods = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, unlearning.Unlearner)]
    named = {kind.__name__ for kind in methods if not (kind.__doc__ or "").startswith("Base of")} - {"Unlearner"}
    assert len(named) >= 20
    assert {name for name in named if f"| `{name}`" not in page} == set()
    for setting in blocks("docs/methods.md", "yaml"):
        assert issubclass(resolve_name(yaml.safe_load(setting)["procedure"]["optimizer"]["class_path"]), Optimizer)


def test_a_mask_of_ones_own(runs, fit, tmp_path, monkeypatch):
    shutil.copytree(runs, "runs")
    (code,) = blocks("docs/methods.md", "python")
    Path("mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    assert fit("--model", "mine.BiasesOnly", "--data.identified", "0.5", "--runs_dir", "runs") == 0
    (before,), (after,) = (Path("runs/poison_digits", name).glob("*/last.ckpt") for name in ("Original", "BiasesOnly"))
    one, other = weights(before), weights(after)
    assert [key for key in one if not torch.equal(one[key], other[key])] == ["network.1.bias", "network.3.bias"]


METHODS = {
    "reduction": "badt",
    "alternate": "scrub",
    "ascend": "scrub",
    "rewind": "scrub",
    "augment": "ssd",
    "fisher": "ssd",
}


def test_every_option_of_the_fidelity_page_exists(capsys, fit):
    options = re.findall(r"`--([\w.]+) ([^`]+)`", (ROOT / "docs/fidelity.md").read_text())
    assert len(options) >= 8
    for name, value in options:
        setting = "confusion_cifar100.yaml" if name.endswith(("pick", "pair")) else "poison_cifar10.yaml"
        overlay = ["--config", f"unlearn/{METHODS[name[6:]]}.yaml"] if name.startswith("model.") else []
        with pytest.raises(SystemExit) as ended:
            main(["fit", "--config", setting, *overlay, f"--{name}", value, "--print_config"])
        assert not ended.value.code, (name, value)
        assert "error" not in capsys.readouterr().err


def test_links_lead_somewhere():
    documents = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert len(documents) > 8
    for document in documents:
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", document.read_text()):
            assert (document.parent / target).exists(), (document, target)


def test_the_wheel_brings_all_that_is_read(tmp_path):
    """Configs inside the package, where they are looked up first; templates; and none of the tests."""
    (built,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    names = set(ZipFile(built).namelist())
    configs = {path.relative_to(ROOT) for path in (ROOT / "configs").rglob("*.yaml")}
    sources = {path.relative_to(ROOT) for path in PACKAGE.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {f"cmu_lightning/{path}" for path in configs} | {str(path) for path in sources} <= names
    assert all(name.startswith(("cmu_lightning/", "cmu_lightning-")) for name in names)
