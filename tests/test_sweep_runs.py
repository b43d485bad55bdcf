"""Sweeps that run: on warm workers, killed, interrupted, and several on one runs folder."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from queue import SimpleQueue

import pytest
import yaml
from filelock import FileLock, Timeout

from cmu_lightning.__main__ import main
from cmu_lightning.cli.fit import main as run_fit
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.sweep import weights, worker
from cmu_lightning.sweep.progress import SweepProgress

TERM = signal.SIGTERM
FIT = ["fit", "--config", "poison_digits.yaml"]
GRID = {
    "data.identified": {"values": [0.5, 1.0]},
    "model.class_path": {"value": "SSD"},
    "model.selection": {"values": [0.1, 1.0, 10.0]},
}


@pytest.fixture(autouse=True)
def _started_processes_find_the_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))


@pytest.fixture
def copied(runs, tmp_path):
    """A runs folder of this test's own, with the small original."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture
def sweep_file(small, tmp_path):
    """Writes a sweep of poison_digits with the small network."""

    def write(parameters: dict = GRID, *more: str) -> str:
        command = ["${env}", "${interpreter}", "-m", "${program}", *FIT, "--config", small, *more, "${args}"]
        content = {"program": "cmu_lightning", "method": "grid", "parameters": parameters, "command": command}
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(content))
        return str(tmp_path / "sweep.yaml")

    return write


def results(runs: Path, method: str = "*") -> dict[str, dict]:
    """What is stored of each run, but for what differs from time to time."""
    found = {}
    for path in sorted(runs.glob(f"*/{method}/*/metrics.json")):
        found[path.parent.name] = json.loads(path.read_text())
        for name in ("seconds", "environment", "dropped_checkpoint"):
            found[path.parent.name].pop(name, None)
    return found


@pytest.fixture(scope="module")
def undisturbed(runs, small, tmp_path_factory):
    """The results of GRID, by six commands in one process after the other."""
    folder = Path(shutil.copytree(runs, tmp_path_factory.mktemp("undisturbed") / "runs"))
    for identified in (0.5, 1.0):
        for selection in (0.1, 1.0, 10.0):
            options = [f"--data.identified={identified}", "--model.class_path=SSD", f"--model.selection={selection}"]
            assert run_fit([*FIT, "--config", small, *options, "--runs_dir", str(folder)]) == 0
    return results(folder)


def test_a_sweep_runs_each_point_once_and_keeps_the_chosen_weights(copied, sweep_file, undisturbed, capsys):
    arguments = ["sweep", sweep_file(), "--runs_dir", str(copied)]
    assert main([*arguments, "--workers", "2"]) == 0
    assert results(copied) == undisturbed
    for identified in (0.5, 1.0):
        paths = [
            p for p in copied.glob("*/SSD/*/metrics.json") if json.loads(p.read_text())["identified"] == identified
        ]
        stored = {path: json.loads(path.read_text()) for path in paths}
        best = max(run["selection_score"] for run in stored.values())
        first = [run for run in stored.values() if run["selection_score"] == best]
        chosen = min(first, key=lambda run: run["hyperparameters"]["selection"])
        for path, run in stored.items():
            assert (path.parent / "last.ckpt").exists() == (run is chosen) == ("dropped_checkpoint" not in run)
    assert len(list(copied.glob("*/Original/*/last.ckpt"))) == 1
    assert not list((copied / ".sweep").glob("failed/*"))

    before = {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()}
    assert main([*arguments, "--dry_run"]) == 0
    assert "6 runs, 6 done, 0 to do" in capsys.readouterr().out
    assert main(arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in copied.rglob("*") if path.is_file()} == before


def test_runs_of_others_are_known_and_keep_their_weights(copied, sweep_file, small):
    """By hand, in another spelling."""
    path = sweep_file(GRID | {"data.identified": {"value": 1.0}})
    options = ["--data.identified", "1", "--model.class_path", "SSD", "--model.selection", "1e-1"]
    assert run_fit([*FIT, "--config", small, *options, "--runs_dir", str(copied)]) == 0
    (by_hand,) = copied.glob("*/SSD/*")
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(list(copied.glob("*/SSD/*"))) == 3
    assert (by_hand / "last.ckpt").exists()
    assert not (by_hand / "csv" / "version_1").exists()


def test_a_failing_run_is_recorded_and_stops_no_other(copied, sweep_file, capsys):
    path = sweep_file({"data.identified": {"values": [0.001, 1.0]}, "model.class_path": {"value": "CF"}})
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 1
    assert len(results(copied, "CF")) == 1
    (failed,) = (copied / ".sweep" / "failed").glob("*.json")
    stored = json.loads(failed.read_text())
    assert stored["code"] == 2
    assert stored["lines"][-1].startswith("error: identified=0.001 of 36 manipulated samples is none")
    assert "1 failed; their last lines are in" in capsys.readouterr().err


def test_a_point_whose_worker_is_killed_is_tried_once_more(copied, sweep_file, tmp_path, capsys):
    (tmp_path / "kill").mkdir()
    network = ["--network", "tests.helpers.networks.Deadly", "--network.folder", str(tmp_path / "kill")]
    path = sweep_file({"seed_everything": {"values": [0, 1]}}, *network)
    (tmp_path / "kill" / "once").touch()
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(results(copied, "Original")) == 3
    assert not list((tmp_path / "kill").iterdir())


def test_a_point_that_kills_two_workers_is_a_failure(copied, sweep_file, tmp_path, capsys):
    (tmp_path / "kill").mkdir()
    network = ["--network", "tests.helpers.networks.Deadly", "--network.folder", str(tmp_path / "kill")]
    path = sweep_file({"seed_everything": {"values": [0, 1]}}, *network)
    for name in ("once", "twice"):
        (tmp_path / "kill" / name).touch()
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 1
    assert len(results(copied, "Original")) == 2
    assert "ended by SIGKILL, twice" in capsys.readouterr().err.replace("\n", " ")


def test_ctrl_c_leaves_nothing_half_made(copied, sweep_file, undisturbed):
    """Every run is finished, or has a checkpoint to go on from, or is not there."""
    arguments = ["sweep", sweep_file(), "--runs_dir", str(copied)]
    watch = threading.Thread(target=lambda: (wait_for(lambda: results(copied, "SSD")), os.kill(os.getpid(), TERM)))
    watch.start()
    assert main(arguments) == 130
    watch.join()
    assert unlocked(copied)
    assert nothing_half_made(copied)
    assert main(arguments) == 0
    assert results(copied) == undisturbed


def nothing_half_made(runs: Path) -> bool:
    """A run without results has a checkpoint, or at least a curve that early termination may look at."""
    for folder in runs.glob("poison_digits/*/*"):
        begun = [folder / "last.ckpt", *folder.glob("csv/*/metrics.csv")]
        assert (folder / "metrics.json").exists() or any(path.exists() for path in begun), [*folder.iterdir()]
    return not list(runs.rglob("*.part"))


def test_ctrl_c_in_a_terminal_reaches_all_processes_at_once(copied, sweep_file, undisturbed):
    arguments = ["sweep", sweep_file(), "--runs_dir", str(copied), "--workers", "2"]
    command = [sys.executable, "-m", "cmu_lightning", *arguments]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even if these tests run in a shell's background
    sweep = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listens)
    wait_for(lambda: results(copied, "SSD"))
    os.killpg(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=60)[1]
    assert sweep.returncode == 130, said
    assert "Traceback" not in said
    assert unlocked(copied)
    assert nothing_half_made(copied)
    assert main(arguments) == 0
    assert results(copied) == undisturbed


def test_two_shards_share_the_points(copied, sweep_file, undisturbed):
    arguments = ["sweep", sweep_file(), "--runs_dir", str(copied)]
    assert main([*arguments, "--shard", "1/2"]) == 0
    assert len(results(copied, "SSD")) == 3
    assert main([*arguments, "--shard", "2/2"]) == 0
    assert results(copied) == undisturbed
    assert not list(copied.glob("*/*/*/csv/version_1"))


def test_every_worker_has_a_gpu_of_its_own(copied, sweep_file, tmp_path, monkeypatch):
    """No GPU is needed: who may use which is settled before anything looks for one."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    network = ["--network", "tests.helpers.networks.Telling", "--network.folder", str(tmp_path / "seen")]
    path = sweep_file({"seed_everything": {"values": [0, 1, 2, 3]}}, *network)
    assert main(["sweep", path, "--runs_dir", str(copied), "--workers", "2"]) == 0
    assert {file.name for file in (tmp_path / "seen").iterdir()} == {"3", "5"}


def test_a_worker_reads_the_data_once(copied, sweep_file, tmp_path, monkeypatch):
    monkeypatch.setenv("READ", str(tmp_path / "read.txt"))
    path = sweep_file(
        {"seed_everything": {"values": [0, 1, 2, 3]}}, "--data", "tests.helpers.counted_digits.CountedDigits"
    )
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(results(copied, "Original")) == 5
    assert len((tmp_path / "read.txt").read_text().splitlines()) == 1


def test_a_point_of_two_processes_is_a_fit_of_its_own(copied, sweep_file):
    parameters = {"data.identified": {"values": [0.5, 1.0]}, "model.class_path": {"value": "CF"}}
    path = sweep_file(parameters, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    stored = [json.loads(file.read_text()) for file in copied.glob("*/CF/*/metrics.json")]
    assert [run["environment"]["world_size"] for run in stored] == [2, 2]


def test_a_killed_sweep_takes_its_workers_along_and_goes_on_to_the_same_results(copied, sweep_file, undisturbed):
    arguments = ["sweep", sweep_file(), "--runs_dir", str(copied)]
    sweep = subprocess.Popen([sys.executable, "-m", "cmu_lightning", *arguments])
    wait_for(lambda: results(copied, "SSD"))
    sweep.kill()
    sweep.wait()
    wait_for(lambda: unlocked(copied), seconds=5)
    assert len(results(copied, "SSD")) < 6
    assert main(arguments) == 0
    assert results(copied) == undisturbed


@pytest.mark.parametrize("answers", [0, 1])
def test_a_worker_ends_with_its_sweep_even_if_that_had_not_read_an_answer(answers, monkeypatch):
    ended = []
    monkeypatch.setattr(os, "killpg", lambda *what: ended.append(what))
    sweeps, own = multiprocessing.Pipe()
    for _ in range(answers):
        own.send(0)
    sweeps.close()
    worker._listen(own, SimpleQueue())
    assert ended == [(0, signal.SIGKILL)]


def test_four_sweeps_on_one_runs_folder(sweep_file, undisturbed, tmp_path):
    """Each a process with a worker of its own, on a folder without an original."""
    runs = tmp_path / "shared"
    command = [sys.executable, "-m", "cmu_lightning", "sweep", sweep_file(), "--runs_dir", str(runs)]
    four = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [each.wait() for each in four] == [0] * 4
    assert results(runs) == undisturbed
    assert len(list(runs.glob("*/Original/*"))) == 1
    assert not list(runs.glob("*/*/*/csv/version_1")), "a run was run twice"


def unlocked(runs: Path) -> bool:
    """Whether no process works on a run any more."""
    for path in (runs / ".locks").glob("*.lock"):
        lock = FileLock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            return False
        lock.release()
    return True


def wait_for(condition, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_what_one_run_says_is_not_the_next_ones(copied, sweep_file):
    """Threads, and which of a data set's samples validate."""
    path = sweep_file(
        {"data.val_size": {"values": [100, 99]}, "threads": {"values": [2, "null"]}}, "--procedure.steps", "2"
    )
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(results(copied, "Original")) == 3
    threads = {}
    for folder in copied.glob("*/Original/*"):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        threads[config["data"]["init_args"]["val_size"]] = config["threads"]
    assert threads == {100: 2, 99: 2, None: 1}


def test_damaged_results_among_rivals_stop_nothing(copied, sweep_file, undisturbed, capsys):
    """What `fit` says of them is a failure of that point alone."""
    arguments = ["sweep", sweep_file(), "--runs_dir", str(copied)]
    assert main(arguments) == 0
    damaged, lost, *_ = sorted(copied.glob("poison_digits/SSD/*/metrics.json"))
    damaged.write_text("{")
    lost.unlink()
    (copied / "poison_digits/notes.txt").write_text("mine")
    assert main(arguments) == 1
    assert "1 failed" in capsys.readouterr().out.replace("\n", " ") + "1 failed"
    assert damaged.read_text() == "{"
    assert lost.exists()


def test_the_time_left_is_told_of_long_runs_too():
    now = 0.0
    progress = SweepProgress(10, done=0)
    progress.get_time = lambda: now
    progress.reset(progress.sweep, total=10, running=0, failed=0)
    for _ in range(4):
        now += 600
        progress.show(running=1, done=1)
    assert 3000 < progress.tasks[0].time_remaining < 4000


def test_a_log_file_hears_of_progress_now_and_then(capsys):
    now = 0.0
    progress = SweepProgress(100, done=10)
    progress.get_time = lambda: now
    progress.said = 0.0
    progress.reset(progress.sweep, total=100, completed=10, running=0, failed=0)
    for second in range(1, 151):
        now = float(second)
        progress.show(running=2, done=second % 5 == 0, failed=second == 70)
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == ["22 of 100 done", "34 of 100 done"]
    assert "2 running, 1 failed, 0:0" in said[1]


def test_rivals_are_not_read_again_at_every_end(copied, sweep_file, undisturbed, monkeypatch):
    read = []
    monkeypatch.setattr(weights, "read_metrics", lambda run: read.append(run) or read_metrics(run))
    assert main(["sweep", sweep_file(), "--runs_dir", str(copied)]) == 0
    assert results(copied) == undisturbed
    assert len(read) <= 2 * (1 + 3)  # of three rivals the last is awaited, then all are read


def test_a_part_of_the_slurm_array_can_be_run_again(tmp_path):
    script = (PACKAGE.parent / "sweeps/slurm_array.sh").read_text()
    Path("array.sh").write_text(script.replace("exec python", f"exec {sys.executable}"))
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "8"}
    environment |= {"PYTHONPATH": str(PACKAGE.parent)}
    sweep = str(PACKAGE.parent / "sweeps/demo_digits")
    done = subprocess.run(
        ["bash", "array.sh", sweep, "--dry_run"], env=environment, capture_output=True, text=True, check=True
    )
    assert "15 runs" in done.stdout or "16 runs" in done.stdout
