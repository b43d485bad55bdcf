"""What several processes do together, and what happens when one is killed.

On the CPU batch norm keeps each process's own statistics, so networks without it are used for training.
"""

import json
import os
import shutil
import signal
from contextlib import suppress
from pathlib import Path
from socket import socket

import pytest
import torch

from cmu_lightning.cli.fit import main
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.unlearning import Original
from tests.helpers.forked_commands import fork_context, start_command
from tests.helpers.parallel_stages import fit_unlearners
from tests.helpers.process_tree import children, command_line, is_running
from tests.helpers.short_stages import LINEAR, SHORT, digits, trainer
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow

ROOT = PACKAGE.parent
CF = ["--config", "unlearn/cf.yaml", "--data.identified", "0.5"]
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
EARLY = ["--network", "tests.helpers.networks.CheckpointedEachEpoch"]
ENDLESS = [*EARLY, "--procedure.steps", "1000000"]
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


@pytest.fixture(autouse=True)
def _started_processes_find_the_tests(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def processes():
    """Processes that start fast."""
    return fork_context()


def command(small: str, runs: Path, *arguments: str) -> list[str]:
    return ["fit", "--config", "poison_digits.yaml", "--config", small, "--runs_dir", str(runs), *arguments]


def launch(*starts: list[str]) -> None:
    """Run `python -m` commands at the same time, each without an error."""
    logs = [Path(f"launch{at}.log") for at in range(len(starts))]
    processes = [start_command(["-m", *words], log, log) for words, log in zip(starts, logs, strict=True)]
    for process, log in zip(processes, logs, strict=True):
        process.join()
        assert process.exitcode == 0, log.read_text()


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


def test_torchrun_trains_the_original_on_demand_and_equals_one_process(small, unlearned, tmp_path):
    launch([*TORCHRUN, "cmu_lightning", *command(small, tmp_path, *CF, *TWO)])
    for method in ("Original", "CF"):
        assert_alike(unlearned, tmp_path, method)
        assert stored(tmp_path, method)[0]["environment"]["world_size"] == 2


def test_two_nodes_equal_one_process(small, runs, unlearned, tmp_path):
    """As docs/sweeps.md says: one torchrun a node, here both on loopback."""
    two = Path(shutil.copytree(runs, tmp_path / "two"))
    with socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = ["--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
    options = ["--trainer.strategy", "ddp", "--trainer.devices", "1", "--trainer.num_nodes", "2"]
    fit = ["-m", "cmu_lightning", *command(small, two, *CF, *options)]
    launch(*([TORCHRUN[0], *nodes, "--node-rank", str(node), *fit] for node in range(2)))
    assert_alike(unlearned, two, "CF")
    assert stored(two, "CF")[0]["environment"]["world_size"] == 2


def test_two_processes_measure_a_network_with_batch_norm_as_one_does(small, tmp_path, ranks):
    """397 test images; the stored numbers are of one process, `test` runs on two, and has code 1 for other numbers."""
    network = ["--network", "ResNet9", "--network.in_channels", "1", "--network.width", "4"]
    assert main(command(small, tmp_path, *network, "--procedure.steps", "10")) == 0
    (folder,) = tmp_path.glob("poison_digits/Original/*")
    again = ["test", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
    assert ranks.run(main, [*again, *TWO]) == [0, 0]


def test_killed_and_started_again_ends_at_the_same_weights(small, tmp_path, processes):
    steps = ["--procedure.steps", "400"]
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert main(command(small, whole, *steps)) == 0
    victim, other = (processes.Process(target=main, args=(command(small, broken, *steps, *EARLY),)) for _ in range(2))
    victim.start()
    wait_for(lambda: list(broken.glob("poison_digits/Original/*/last.ckpt")))
    victim.kill()
    victim.join()
    assert not stored(broken, "Original")
    other.start()
    other.join()
    assert other.exitcode == 0
    mine, theirs = weights(whole, "Original"), weights(broken, "Original")
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


STARTS = {"torchrun": TORCHRUN, "Lightning": []}


class Job:
    """A job that would train for hours, once its first checkpoint is there or it has ended.

    Args:
        start: Words between `python -m` and `cmu_lightning`.
        arguments: Words after it.
        runs: Runs folder of the job, where its output is written to, too.
    """

    def __init__(self, start: list[str], arguments: list[str], runs: Path) -> None:
        self.log = runs / "job.log"
        self.parent = start_command(["-m", *start, "cmu_lightning", *arguments], self.log, self.log)
        wait_for(lambda: not self.parent.is_alive() or list(runs.glob("poison_digits/Original/*/last.ckpt")))
        ranks = [each for each in children(self.parent.pid) if "cmu_lightning" in command_line(each)]
        self.ranks = ranks if start else [self.parent.pid, *ranks]

    def said(self, seconds: float) -> str:
        """Return all that was printed, once every process that can print has ended, in time."""
        try:
            wait_for(lambda: not any(map(is_running, (self.parent.pid, *self.ranks))), seconds)
            self.parent.join()
            return self.log.read_text()
        finally:
            for each in (self.parent.pid, *self.ranks):
                with suppress(ProcessLookupError):
                    os.kill(each, signal.SIGKILL)


def test_sigterm_ends_a_run_that_can_go_on(small, tmp_path):
    """The process dies of the signal, so that whoever has sent it does not take that for a failure."""
    job = Job([], command(small, tmp_path, *ENDLESS), tmp_path)
    job.parent.terminate()
    said = job.said(seconds=60)
    assert job.parent.exitcode == -signal.SIGTERM
    assert "stopped by SIGTERM: run the same command again to continue" in said
    assert not stored(tmp_path, "Original")
    (path,) = tmp_path.glob("poison_digits/Original/*/last.ckpt")
    assert "optimizer_states" in torch.load(path, weights_only=True)


@pytest.mark.parametrize("start", STARTS)
def test_sigterm_ends_two_processes_that_can_go_on(small, tmp_path, start):
    """All ranks end after the same step, and one of them says so; the same command continues from the checkpoint."""
    job = Job(STARTS[start], command(small, tmp_path, *TWO, *ENDLESS), tmp_path)
    job.parent.terminate()
    said = job.said(seconds=20)
    assert said.count("stopped by SIGTERM: run the same command again to continue") == 1
    assert job.parent.exitcode == (1 if start == "torchrun" else -signal.SIGTERM)
    (path,) = tmp_path.glob("poison_digits/Original/*/last.ckpt")
    assert "optimizer_states" in torch.load(path, weights_only=True)


@pytest.mark.parametrize(("start", "dies"), [("Lightning", 0), ("Lightning", 1), ("torchrun", 1)])
def test_when_a_process_dies_the_other_one_ends_with_a_sentence(small, tmp_path, start, dies):
    job = Job(STARTS[start], command(small, tmp_path, *TWO, *ENDLESS), tmp_path)
    os.kill(job.ranks[dies], signal.SIGKILL)
    said = job.said(seconds=20)
    assert said.count("run the same command again to continue") == (0 if start == "torchrun" else 1), said
    if (start, dies) == ("Lightning", 1):
        assert "error: process 2 of 2 was ended by SIGKILL" in said
        assert job.parent.exitcode == 2


def test_a_taken_port_ends_all_processes_with_a_sentence(small, tmp_path, monkeypatch):
    with socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setenv("MASTER_PORT", str(port))
        job = Job(STARTS["Lightning"], command(small, tmp_path, *TWO), tmp_path)
        said = job.said(seconds=20)
    assert job.parent.exitcode == 2
    assert f"error: port {port}, at which the processes meet, is taken: set MASTER_PORT to a free one" in said
    assert not list(tmp_path.glob("poison_digits/Original/*"))


def test_a_layer_that_is_never_called_is_said(small, tmp_path):
    """DDP waits for its gradients."""
    network = ["--network", "tests.helpers.networks.WithIdleLayer", "--network.pixels", "144"]
    arguments = command(small, tmp_path, *TWO, *network, "--network.num_classes", "10")
    job = Job(STARTS["Lightning"], arguments, tmp_path)
    said = job.said(seconds=20)
    assert job.parent.exitcode == 2
    assert "error: the network has a layer that no loss depends on" in said


class DivergingOnRank1(Original):
    """An original of which one process has a loss that is not finite, after some steps."""

    def loss(self, batch):
        losses = super().loss(batch)
        return losses * float("nan") if self.global_step >= 12 and self.global_rank == 1 else losses


def fit_diverging(folder: Path) -> tuple[str, int]:
    """What a process says, and the step of the checkpoint that is kept."""
    every = LastCheckpoint(folder / "last.ckpt", seconds=-1, rest=-1)
    every.look = 1
    options = {"devices": 2, "strategy": "ddp", "use_distributed_sampler": False, "log_every_n_steps": 5}
    with pytest.raises(UserError) as raised:
        trainer(folder, every, **options).fit(DivergingOnRank1(LINEAR, SHORT), datamodule=digits())
    return str(raised.value), torch.load(folder / "last.ckpt", weights_only=True)["global_step"]


def test_a_loss_that_is_not_finite_on_one_process_ends_both_alike(tmp_path, ranks):
    one, other = ranks.run(fit_diverging, tmp_path)
    assert one == other
    assert "train_loss became nan in steps 11 to 15 of 24" in one[0]
    assert one[1] == 12


def test_four_processes_share_one_original_though_the_first_is_killed(small, runs, tmp_path, processes):
    seeds = [["--model.seed", str(seed)] for seed in range(4)]
    four = [processes.Process(target=main, args=(command(small, tmp_path, *EARLY, *CF, *seed),)) for seed in seeds]
    victim = processes.Process(target=main, args=(command(small, tmp_path, *EARLY),))
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


def test_unlearners_on_two_processes_equal_those_on_one(original, tmp_path, ranks):
    """Losses, importances, dampened weights and the search's end; of 9 deleted samples, and of 1, which is on one."""
    two = tmp_path / "two"
    two.mkdir()
    shutil.copy(original, two / "original.ckpt")
    mine = fit_unlearners(original, tmp_path, 1)
    for theirs in ranks.run(fit_unlearners, str(two / "original.ckpt"), two, 2):
        for name, stage in mine.stages.items():
            other = theirs.stages[name]
            assert stage["losses"] == pytest.approx(other["losses"], rel=1e-4, abs=1e-6), name
            assert len(stage["losses"]) == (10 if name in ("Scrub", "BadT") else 0)
            assert stage["counts"] == other["counts"], name
            for key, value in stage["weights"].items():
                torch.testing.assert_close(value, other["weights"][key], rtol=1e-4, atol=1e-5, msg=name)
        assert len(theirs.importances) == 4
        for one, other in zip(mine.importances, theirs.importances, strict=True):
            for key in ("deleted", "retain"):
                # The smallest are squares of gradients that cancel: exact up to 32 bits of the largest.
                exact = 1e-7 * one[key].max().item()
                torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=exact)
