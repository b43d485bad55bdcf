"""The reproduction's queue, rehearsed on tiny settings."""

import importlib.util
import json
import re
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from cmu_lightning.data import CIFAR10DataModule, CorruptedDataModule, Split
from cmu_lightning.errors import UserError
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.report import command

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
    monkeypatch.setattr(CorruptedDataModule, "kept", None)  # what the queue keeps is gone after the test


def run(*arguments):
    return reproduce.main(["--results", str(RESULTS), "--queue", "grid", *arguments, "--", *TINY])


def lines():
    found = []
    for line in RESULTS.read_text().splitlines():
        with suppress(ValueError):
            found.append(json.loads(line))
    return found


def test_it_goes_on_where_it_was_and_repeats_nothing(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "grid", lambda: [("10", "0.1")])
    assert run("--first", "3") == 0
    first = lines()
    assert [stored["method"] for stored in first] == ["Original", "SSD", "Potion"]
    assert all(stored["acc_corr"] >= 0 and stored["wall"] > 0 and stored["date"] for stored in first)
    whole = RESULTS.read_text()
    RESULTS.write_text(whole[: whole.rindex("}", 0, -4) + 1])  # cut in its last line, after an inner brace
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


def test_a_budget_that_ends_within_a_run(capsys):
    slow = [*TINY[:1], "100000", *TINY[2:]]
    begin, before = time.monotonic(), signal.getsignal(signal.SIGALRM)
    arguments = ["--queue", "grid", "--budget", "0.1", "--first", "1", "--", *slow]
    assert reproduce.main(["--results", str(RESULTS), *arguments]) == 3
    assert time.monotonic() - begin < 60
    assert "the same command resumes" in capsys.readouterr().out
    assert not RESULTS.exists()
    assert not list(Path("runs").rglob("metrics.json"))
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_run_that_fails_does_not_stop_the_others(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "grid", lambda: [("10", "0.1"), ("-1", "0.1")])
    assert run("--first", "4") == 1
    assert ["failed" in line for line in lines()] == [False, False, True, False]
    assert lines()[2]["failed"].startswith("error: selection=-1.0")
    assert run("--first", "4") == 1  # tried again, alone
    assert [line.get("method") for line in lines()] == ["Original", "SSD", None, "Potion", None]
    assert "3 of 4 runs are done" in capsys.readouterr().out


def test_an_error_is_kept_with_its_words(monkeypatch):
    def broken(arguments):
        raise MemoryError("there is no more")

    monkeypatch.setattr("cmu_lightning.cli.fit.main", broken)
    assert run("--first", "1") == 1
    assert lines()[0]["failed"] == "MemoryError: there is no more"


def test_report_reads_the_results_as_it_reads_the_runs(monkeypatch, capsys):
    monkeypatch.setattr(reproduce, "grid", lambda: [("10", "0.1")])
    assert run("--first", "4") == 0
    RESULTS.write_text(RESULTS.read_text() + '{"asked": "more", "failed": "exit code 2"}\n[1]\n{"asked": "cu')
    assert command.main(["runs", "--out", "one", "--pack", "packed.jsonl"]) == 0
    assert command.main([str(RESULTS), "--out", "other"]) == 0
    said = capsys.readouterr().out
    assert "here.jsonl, line 5" in said
    assert "line 7" in said
    assert run("--first", "4") == 0  # lines of others are no runs of its own
    assert command.main(["packed.jsonl", "--out", "third"]) == 0
    tables = sorted(path.name for path in Path("one/tables").glob("*.csv") if path.name != "skipped.csv")
    assert "curves.csv" in tables
    for table in tables:
        first = Path("one/tables", table).read_bytes()
        assert first == Path("other/tables", table).read_bytes() == Path("third/tables", table).read_bytes()
    figures = [sorted(path.name for path in Path(out).rglob("*.png")) for out in ("one", "other", "third")]
    assert figures[0] == figures[1] == figures[2]
    assert any("ratio" in name for name in figures[0])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "x.jsonl holds no run: give a runs folder"),
        ("[1]", r"x.jsonl holds no run \(x.jsonl, line 1: foreign: no JSON object\)"),
        ("# words", r"holds no run \(x.jsonl, line 1: damaged: no whole JSON\)"),
        ('{"setting": "../..", "method": "CF", "seed": 0, "hash": "aa"}', "name a folder"),
        ('{"setting": "..", "method": "CF", "seed": 0, "hash": "aa"}', "name a folder"),
    ],
)
def test_a_file_without_runs(content, says):
    Path("x.jsonl").write_text(content)
    with pytest.raises(UserError, match=says):
        command.main(["x.jsonl", "--out", "out"])
    assert not Path("out").exists()


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


def test_the_core_asks_each_question_once_and_the_originals_first(capsys):
    assert reproduce.main(["--results", str(RESULTS), "--plan", "--precision", "bf16-mixed", "--threads", "1"]) == 0
    plan = capsys.readouterr().out.splitlines()[1:]
    assert len(plan) == len(set(plan)) > 100
    assert all("--trainer.precision bf16-mixed --threads 1" in line for line in plan)
    assert "released_code.yaml" in plan[0]
    assert "unlearn" not in plan[0] + plan[1]
    for setting in ("poison_cifar10", "confusion_cifar10", "poison_cifar100", "confusion_cifar100", "poison_pcam"):
        of_setting = [line for line in plan if line.startswith(f"--config {setting}.yaml --")]
        assert "unlearn" not in next(line for line in of_setting if "released" not in line)
    seeds = [line.split("--seed_everything ")[1][0] for line in plan]
    assert seeds == sorted(seeds)


def test_an_estimate_times_each_network_here(capsys, monkeypatch):
    monkeypatch.setattr(reproduce, "ELSEWHERE", [])
    begin = time.monotonic()
    assert reproduce.main(["--results", str(RESULTS), "--estimate", "3", "--first", "15", "--", *TINY[4:]]) == 0
    said = capsys.readouterr().out
    seconds, steps = re.search(r"([\d.]+) s a step, ([\d,]+) steps left, ", said).groups()
    # Two originals of 4,000 steps, twelve dampened ones, CF's 1,000.
    assert steps == f"{2 * 4000 + 12 * reproduce.DAMPENING + 1000:,}"
    assert float(seconds) < time.monotonic() - begin
    assert "hours in all" in said
    assert not RESULTS.exists()
