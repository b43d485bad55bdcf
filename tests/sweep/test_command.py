"""The command and the Python call, with workers in the tests' own process."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmu_lightning.__main__ import main
from cmu_lightning.cli.fit import main as run_fit
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.sweep import SweepResult, sweep, weights
from cmu_lightning.sweep.file import read_file
from cmu_lightning.sweep.search import BayesSearch
from tests.sweep.studies import ROOT, SSD_GRID, read_results, write_sweep

pytestmark = pytest.mark.usefixtures("inline_workers")

METRIC = {"name": "selection_score", "goal": "maximize"}
Write = Callable[..., str]


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """Return a runs folder of this test's own, with the small original."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture
def small_sweep(small: str) -> Write:
    """Return a function that writes a sweep of poison_digits with the small network."""

    def write(parameters: dict[str, Any] = SSD_GRID, *options: str, **keys: Any) -> str:
        return str(write_sweep(parameters, "--config", small, *options, **keys))

    return write


def read_times(folder: Path) -> dict[Path, int]:
    """Return when each file was last written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_sweep_runs_each_point_once_and_keeps_the_chosen_weights(
    copied: Path, small_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", small_sweep(), "--runs_dir", str(copied)]
    assert main([*arguments, "--workers", "2"]) == 0
    assert len(read_results(copied, "SSD")) == 6
    for identified in (0.5, 1.0):
        every = {path: json.loads(path.read_text()) for path in copied.glob("*/SSD/*/metrics.json")}
        stored = {path: run for path, run in every.items() if run["identified"] == identified}
        best = max(run["selection_score"] for run in stored.values())
        first = [run for run in stored.values() if run["selection_score"] == best]
        chosen = min(first, key=lambda run: run["hyperparameters"]["selection"])
        for path, run in stored.items():
            assert (path.parent / "last.ckpt").exists() == (run is chosen) == ("dropped_checkpoint" not in run)
            assert yaml.safe_load((path.parent / "config.yaml").read_text())["checkpoints"] == "chosen"
    assert len(list(copied.glob("*/Original/*/last.ckpt"))) == 1
    assert not list((copied / ".sweep").glob("failed/*"))

    before = read_times(copied)
    assert main([*arguments, "--dry_run"]) == 0
    assert "6 runs, 6 done, 0 to do" in capsys.readouterr().out
    assert main(arguments) == 0
    assert read_times(copied) == before
    assert sweep(arguments[1], runs_dir=copied) == SweepResult(6)


@pytest.mark.parametrize(("policy", "kept"), [("all", 3), ("none", 0)])
def test_weights_that_a_sweep_is_asked_to_keep_or_drop(
    policy: str, kept: int, copied: Path, small_sweep: Write
) -> None:
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    assert main(["sweep", path, "--runs_dir", str(copied), "--checkpoints", policy]) == 0
    assert len(list(copied.glob("*/SSD/*/last.ckpt"))) == kept
    configs = [yaml.safe_load(config.read_text()) for config in copied.glob("*/SSD/*/config.yaml")]
    assert [config["checkpoints"] for config in configs] == [policy] * 3


def test_a_fit_that_nobody_asked_to_wait_drops_its_weights_at_once(copied: Path, small: str) -> None:
    options = ["--model.class_path", "SSD", "--runs_dir", str(copied), "--checkpoints", "chosen"]
    assert run_fit(["fit", "--config", "poison_digits.yaml", "--config", small, *options]) == 0
    (metrics,) = copied.glob("*/SSD/*/metrics.json")
    assert json.loads(metrics.read_text())["dropped_checkpoint"] == "last.ckpt"
    assert not metrics.with_name("last.ckpt").exists()


def test_runs_of_others_are_known_and_keep_their_weights(copied: Path, small_sweep: Write, small: str) -> None:
    """By hand, in another spelling."""
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    options = ["--data.identified", "1", "--model.class_path", "SSD", "--model.selection", "1e-1"]
    options = ["--config", "poison_digits.yaml", "--config", small, *options]
    assert run_fit(["fit", *options, "--runs_dir", str(copied)]) == 0
    (by_hand,) = copied.glob("*/SSD/*")
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(list(copied.glob("*/SSD/*"))) == 3
    assert (by_hand / "last.ckpt").exists()
    assert not (by_hand / "csv" / "version_1").exists()


def test_a_failing_run_is_recorded_and_stops_no_other(
    copied: Path, small_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """From Python, its reason is in the result."""
    original = next(copied.glob("*/Original/*/last.ckpt"))
    values = {"model.class_path": {"value": "CF"}, "model.original": {"values": ["nothing.ckpt", str(original)]}}
    path = small_sweep(values)
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 1
    assert len(read_results(copied, "CF")) == 1
    (failed,) = (copied / ".sweep" / "failed").glob("*.json")
    stored = json.loads(failed.read_text())
    assert stored["code"] == 2
    assert stored["lines"][-1].startswith("error: there is no checkpoint nothing.ckpt")
    assert "1 failed; their last lines are in" in capsys.readouterr().err
    result = sweep(Path(path), runs_dir=copied)
    assert (result.total, result.done, result.failed) == (2, 1, 1)
    ((line, reason),) = result.failures.items()
    assert line.startswith("fit --config poison_digits.yaml")
    assert line.endswith("--model.class_path=CF --model.original=nothing.ckpt")
    assert reason == stored["lines"][-1]


def test_from_python_a_mistake_is_an_exception() -> None:
    path = write_sweep({"data.identified": {"values": [0.5, 2]}})
    with pytest.raises(UserError, match=r"identified=2\.0 is not in"):
        sweep([path])
    with pytest.raises(UserError, match="--workers 0 is not possible: give a number from 1"):
        sweep(path, workers=0)
    with pytest.raises(UserError, match="checkpoints=some is not possible: give all, chosen, none"):
        sweep(path, checkpoints="some")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="cannot be read"):
        sweep("nothing.yaml")


@pytest.mark.parametrize("given", ["0", "1025"])
def test_an_impossible_number_of_workers_is_reported(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "sweep.yaml", "--workers", given]) == 2
    assert f"--workers {given} is not possible: give a number from 1 to 1024" in capsys.readouterr().err


def test_two_shards_share_the_points(copied: Path, small_sweep: Write) -> None:
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    arguments = ["sweep", path, "--runs_dir", str(copied)]
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert len(read_results(copied, "SSD")) == 2
    assert main([*arguments, "--shard", "2/2"]) == 0
    assert len(read_results(copied, "SSD")) == 3
    assert not list(copied.glob("*/*/*/csv/version_1"))
    assert len(list(copied.glob("*/SSD/*/last.ckpt"))) == 1, "chosen among the points of both"


def test_a_bayes_sweep_runs_to_its_end_and_is_done_then(
    copied: Path, small_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {
        "model.class_path": {"value": "SSD"},
        "model.selection": {"distribution": "log_uniform_values", "min": 0.1, "max": 100.0},
        "model.dampening_ratio": {"values": [0.1, 1.0]},
    }
    path = small_sweep(parameters, method="bayes", run_cap=3, metric=METRIC)
    arguments = ["sweep", path, "--runs_dir", str(copied)]
    assert main([*arguments, "--check"]) == 0
    assert main([*arguments, "--dry_run"]) == 0
    assert "bayes proposes up to 3 more" in capsys.readouterr().out
    assert main(arguments) == 0
    stored = [json.loads(file.read_text()) for file in copied.glob("*/SSD/*/metrics.json")]
    asked = [point.values for point in BayesSearch(read_file(Path(path)), copied).points()]
    assert sorted(run["hyperparameters"]["selection"] for run in stored) == sorted(
        one["model.selection"] for one in asked
    )
    assert len(asked) == 3
    assert len(list(copied.glob("*/SSD/*/last.ckpt"))) == 1, "the chosen one"
    before = read_times(copied / "poison_digits/SSD")
    assert main(arguments) == 0
    assert read_times(copied / "poison_digits/SSD") == before
    assert sweep(path, runs_dir=copied) == SweepResult(3)
    assert main([*arguments, "--shard", "1/2"]) == 2
    assert "which has no shards" in capsys.readouterr().err


def test_a_random_sweep_is_done_when_all_its_points_are(
    copied: Path, small_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    parameters = {
        "model.class_path": {"value": "SSD"},
        "model.selection": {"distribution": "q_log_normal", "mu": 2, "sigma": 1, "q": 0.5},
    }
    arguments = ["sweep", small_sweep(parameters, method="random", run_cap=2), "--runs_dir", str(copied)]
    assert main(arguments) == 0
    assert main([*arguments, "--dry_run"]) == 0
    assert "2 runs, 2 done, 0 to do" in capsys.readouterr().out


def test_early_termination_is_left_to_wandbs_agents(
    copied: Path, small_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sweep says so in one sentence, and runs every point to its end."""
    early = {"type": "hyperband", "min_iter": 1}
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 0.5}}, metric=METRIC, early_terminate=early)
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    said = capsys.readouterr().err
    assert said.count("early_terminate") == 1
    assert f"{path}: only W&B's agents follow early_terminate; this sweep runs every point to its end" in said
    assert len(read_results(copied, "SSD")) == 3


def test_damaged_results_among_others_stop_nothing(
    copied: Path, small_sweep: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    """What `fit` says of them is a failure of that point and of no other."""
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    arguments = ["sweep", path, "--runs_dir", str(copied)]
    assert main(arguments) == 0
    damaged, lost, *_ = sorted(copied.glob("poison_digits/SSD/*/metrics.json"))
    damaged.write_text("{")
    lost.unlink()
    (copied / "poison_digits/notes.txt").write_text("mine")
    capsys.readouterr()
    assert main(arguments) == 1
    assert "1 failed" in capsys.readouterr().err.replace("\n", " ")
    assert damaged.read_text() == "{"
    assert lost.exists()


def test_results_are_not_read_again_at_every_end(
    copied: Path, small_sweep: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(weights, "read_metrics", lambda run: read.append(run) or read_metrics(run))  # type: ignore[func-returns-value]
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(read_results(copied, "SSD")) == 3
    assert len(read) <= 2 + 3 + 2  # the last is awaited, all are read, and two of them lose their weights


def test_a_run_that_ends_without_results_is_no_finished_one(
    copied: Path, small_sweep: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As one that somebody stops on W&B's page, whose command ends well."""
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    monkeypatch.setattr("cmu_lightning.sweep.runner.read_metrics", lambda folder: None)
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 1
    assert "3 failed" in capsys.readouterr().err.replace("\n", " ")


def test_a_file_decides_which_weights_its_runs_keep(copied: Path, small_sweep: Write) -> None:
    """The sweep's own choice, by default `chosen`, is for files that say nothing."""
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}}, "--checkpoints", "all")
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    runs = [*copied.glob("poison_digits/SSD/*")]
    assert [(run / "last.ckpt").exists() for run in runs] == [True] * 3


def test_a_list_of_several_files_counts_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, seeds in (("one.yaml", [0, 1]), ("two.yaml", [2])):
        write_sweep({"seed_everything": {"values": seeds}}, name=name)
    assert main(["sweep", "one.yaml", "two.yaml", "--dry_run", "--runs_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == ["one.yaml: 2 runs, 0 done", "two.yaml: 1 runs, 0 done", "3 runs, 0 done, 3 to do"]


def test_the_documents_python_call(copied: Path, small_sweep: Write) -> None:
    code = (ROOT / "docs/sweeps.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert "sweep(" in code
    path = small_sweep(SSD_GRID | {"data.identified": {"value": 1.0}})
    code = code.replace("sweeps/demo_digits", path).replace('runs_dir="runs"', f"runs_dir={str(copied)!r}")
    exec(compile(code, "docs/sweeps.md", "exec"), scope := {"__name__": "__main__"})
    assert scope["result"] == SweepResult(3)


def test_what_wandb_would_refuse_is_refused_once_and_before_anything_runs(
    place: Path, small_sweep: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of the environment, also where all command lines were parsed before; and of the options of many points."""
    path, tag = small_sweep(), "b" * 65
    arguments, before = ["--runs_dir", str(place)], sorted(place.glob("*/*/*"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_TAGS", tag)
    for check in (["--check"], []):
        assert main(["sweep", path, *arguments, *check]) == 2
        said = capsys.readouterr().err
        assert (said.count("error: "), said.count(f"WANDB_TAGS={tag} cannot be used for W&B")) == (1, 1)
    monkeypatch.setenv("WANDB_MODE", "often")
    assert main(["sweep", path, *arguments]) == 2
    assert capsys.readouterr().err.startswith("error: WANDB_MODE=often is no mode of W&B")
    monkeypatch.delenv("WANDB_TAGS")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert main(["sweep", small_sweep(SSD_GRID, "--wandb.tags", f"[{tag}]"), *arguments]) == 2
    said = capsys.readouterr().err
    assert (said.count("error: "), said.count(f"wandb.tags={tag} cannot be used for W&B")) == (1, 1)
    assert sorted(place.glob("*/*/*")) == before
