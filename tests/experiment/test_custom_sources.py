"""Files of custom classes, which are no part of a run's hash."""

import json
import os
from pathlib import Path

import pytest

from cmu_lightning.experiment import identity
from cmu_lightning.experiment.identity import digest_sources
from cmu_lightning.parsing import PACKAGE

CODE = """
from cmu_lightning.unlearning import CF
from tests.helpers.networks import Linear


class Mine(CF):
    pass


def network(num_classes: int = 10, function: str = "relu"):
    return Linear(144, num_classes)
"""


@pytest.fixture
def custom_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a file that defines a method and a network, and can be imported here and in processes started here."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{PACKAGE.parent}")  # for the original on demand
    path = tmp_path / "edited.py"
    path.write_text(CODE)
    return path


def test_edited_classes_are_named_and_their_runs_stay(custom_module, fit, capsys):
    network = ["--network", "edited.network"]
    assert fit(*network, "--runs_dir", "runs") == 0  # here, for an original on demand is a process of its own
    arguments = [*network, "--model", "edited.Mine", "--data.identified", "0.5"]
    assert fit(*arguments, "--runs_dir", "runs") == 0
    stored = [json.loads(path.read_text()) for path in sorted(Path("runs").glob("*/*/*/metrics.json"))]
    assert [set(run["environment"]["source"]) for run in stored] == [
        {"edited.Mine", "edited.network"},
        {"edited.network"},
    ]
    before = {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.json")}
    capsys.readouterr()

    assert fit(*arguments, "--runs_dir", "runs") == 0
    assert "has changed" not in capsys.readouterr().err

    custom_module.write_text(CODE.replace("pass", "lr = 0.1"))
    identity._digest_source.cache_clear()  # as another process would have it
    assert fit(*arguments, "--runs_dir", "runs") == 0
    said = capsys.readouterr().err
    assert said.count("has changed since runs/poison_digits/Mine/0-") == 2
    assert "the file of edited.Mine has changed" in said
    assert {path: path.stat().st_mtime_ns for path in Path("runs").rglob("*.json")} == before

    assert fit(*arguments, "--model.seed", "5", "--runs_dir", "runs") == 0
    assert "the file of edited.network has changed since runs/poison_digits/Original/0-" in capsys.readouterr().err


def test_classes_of_installed_packages_have_no_digest():
    parts = [{"class_path": name} for name in ("cmu_lightning.unlearning.CF", "torch.nn.Linear", "json.JSONDecoder")]
    assert digest_sources({"a": parts, "b": {"function": "relu"}}) == {}
    assert set(digest_sources({"a": {"b": [{"class_path": "tests.helpers.networks.Linear"}]}})) == {
        "tests.helpers.networks.Linear"
    }


FLOWERS = """
import torch
from cmu_lightning.data import CorruptedDataModule, Split


class Flowers(CorruptedDataModule):
    dataset, num_classes, mean, std, padding, flip = "flowers", 10, (0.5,), (0.5,), 0, False

    def load(self):
        value = int((self.root / "value").read_text())
        images = torch.arange(60 * 144).reshape(60, 12, 12, 1).mul(value).remainder(251).byte()
        return Split(images, torch.arange(60) % 10), None, Split(images[:20], torch.arange(20) % 10)
"""


def test_a_finished_run_of_other_data_is_not_taken_for_done(custom_module, fit, monkeypatch, capsys):
    """The hash knows no paths, and a class of one's own may say nothing of its files."""
    custom_module.with_name("flowers.py").write_text(FLOWERS)
    for place, value in (("a", 3), ("b", 3), ("c", 7)):
        Path(place).mkdir()
        Path(place, "value").write_text(str(value))
    config = "{class_path: flowers.Flowers, init_args: {manipulation: {class_path: Poison, init_args: {size: 9}}}}"
    Path("flowers.yaml").write_text(f"data: {config}\n")
    arguments = ["--config", "flowers.yaml", "--data.val_size", "10", "--runs_dir", "runs"]
    assert fit(*arguments, "--data.root", "a") == 0
    assert fit(*arguments, "--data.root", "b") == 0
    assert "was finished before" in capsys.readouterr().out
    monkeypatch.setenv("CMU_DATA_DIR", "c")
    for place in (["--data.root", "c"], []):
        assert fit(*arguments, *place) == 2
        assert "was made with other data than those in c: give another --setting" in capsys.readouterr().err
    assert len(list(Path("runs").glob("*/*/*/metrics.json"))) == 1
