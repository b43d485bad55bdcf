"""What several processes do together, and what happens when one is killed.

On the CPU batch norm keeps each process's own statistics, so networks without it are used for training.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from socket import socket

import pytest
import torch

from cmu_lightning.cli.fit import main
from cmu_lightning.experiment import originals
from cmu_lightning.experiment.run import Run
from cmu_lightning.files import write_json
from cmu_lightning.parsing import PACKAGE
from tests.helpers.parallel_stages import kept, run

ROOT = PACKAGE.parent
CF = ["--config", "unlearn/cf.yaml", "--data.identified", "0.5"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.fixture(scope="module")
def processes():
    """Processes that start fast, for one has imported everything and forks."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["cmu_lightning.cli.fit"])
    return context


def command(small: str, runs: Path, *arguments: str) -> list[str]:
    return ["fit", "--config", "poison_digits.yaml", "--config", small, "--runs_dir", str(runs), *arguments]


def launch(start: list[str], arguments: list[str]) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*start, "-m", "cmu_lightning", *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def stored(runs: Path, method: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in sorted(runs.glob(f"poison_digits/{method}/*/metrics.json"))]


def weights(runs: Path, method: str) -> dict:
    (path,) = runs.glob(f"poison_digits/{method}/*/last.ckpt")
    return torch.load(path, weights_only=True)["state_dict"]


def assert_alike(one: Path, other: Path, method: str) -> None:
    """The same weights up to summation order, and the same numbers."""
    mine, theirs = weights(one, method), weights(other, method)
    for key in mine:
        torch.testing.assert_close(mine[key], theirs[key], atol=1e-5, rtol=1e-4)
    (mine,), (theirs,) = stored(one, method), stored(other, method)
    for name in mine:
        if name not in ("seconds", "environment", "config"):
            assert mine[name] == theirs[name], name


def test_torchrun_trains_the_original_on_demand_and_equals_one_process(small, runs, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    shutil.copytree(runs, one)
    assert main(command(small, one, *CF)) == 0
    launch(TORCHRUN, command(small, two, *CF, *TWO))
    for method in ("Original", "CF"):
        assert_alike(one, two, method)
        assert stored(two, method)[0]["environment"]["world_size"] == 2


def test_two_nodes_equal_one_process(small, runs, tmp_path):
    """As docs/sweeps.md says: one torchrun a node, here both on loopback."""
    one, two = (Path(shutil.copytree(runs, tmp_path / name)) for name in ("one", "two"))
    assert main(command(small, one, *CF)) == 0
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    options = ["--trainer.strategy", "ddp", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    start = [[*TORCHRUN[:3], *nodes, "--node-rank", str(node)] for node in range(2)]
    with ThreadPoolExecutor(2) as both:
        list(both.map(lambda each: launch(each, command(small, two, *CF, *options)), start))
    assert_alike(one, two, "CF")
    assert stored(two, "CF")[0]["environment"]["world_size"] == 2


def test_two_processes_measure_a_network_with_batch_norm_as_one_does(small, tmp_path):
    """397 test images; the stored numbers are of one process, `test` runs on two."""
    network = ["--network", "ResNet9", "--network.in_channels", "1", "--network.width", "4"]
    assert main(command(small, tmp_path, *network, "--procedure.steps", "10")) == 0
    (folder,) = tmp_path.glob("poison_digits/Original/*")
    again = ["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
    launch(TORCHRUN, [*again, *TWO])


def test_killed_and_started_again_ends_at_the_same_weights(small, runs, tmp_path, processes):
    steps = ["--procedure.steps", "400"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(small, whole, *steps)) == 0
    victim = processes.Process(target=main, args=(command(small, broken, *steps),))
    victim.start()
    wait_for(lambda: list(broken.glob("poison_digits/Original/*/last.ckpt")))
    victim.kill()
    victim.join()
    assert not stored(broken, "Original")
    assert main(command(small, broken, *steps)) == 0
    mine, theirs = weights(whole, "Original"), weights(broken, "Original")
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_sigterm_ends_a_run_that_can_go_on(small, tmp_path):
    """The process dies of the signal, so that whoever has sent it does not take that for a failure."""
    arguments = command(small, tmp_path, "--procedure.steps", "1000000")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    start = [sys.executable, "-m", "cmu_lightning", *arguments]
    running = subprocess.Popen(start, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: list(tmp_path.glob("poison_digits/Original/*/last.ckpt")))
    running.terminate()
    _, said = running.communicate(timeout=60)
    assert running.returncode == -signal.SIGTERM
    assert "stopped by SIGTERM: run the same command again to continue" in said
    assert not stored(tmp_path, "Original")
    (path,) = tmp_path.glob("poison_digits/Original/*/last.ckpt")
    assert "optimizer_states" in torch.load(path, weights_only=True)


def test_four_processes_share_one_original_though_the_first_is_killed(small, runs, tmp_path, processes, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    seeds = [["--model.seed", str(seed)] for seed in range(4)]
    four = [processes.Process(target=main, args=(command(small, tmp_path, *CF, *seed),)) for seed in seeds]
    victim = processes.Process(target=main, args=(command(small, tmp_path),))
    victim.start()
    wait_for(lambda: list(tmp_path.glob("poison_digits/Original/*/last.ckpt")))
    victim.kill()
    for process in four:
        process.start()
    for process in four:
        process.join()
    assert [process.exitcode for process in four] == [0] * 4
    assert len(stored(tmp_path, "CF")) == 4
    (original,) = stored(tmp_path, "Original")
    assert {run["original"] for run in stored(tmp_path, "CF")} == {original["hash"]}
    mine, theirs = weights(runs, "Original"), weights(tmp_path, "Original")
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_of_all_that_ask_for_an_original_one_starts_a_process(tmp_path, monkeypatch):
    wanted = Run.at(tmp_path, "poison_digits", "Original", 0, "0123456789")
    config = {"original_seed": 0, "data": {"init_args": {}}, "trainer": {}}
    started = []

    def train(run, config):
        started.append(run)
        time.sleep(0.3)  # the others ask meanwhile
        write_json(run.folder / "metrics.json", {"hash": run.hash})
        run.checkpoint.touch()

    monkeypatch.setattr(originals, "_train", train)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(originals.find_or_train, wanted, config, frozenset()) for _ in range(4)]
    assert [each.result() for each in asked] == [str(wanted.checkpoint)] * 4
    assert started == [wanted]


def test_unlearners_on_two_processes_equal_those_on_one(original, tmp_path):
    """Losses, importances, dampened weights and the search's end; of 9 deleted samples, and of 1, which is on one."""
    two = tmp_path / "two"
    two.mkdir()
    shutil.copy(original, two / "original.ckpt")
    script = ["-m", "tests.helpers.parallel_stages", str(two / "original.ckpt"), str(two), "2"]
    done = subprocess.run([*TORCHRUN, *script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    mine, alike = run(original, tmp_path, 1), [torch.load(two / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for theirs in alike:
        for name, stage in mine.items():
            other = theirs["stages"][name]
            assert stage["losses"] == pytest.approx(other["losses"], rel=1e-4, abs=1e-6), name
            assert len(stage["losses"]) == (10 if name in ("Scrub", "BadT") else 0)
            assert stage["samples"] == other["samples"], name
            for key, value in stage["weights"].items():
                torch.testing.assert_close(value, other["weights"][key], rtol=1e-4, atol=1e-5, msg=name)
        assert len(theirs["importances"]) == 4
        for one, other in zip(kept(original), theirs["importances"], strict=True):
            for key in ("deleted", "retain"):
                torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-9)


def wait_for(condition, seconds: float = 400) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
