"""The documents' code runs."""

import inspect
import json
import re
import shutil
import sys
from inspect import isabstract
from pathlib import Path
from zipfile import ZipFile

import pytest
from hatchling.builders.wheel import WheelBuilder

from cmu_lightning import data
from cmu_lightning.cli import main
from cmu_lightning.parsing import PACKAGE

ROOT = PACKAGE.parent


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), re.DOTALL)


def test_the_readmes_python(capsys):
    (code,) = blocks("README.md", "python")
    short = code.replace("steps=300", "steps=2").replace(
        "max_epochs=1,", 'max_epochs=1, accelerator="cpu", logger=False,'
    )
    assert short.count("steps=2") == 1
    exec(compile(short, "README.md", "exec"), scope := {})
    assert {"acc_corr", "acc_retain"} <= scope["stage"].results.keys()


def test_an_unlearner_of_ones_own(fit, tmp_path, monkeypatch, capsys):
    document = (ROOT / "docs/extending.md").read_text()
    Path("mine.py").write_text(blocks("docs/extending.md", "python")[0])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    command = re.search(r"^python -m cmu_lightning fit --config poison_digits.yaml (.*mine.*)$", document, re.MULTILINE)
    arguments = command[1].split()
    assert fit("--runs_dir", "runs") == 0
    assert fit(*arguments, "--runs_dir", "runs") == 0
    (path,) = Path("runs/poison_digits/GradientAscent").glob("*/metrics.json")
    stored = json.loads(path.read_text())
    assert stored["hyperparameters"] == {"weight": 0.2}
    assert stored["identified"] == 0.5


def test_a_backdoor_of_ones_own(fit, tmp_path, monkeypatch):
    (code,) = (block for block in blocks("docs/extending.md", "python") if "Backdoor" in block)
    Path("mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    document = (ROOT / "docs/extending.md").read_text()
    arguments = re.search(
        r"^python -m cmu_lightning fit --config poison_digits.yaml (.*Stripe.*)$", document, re.MULTILINE
    )
    assert fit(*arguments[1].split(), "--runs_dir", "runs") == 0
    (path,) = Path("runs/poison_digits/Original").glob("*/metrics.json")
    stored = json.loads(path.read_text())
    assert (stored["manipulation"], stored["manipulated"]) == ("Stripe", 36)
    assert "asr" in stored


def test_a_discovery_of_ones_own(runs, fit, tmp_path, monkeypatch, capsys):
    document = (ROOT / "docs/extending.md").read_text()
    (code,) = (block for block in blocks("docs/extending.md", "python") if "Discovery" in block)
    Path("mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    arguments = re.search(
        r"^python -m cmu_lightning fit --config poison_digits.yaml (.*mine.Bright.*)$", document, re.MULTILINE
    )
    shutil.copytree(runs, "runs")
    assert fit(*arguments[1].split(), "--runs_dir", "runs") == 0
    (path,) = Path("runs/poison_digits/CF").glob("*/metrics.json")
    assert json.loads(path.read_text())["discovery_recall"] == 0.5


def test_a_detector_of_ones_own(runs, fit, tmp_path, monkeypatch):
    document = (ROOT / "docs/extending.md").read_text()
    (code,) = (block for block in blocks("docs/extending.md", "python") if "Detector" in block)
    Path("mine.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    arguments = re.search(
        r"^python -m cmu_lightning fit --config poison_digits.yaml (.*mine.Outliers.*)$", document, re.MULTILINE
    )
    shutil.copytree(runs, "runs")
    assert fit(*arguments[1].split(), "--runs_dir", "runs") == 0
    (path,) = Path("runs/poison_digits/CF").glob("*/metrics.json")
    assert json.loads(path.read_text())["deleted"] == 36


def test_the_page_of_manipulations_names_every_one_and_its_arguments():
    page = (ROOT / "docs/manipulations.md").read_text()
    shown = (ROOT / "docs/manipulations.py").read_text()
    for name in data.__all__:
        kind = getattr(data, name)
        if isinstance(kind, type) and issubclass(kind, data.Manipulation | data.Discovery) and not isabstract(kind):
            assert f"`{name}`" in page
            assert issubclass(kind, data.Discovery | data.Unknown) or f'"{name}"' in shown
            for argument in inspect.signature(kind).parameters:
                assert f"`{argument}`" in page, (name, argument)


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
