"""The reproduction's queue, rehearsed on tiny settings."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from cmu_lightning.data import CIFAR10DataModule, Split
from cmu_lightning.parsing import PACKAGE

SPEC = importlib.util.spec_from_file_location("reproduce", PACKAGE.parent / "benchmarks/reproduce.py")
reproduce = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(reproduce)

TINY = [
    *(
        "--procedure.steps",
        "2",
        "--procedure.unlearn_steps",
        "2",
        "--procedure.batch_size",
        "64",
        "--network.width",
        "2",
    ),
    *("--data.val_size", "20", "--data.manipulation.size", "30", "--trainer.accelerator", "cpu"),
    *("--trainer.enable_progress_bar", "false"),
]
RESULTS = Path("docs/results/here.jsonl")


@pytest.fixture(autouse=True)
def _small_cifar(monkeypatch):
    def load(self):
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (260, 32, 32, 3), generator=generator).to(torch.uint8)
        labels = torch.arange(260) % 10
        return Split(images[:200], labels[:200]), None, Split(images[200:], labels[200:])

    monkeypatch.setattr(CIFAR10DataModule, "prepare_data", lambda self: None)
    monkeypatch.setattr(CIFAR10DataModule, "load", load)


def run(*arguments):
    return reproduce.main(["--results", str(RESULTS), *arguments, "--", *TINY])


def lines():
    return [json.loads(line) for line in RESULTS.read_text().splitlines() if line.endswith("}")]


def test_it_goes_on_where_it_was_and_repeats_nothing(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "grid", lambda: [("10", "0.1")])
    assert run("--first", "3") == 0
    first = lines()
    assert [stored["method"] for stored in first] == ["Original", "SSD", "Potion"]
    assert all(stored["acc_corr"] >= 0 and stored["wall"] > 0 and stored["date"] for stored in first)
    whole = RESULTS.read_text()
    RESULTS.write_text(whole[:-40])  # cut in its last line
    made = [path.stat().st_mtime_ns for path in sorted(Path("runs").rglob("metrics.json"))]
    assert run("--first", "3") == 0
    assert [stored["method"] for stored in lines()] == ["Original", "SSD", "Potion"]
    assert [path.stat().st_mtime_ns for path in sorted(Path("runs").rglob("metrics.json"))] == made
    assert "2 of 3 runs are done" in capsys.readouterr().out


def test_every_method_of_the_first_cell_runs(monkeypatch):
    monkeypatch.setattr(reproduce, "grid", lambda: [("10", "0.1")])
    monkeypatch.setattr(reproduce, "DISTILL", ["0.1"])
    assert run("--first", "8") == 0
    assert [stored["method"] for stored in lines()] == [
        *("Original", "SSD", "Potion", "ASSD", "RewoD", "CF", "BadT", "Scrub"),
    ]


def test_a_budget_that_is_spent(capsys):
    assert run("--budget", "-1") == 3
    assert "the same command goes on" in capsys.readouterr().out
    assert not RESULTS.exists()


def test_the_plan_is_in_order_of_value(capsys):
    assert run("--plan") == 0
    plan = capsys.readouterr().out.splitlines()[1:]
    assert len(plan) == len(set(plan)) > 5000
    assert plan[0].startswith("--config poison_cifar10.yaml --seed_everything 0 --procedure")
    cells = [line.split()[1] for line in plan]
    assert list(dict.fromkeys(cells)) == [
        *("poison_cifar10.yaml", "confusion_cifar10.yaml", "poison_pcam.yaml"),
        *("poison_cifar100.yaml", "confusion_cifar100.yaml"),
    ]


def test_the_grid_has_the_39_points_that_differ():
    assert len(list(reproduce.grid())) == 39
