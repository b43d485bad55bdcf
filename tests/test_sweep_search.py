"""Searches whose points depend on results: bayes and hyperband, against W&B's own engine."""

import json
import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import yaml

from cmu_lightning.__main__ import main
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.sweep import failures, stopped
from cmu_lightning.sweep.file import read
from cmu_lightning.sweep.hyperband import Hyperband
from cmu_lightning.sweep.points import Point, listed, of_files
from cmu_lightning.sweep.proposals import Proposals
from cmu_lightning.sweep.trials import history
from tests.test_sweep import plain

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import sweeps

BAYES = {
    "config": {"value": "poison_digits.yaml"},
    "model.class_path": {"value": "SSD"},
    "model.selection": {"distribution": "log_uniform_values", "min": 0.1, "max": 100.0},
    "model.dampening_ratio": {"values": [0.1, 1.0]},
}
METRIC = {"name": "selection_score", "goal": "maximize"}


@pytest.fixture(autouse=True)
def _started_processes_find_the_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))


def written(parameters: dict, *more: str, **keys) -> Path:
    command = ["${env}", "${interpreter}", "-m", "${program}", "fit", "${args}", *more]
    content = {"program": "cmu_lightning", "method": "grid", "metric": METRIC, "parameters": parameters}
    Path("sweep.yaml").write_text(yaml.safe_dump(content | {"command": command} | keys))
    return Path("sweep.yaml")


def pretend(point: Point, runs: Path, score: float | None, curve: list[float]) -> None:
    """Leave what a run would: a note, its curve, and its results if it has any."""
    folder = runs / "setting" / "SSD" / f"0-{point.key}"
    (folder / "csv" / "version_0").mkdir(parents=True)
    rows = [f"{step},{value}" for step, value in enumerate(curve)]
    text = "\n".join(["step,selection_score", "0,", *rows]) + "\n"
    (folder / "csv" / "version_0" / "metrics.csv").write_text(text)
    note = runs / ".sweep" / "asked" / point.key
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(folder.relative_to(runs)))
    if score is not None:
        (folder / "metrics.json").write_text(json.dumps({"hash": point.key, "selection_score": score}))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # of the engine's, with few results
def test_bayes_proposes_what_the_engine_does(tmp_path):
    """From finished, failed and stopped runs and from one that goes on; whichever process asks."""
    path = written(BAYES, method="bayes", run_cap=8)
    config = {"method": "bayes", "metric": METRIC, "parameters": BAYES}
    told: list[sweeps.SweepRun] = []
    for at in range(8):
        random.seed(at)
        np.random.seed(at)
        theirs = {name: plain(given["value"]) for name, given in sweeps.next_run(config, told).config.items()}
        point = Proposals(read(path), tmp_path).next()
        assert point.values == theirs
        run = {"config": {name: {"value": value} for name, value in theirs.items()}}
        score, curve = [(0.3 + at / 20, [0.2, 0.31]), (None, [0.1]), (None, []), (None, [0.4, 0.5])][at % 4]
        pretend(point, tmp_path, score, curve)
        if at % 4 == 2:
            failures.record(point, 1)
        if at % 4 == 3:
            stopped.mark(point)
        run |= {"state": ["finished", "running", "failed", "killed"][at % 4]}
        run |= {"history": [{"selection_score": value} for value in curve]}
        told.append(sweeps.SweepRun(summary_metrics={} if score is None else {"selection_score": score}, **run))
    assert Proposals(read(path), tmp_path).next() is None
    assert [point.values for point in Proposals(read(path), tmp_path).points()] == [
        {name: given["value"] for name, given in run.config.items()} for run in told
    ]


def test_hyperband_stops_what_the_engine_does(tmp_path):
    """The engine is asked after every value of a run, with all that the others have logged."""
    early = {"type": "hyperband", "min_iter": 2, "eta": 2}
    path = written({"seed_everything": {"values": [0, 1, 2, 3, 4]}}, early_terminate=early)
    points = listed(of_files([read(path)], tmp_path))
    curves = {0: [0.1, 0.5, 0.5, 0.6], 1: [0.9, 0.4, 0.7], 2: [0.2, 0.1], 3: [0.3], 4: []}
    config = {"method": "grid", "metric": METRIC, "early_terminate": early, "parameters": {"a": {"values": [1]}}}

    def told(at: int, length: int | None) -> sweeps.SweepRun:
        rows = [{"selection_score": value} for value in curves[at][:length]]
        summary = {"selection_score": 0.6} if at == 0 else {}
        state = "finished" if at == 0 else "running"
        return sweeps.SweepRun(name=str(at), state=state, history=rows, summary_metrics=summary)

    theirs = set()
    for at in range(1, 5):
        for length in range(1, len(curves[at]) + 1):
            runs = [told(each, length if each == at else None) for each in curves]
            theirs |= {at} & {int(run.name) for run in sweeps.stop_runs(config, runs)}
    assert theirs == {2}
    for point, (at, curve) in zip(points, curves.items(), strict=True):
        pretend(point, tmp_path, 0.6 if at == 0 else None, curve)
    hyperband = Hyperband()
    hyperband.add(points)
    assert {points.index(point) for point in hyperband.behind(points[1:])} == theirs
    assert hyperband.behind(points[1:]) == [], "nobody looks more often than he has to"

    again = Hyperband()
    failures.record(points[2], 1)
    again.add(points)
    assert again.behind(points[1:]) == [], "it failed, and waits to be tried again"
    failures.forget(points[2])
    again.add([points[2]])
    again.looked = 0.0
    assert again.behind(points[1:]) == [points[2]]


def test_a_bayes_sweep_runs_to_its_end_and_is_done_then(runs, small, tmp_path, capsys):
    copied = Path(shutil.copytree(runs, tmp_path / "runs"))
    path = written(BAYES, "--config", small, method="bayes", run_cap=3)
    arguments = ["sweep", str(path), "--runs_dir", str(copied)]
    assert main([*arguments, "--check"]) == 0
    assert main([*arguments, "--dry_run"]) == 0
    assert "bayes proposes up to 3 more" in capsys.readouterr().out
    assert main(arguments) == 0
    stored = [json.loads(file.read_text()) for file in copied.glob("*/SSD/*/metrics.json")]
    asked = [point.values for point in Proposals(read(path), copied).points()]
    assert sorted(run["hyperparameters"]["selection"] for run in stored) == sorted(
        one["model.selection"] for one in asked
    )
    assert len(asked) == 3
    assert len(list(copied.glob("*/SSD/*/last.ckpt"))) == 1, "the chosen one"
    before = {file: file.stat().st_mtime_ns for file in copied.glob("*/SSD/*/*")}
    assert main(arguments) == 0
    assert {file: file.stat().st_mtime_ns for file in copied.glob("*/SSD/*/*")} == before
    assert main([*arguments, "--shard", "1/2"]) == 2
    assert "which has no shards" in capsys.readouterr().err


def test_a_run_that_falls_behind_is_stopped_and_not_run_again(small, tmp_path, capsys):
    """In its first steps a long run is still warming up. A sweep in a shell's background ignores SIGINT itself."""
    early = {"type": "hyperband", "min_iter": 1}
    (tmp_path / "short.yaml").write_text(Path(small).read_text().replace("steps: 40, ", ""))
    small = str(tmp_path / "short.yaml")
    parameters = {"config": {"value": "poison_digits.yaml"}, "procedure.steps": {"values": [40, 1_000_000]}}
    metric = {"name": "val_acc", "goal": "maximize"}
    path = written(
        parameters, *["--config", small, "--trainer.val_check_interval", "20"], metric=metric, early_terminate=early
    )
    arguments = ["sweep", str(path), "--runs_dir", str(tmp_path / "runs")]
    background = ["sh", "-c", 'trap "" INT; exec "$@"', "sh", sys.executable, "-m", "cmu_lightning"]
    done = subprocess.run([*background, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "stopped early" in done.stderr
    finished = [p.parent for p in tmp_path.glob("runs/*/Original/*/metrics.json")]
    (other,) = [p for p in tmp_path.glob("runs/*/Original/*") if p not in finished]
    assert len(finished) == 1
    assert len(history(other, "val_acc")) >= 1
    assert main([*arguments, "--dry_run"]) == 0
    assert "2 runs, 2 done, 0 to do" in capsys.readouterr().out
    before = len(history(other, "val_acc"))
    assert main(arguments) == 0
    assert len(history(other, "val_acc")) == before


def test_without_the_engine_a_sentence_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sweeps", None)
    assert main(["sweep", str(written(BAYES, method="bayes", run_cap=2)), "--dry_run"]) == 2
    assert "pip install 'cmu-lightning[sweeps]'" in capsys.readouterr().err
    early = {"type": "hyperband", "min_iter": 1}
    assert main(["sweep", str(written({"seed_everything": {"value": 0}}, early_terminate=early))]) == 2
    assert "early_terminate is W&B's own engine's" in capsys.readouterr().err
