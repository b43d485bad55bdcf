"""The unmodified `wandb sweep` and `wandb agent` on shipped sweep files, against the stub."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from cmu_lightning.parsing import PACKAGE
from tests.helpers.run_files import published
from tests.helpers.waiting import wait_for
from tests.helpers.wandb_server import KEY, Stub

pytestmark = pytest.mark.slow

ROOT = PACKAGE.parent
BIN = Path(sys.executable).parent
SHORT = ["--config", "small.yaml", "--procedure.unlearn_steps", "20", "--trainer.log_every_n_steps", "5"]
ENDLESS = ["--procedure.unlearn_steps", "100000", "--network", "tests.helpers.networks.CheckpointedEachEpoch"]
TWO = ["--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.accelerator", "cpu"]


class Place:
    """Runs, a stub, and commands that know of both."""

    def __init__(self, folder: Path, runs: Path, small: str) -> None:
        self.stub, self.folder, self.started = Stub(), folder, []
        self.runs = Path(shutil.copytree(runs, folder / "runs"))
        shutil.copy(small, folder / "small.yaml")
        clear = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
        places = {f"WANDB_{name}_DIR": str(folder / "of_client") for name in ("CONFIG", "CACHE", "DATA")}
        self.environment = clear | places | {
            "WANDB_BASE_URL": self.stub.url,
            "WANDB_API_KEY": KEY,
            "WANDB_ERROR_REPORTING": "false",
            "WANDB__FILE_STREAM_TRANSMIT_INTERVAL": "1",
            "CMU_RUNS_DIR": str(self.runs),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PATH": f"{BIN}:{os.environ['PATH']}",
        }  # fmt: skip

    def wandb(self, *arguments: str) -> subprocess.Popen:
        """The client, in a process group of its own."""
        command = [sys.executable, "-c", FAST, *arguments]
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        self.started.append(
            subprocess.Popen(command, cwd=self.folder, env=self.environment, start_new_session=True, **pipes)
        )
        return self.started[-1]

    def register(self, file: str, more: Sequence[str] = (), **values: list) -> str:
        """`wandb sweep` of a shipped file, with fewer points and steps if any are given."""
        path = ROOT / "sweeps" / file
        if more or values:
            sweep = yaml.safe_load(path.read_text())
            sweep["parameters"] |= {key.replace("__", "."): {"values": given} for key, given in values.items()}
            sweep["command"] += more  # after the setting, whose steps they shorten
            path = self.folder / "sweep.yaml"
            path.write_text(yaml.safe_dump(sweep))
        said, _ = self.wandb("sweep", "--entity", "team", "--project", "study", str(path)).communicate(timeout=120)
        return re.search(r"wandb agent (\S+)", re.sub(r"\x1b\[[\d;]*m", "", said))[1]

    def kill(self) -> None:
        """Agents and their trials, which have process groups of their own."""
        for process in self.started:
            if process.poll() is None:
                for group in [*children(process), process.pid]:
                    os.killpg(group, signal.SIGKILL)
                process.communicate()


FAST = """
import sys
from wandb.wandb_agent import Agent
Agent.POLL_INTERVAL = 0.2
from wandb.cli.cli import cli
cli()
"""


@pytest.fixture
def place(tmp_path, runs, small):
    made = Place(tmp_path, runs, small)
    yield made
    made.kill()
    made.stub.close()


def children(process: subprocess.Popen) -> list[int]:
    """Process groups of trials that an agent has started."""
    said = subprocess.run(["ps", "-o", "pgid=", "--ppid", str(process.pid)], capture_output=True, text=True)
    return [int(group) for group in said.stdout.split() if int(group) != process.pid]


@pytest.mark.parametrize("processes", [[], TWO], ids=["one process", "two processes"])
def test_two_trials_of_a_shipped_sweep(place, processes):
    """The second is refused."""
    sweep = place.register(
        "demo_digits/scrub.yaml",
        [*SHORT, *processes],
        config=["poison_digits.yaml"],
        data__identified=[0.5],
        model__distill=[0.01, -1.0],
    )
    agent = place.wandb("agent", sweep)
    said, _ = agent.communicate(timeout=500)
    assert agent.returncode == 0, said
    assert place.stub.unknown == set(), said
    good, bad = place.stub.runs.values()
    (folder,) = place.runs.glob("poison_digits/Scrub/*")
    stored = json.loads((folder / "metrics.json").read_text())
    assert {key: good.summary[key] for key in published(stored)} == published(stored)
    assert (good.exitcode, stored["environment"]["world_size"]) == (0, 2 if processes else 1)
    assert good.values["model.distill"] == good.values["distill"] == 0.01
    assert {"val_acc", "train_loss", "forget_loss"} <= {key for row in good.history for key in row}
    assert "locked" not in said
    assert "distill=-1.0" in said  # the sentence; the agent has an exit code that is no 0
    assert bad.exitcode == 2
    assert "distill=-1.0" in bad.summary["refused"]


def test_two_agents_on_one_runs_folder_and_a_shipped_file_as_it_is(place):
    """Both trials ask for one original: one process trains it, which is a run of its own; the other waits for it.

    The server gives every trial two parameters more than the file has, which shorten it.
    """
    shutil.rmtree(place.runs)
    sweep = place.register("demo_digits/untuned.yaml")
    for trial in place.stub.waiting[sweep.rpartition("/")[2]]:
        trial["args"] |= {f"procedure.{name}": {"value": 20} for name in ("steps", "unlearn_steps")}
    agents = [place.wandb("agent", "--count", "1", sweep) for _ in range(2)]
    said = [agent.communicate(timeout=500)[0] for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    begun = [run for run in place.stub.runs.values() if run.begun]
    assert [run.exitcode for run in begun] == [0, 0, 0]
    assert sorted(run.about["jobType"] for run in begun) == ["original", "unlearn", "unlearn"]
    assert {run.about["groupName"] for run in begun} == {begun[0].values["setting"]}
    stored = [json.loads(path.read_text()) for path in place.runs.glob("*/*/*/metrics.json")]
    assert len(stored) == 3
    by_hash = {run.summary["hash"]: run.summary for run in begun}
    for metrics in stored:
        assert {key: by_hash[metrics["hash"]][key] for key in published(metrics)} == published(metrics)
    assert not list(place.runs.glob("*/*/*/csv/version_1"))
    assert place.stub.unknown == set()


def test_two_processes_killed_with_their_agent_and_started_again(place):
    (original,) = place.runs.glob("poison_digits/Original/*/last.ckpt")
    sweep = place.register(
        "demo_digits/scrub.yaml",
        [*SHORT, *TWO, *ENDLESS, "--model.original", str(original)],
        config=["poison_digits.yaml"],
        data__identified=[0.5],
        model__distill=[0.01],
    )
    agent = place.wandb("agent", sweep)
    (run,) = place.stub.runs.values()
    checkpoints = "poison_digits/Scrub/*/last.ckpt"
    wait_for(lambda: any("train_loss" in row for row in run.history) and list(place.runs.glob(checkpoints)))
    place.kill()
    first = len(run.history)
    assert run.exitcode is None
    place.stub.again(run.name)
    agent = place.wandb("agent", sweep)
    wait_for(lambda: len(run.history) > first)
    place.stub.stops = True
    said, _ = agent.communicate(timeout=500)
    assert agent.returncode == 0, said
    assert (len(place.stub.runs), run.begun, run.exitcode) == (1, 2, 0)
    steps = [row["trainer/global_step"] for row in run.history if "train_loss" in row]
    assert steps[0] == 4
    assert steps[-1] > 4
    assert steps.count(4) == 1  # it went on, not from the start
