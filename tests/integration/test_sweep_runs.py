"""Sweeps on worker processes: killed, interrupted, and several on one runs folder."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cmu_lightning.__main__ import main
from cmu_lightning.cli.fit import main as run_fit
from cmu_lightning.files import Lock
from cmu_lightning.parsing import PACKAGE
from tests.helpers.process_tree import children
from tests.helpers.waiting import wait_for
from tests.sweep.studies import SSD_GRID, read_results, write_sweep

pytestmark = pytest.mark.slow

Results = dict[str, dict[str, Any]]
Write = Callable[..., str]
SWEEP = [sys.executable, "-m", "cmu_lightning", "sweep"]


@pytest.fixture(autouse=True)
def _started_processes_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """Return a runs folder of this test's own, with the small original."""
    return Path(shutil.copytree(runs, tmp_path / "runs"))


@pytest.fixture
def small_sweep(small: str) -> Write:
    """Return a function that writes a sweep of poison_digits with the small network."""

    def write(parameters: dict[str, Any] = SSD_GRID, *options: str) -> str:
        return str(write_sweep(parameters, "--config", small, *options))

    return write


@pytest.fixture(scope="module")
def undisturbed(runs: Path, small: str, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return the results of SSD_GRID, by six commands in one process after the other."""
    folder = Path(shutil.copytree(runs, tmp_path_factory.mktemp("undisturbed") / "runs"))
    fit = ["fit", "--config", "poison_digits.yaml", "--config", small, "--model.class_path=SSD"]
    for identified in (0.5, 1.0):
        for selection in (0.1, 1.0, 10.0):
            options = [f"--data.identified={identified}", f"--model.selection={selection}", "--runs_dir", str(folder)]
            assert run_fit([*fit, *options]) == 0
    return read_results(folder)


def is_unlocked(runs_dir: Path) -> bool:
    """Return whether no process works on a run any more."""
    for path in (runs_dir / ".locks").glob("*.lock"):
        lock = Lock(path)
        if not lock.acquire(wait=False):
            return False
        lock.release()
    return True


def is_resumable(runs_dir: Path) -> bool:
    """Return whether every run without results has a checkpoint, or at least a curve, and no file is half written."""
    for folder in runs_dir.glob("poison_digits/*/*"):
        begun = [folder / "last.ckpt", *folder.glob("csv/*/metrics.csv")]
        assert (folder / "metrics.json").exists() or any(path.exists() for path in begun), [*folder.iterdir()]
    return not list(runs_dir.rglob("*.part"))


def test_a_point_that_kills_its_worker_is_tried_once_more(
    copied: Path, small_sweep: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A second time is a failure; a command line that kills its worker when it is parsed is left to the run."""
    (tmp_path / "kill").mkdir()
    network = ["--network", "tests.helpers.networks.KilledWhenBuilt", "--network.folder", str(tmp_path / "kill")]
    path = small_sweep({"seed_everything": {"values": [0, 1]}}, *network)
    for name in ("parse 0", "parse 1", "run 0", "run 0 again"):
        (tmp_path / "kill" / name).touch()
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 1
    assert len(read_results(copied, "Original")) == 2
    assert "ended by SIGKILL, twice" in capsys.readouterr().err.replace("\n", " ")

    for name in ("parse 0", "run 0"):
        (tmp_path / "kill" / name).touch()
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(read_results(copied, "Original")) == 3
    assert not list((tmp_path / "kill").iterdir())


def test_sigterm_leaves_nothing_half_made(copied: Path, small_sweep: Write, undisturbed: Results) -> None:
    """Every run is finished, or has a checkpoint to resume from, or is not there."""
    arguments = ["sweep", small_sweep(), "--runs_dir", str(copied)]

    def terminate() -> None:
        wait_for(lambda: read_results(copied, "SSD"))
        os.kill(os.getpid(), signal.SIGTERM)

    watch = threading.Thread(target=terminate)
    watch.start()
    assert main(arguments) == 130
    watch.join()
    assert is_unlocked(copied)
    assert is_resumable(copied)
    assert main(arguments) == 0
    assert read_results(copied) == undisturbed


def test_ctrl_c_in_a_terminal_reaches_all_processes_at_once(
    copied: Path, small_sweep: Write, undisturbed: Results
) -> None:
    arguments = ["sweep", small_sweep(), "--runs_dir", str(copied), "--workers", "2"]
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even if these tests run in a shell's background
    sweep = subprocess.Popen(
        [*SWEEP, *arguments[1:]], stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listens
    )
    wait_for(lambda: read_results(copied, "SSD"))
    os.killpg(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=120)[1]
    assert sweep.returncode == 130, said
    assert "Traceback" not in said
    assert is_unlocked(copied)
    assert is_resumable(copied)
    assert main(arguments) == 0
    assert read_results(copied) == undisturbed


def test_ctrl_c_while_workers_import_ends_a_sweep_without_a_trace(copied: Path, small_sweep: Write) -> None:
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    command_line = [*SWEEP, small_sweep(), "--runs_dir", str(copied)]
    sweep = subprocess.Popen(
        command_line, stderr=subprocess.PIPE, text=True, start_new_session=True, preexec_fn=listens
    )
    wait_for(lambda: len(children(sweep.pid)) >= 2)  # Python's tracker of resources, and the workers' server
    os.killpg(sweep.pid, signal.SIGINT)
    said = sweep.communicate(timeout=600)[1]  # until the server has imported torch, and ends too
    assert sweep.returncode == 130, said
    assert "Traceback" not in said


def test_every_worker_has_a_gpu_of_its_own(
    copied: Path, small_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No GPU is needed: who may use which is settled before anything looks for one."""
    (tmp_path / "seen").mkdir()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    network = ["--network", "tests.helpers.networks.GPURecorder", "--network.folder", str(tmp_path / "seen")]
    path = small_sweep({"seed_everything": {"values": [0, 1, 2, 3]}}, *network)
    assert main(["sweep", path, "--runs_dir", str(copied), "--workers", "2"]) == 0
    assert {file.name for file in (tmp_path / "seen").iterdir()} == {"3", "5"}


def test_a_worker_reads_the_data_once(
    copied: Path, small_sweep: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("READ", str(tmp_path / "read.txt"))
    path = small_sweep(
        {"seed_everything": {"values": [0, 1, 2, 3]}}, "--data", "tests.helpers.counted_digits.CountedDigits"
    )
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(read_results(copied, "Original")) == 5
    assert len((tmp_path / "read.txt").read_text().splitlines()) == 1


def test_a_point_of_two_processes_is_a_fit_of_its_own(copied: Path, small_sweep: Write) -> None:
    """Its weights wait for the choice among hyperparameters too, here with a point that destroys the network."""
    for selection, processes in (([1e-6], []), ([1e-6, 10.0], ["--trainer.devices", "2", "--trainer.strategy", "ddp"])):
        parameters = {"model.selection": {"values": selection}, "model.class_path": {"value": "SSD"}}
        assert main(["sweep", small_sweep(parameters, *processes), "--runs_dir", str(copied)]) == 0
    stored = [json.loads(file.read_text()) for file in copied.glob("*/SSD/*/metrics.json")]
    assert sorted(run["environment"]["world_size"] for run in stored) == [1, 2]
    (chosen,) = copied.glob("*/SSD/*/last.ckpt")
    assert json.loads(chosen.with_name("metrics.json").read_text())["environment"]["world_size"] == 2


def test_a_killed_sweep_takes_its_workers_along_and_is_continued_to_the_same_results(
    copied: Path, small_sweep: Write, undisturbed: Results
) -> None:
    arguments = ["sweep", small_sweep(), "--runs_dir", str(copied)]
    sweep = subprocess.Popen([*SWEEP, *arguments[1:]])
    wait_for(lambda: read_results(copied, "SSD"))
    sweep.kill()
    sweep.wait()
    wait_for(lambda: is_unlocked(copied), seconds=10)
    assert len(read_results(copied, "SSD")) < 6
    assert main(arguments) == 0
    assert read_results(copied) == undisturbed


def test_four_sweeps_on_one_runs_folder(small_sweep: Write, undisturbed: Results, tmp_path: Path) -> None:
    """Each a process with a worker of its own, on a folder without an original."""
    runs = tmp_path / "shared"
    command_line = [*SWEEP, small_sweep(), "--runs_dir", str(runs)]
    four = [subprocess.Popen(command_line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(4)]
    assert [each.wait() for each in four] == [0] * 4
    assert read_results(runs) == undisturbed
    assert len(list(runs.glob("*/Original/*"))) == 1
    assert not list(runs.glob("*/*/*/csv/version_1")), "a run was run twice"


def test_what_one_run_sets_is_not_the_next_ones(copied: Path, small_sweep: Write) -> None:
    """Threads, and which of a data set's samples validate."""
    path = small_sweep(
        {"data.val_size": {"values": [100, 99]}, "threads": {"values": [2, "null"]}}, "--procedure.steps", "2"
    )
    assert main(["sweep", path, "--runs_dir", str(copied)]) == 0
    assert len(read_results(copied, "Original")) == 3
    threads = {}
    for folder in copied.glob("*/Original/*"):
        config = yaml.safe_load((folder / "config.yaml").read_text())
        threads[config["data"]["init_args"]["val_size"]] = config["threads"]
    assert threads == {100: 2, 99: 2, None: 1}


def test_a_list_of_runs_needs_no_torch(tmp_path: Path) -> None:
    code = "import sys; from cmu_lightning.__main__ import main; main(['sweep', sys.argv[1], '--dry_run']); "
    code += "assert not {'torch', 'lightning', 'wandb', 'optuna'} & sys.modules.keys()"
    study = str(PACKAGE.parent / "sweeps/main")
    done = subprocess.run([sys.executable, "-c", code, study], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("9315 runs, 0 done, 9315 to do\n")


def test_a_finished_sweep_needs_no_torch(copied: Path, small_sweep: Write, tmp_path: Path) -> None:
    path = small_sweep({"seed_everything": {"value": 0}})
    code = "import sys; from cmu_lightning.__main__ import main; code = main(sys.argv[1:]); "
    code += "assert not {'torch', 'lightning', 'wandb', 'optuna'} & sys.modules.keys(); sys.exit(code)"
    arguments = ["sweep", path, "--runs_dir", str(copied)]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1/1" in done.stderr


def test_a_part_of_the_slurm_array_can_be_run_again() -> None:
    script = (PACKAGE.parent / "sweeps/slurm_array.sh").read_text()
    Path("array.sh").write_text(script.replace("exec python", f"exec {sys.executable}"))
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "1", "SHARDS": "8"}
    sweep = str(PACKAGE.parent / "sweeps/demo_digits")
    done = subprocess.run(
        ["bash", "array.sh", sweep, "--dry_run"], env=environment, capture_output=True, text=True, check=True
    )
    assert "15 runs" in done.stdout or "16 runs" in done.stdout
