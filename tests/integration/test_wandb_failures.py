"""Servers that are silent, wrong or gone, and runs that end before their time."""

import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
import wandb
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.__main__ import main
from cmu_lightning.errors import UserError
from cmu_lightning.experiment import wandb_logger, wandb_settings
from cmu_lightning.experiment.wandb_settings import end_client
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.unlearning import CF as CF_
from cmu_lightning.unlearning import Original
from tests.helpers.run_files import CF, folder, metrics, numbers, published
from tests.helpers.wandb_server import Stub

pytestmark = pytest.mark.slow

CASES = {
    "no key, but asked for": ({}, ("--wandb.mode", "online"), "there is no key"),
    "a wrong key": ({"key": "f" * 40}, (), "cannot be reached .*401"),
    "a short key": ({"key": "abc"}, (), "cannot be reached"),
    "no answer": ({"answers": "never"}, (), "cannot be reached"),
    "errors": ({"answers": "500"}, (), "cannot be reached"),
    "nonsense": ({"answers": "nonsense"}, (), "cannot be reached"),
    "death in mid-run": ({"dies": True}, (), "the end of this run took"),
}


@pytest.mark.parametrize("case", CASES)
def test_without_a_good_server_training_ends_with_the_same_numbers(case, place, fit, server, alone, monkeypatch, capfd):
    behaviour, arguments, says = CASES[case]
    if case != "death in mid-run":  # which answers at first, but not at once on a busy machine
        monkeypatch.setattr(wandb_logger, "SECONDS_TO_BEGIN", 2.0)
    monkeypatch.setattr(wandb_logger, "SECONDS_TO_END", 2.0)
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("it asked"))
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    if behaviour:
        server(**behaviour)
    begin = time.monotonic()
    assert fit(*CF, *arguments, "--runs_dir", str(place)) == 0
    assert time.monotonic() - begin < 30
    assert numbers(metrics(place, "CF")) == alone
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B")]
    assert len(said) == 1
    assert re.search(says, said[0]), said
    assert list(folder(place, "CF").rglob("*.wandb"))


def services() -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=,comm=", "--ppid", str(os.getpid())], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if "wandb-core" in line]


@pytest.mark.parametrize("trial", [False, True])
def test_a_service_that_is_killed_in_mid_run_does_not_end_the_run(trial, place, fit, server, alone, monkeypatch, capfd):
    """The next run of this process has a service again, and logs the results."""
    stub, loss = server(), CF_.loss
    if trial:
        monkeypatch.setenv("WANDB_SWEEP_ID", "abc")

    def killing(self, batch):
        if self.global_step == 5:
            for service in services():
                os.kill(service, signal.SIGKILL)
            monkeypatch.setattr(CF_, "loss", loss)
        return loss(self, batch)

    monkeypatch.setattr(CF_, "loss", killing)
    assert fit(*CF, "--runs_dir", str(place)) == (2 if trial else 0)
    assert numbers(metrics(place, "CF")) == alone
    said = [line for line in capfd.readouterr().err.splitlines() if "W&B's client has failed" in line]
    assert len(said) == 1
    print("this is still shown")
    assert "this is still shown" in capfd.readouterr().out
    assert fit(*CF, "--runs_dir", str(place)) == 0
    run = [*stub.runs.values()][-1]
    assert run.exitcode == 0
    stored = metrics(place, "CF")
    assert {key: run.summary[key] for key in published(stored)} == published(stored)


def test_nonsense_from_the_server_in_mid_run_does_not_end_the_run(place, fit, server, alone, monkeypatch, capfd):
    stub, loss = server(), CF_.loss
    monkeypatch.setattr(wandb_logger, "SECONDS_TO_END", 2.0)

    def talking(self, batch):
        if self.global_step == 5:
            stub.answers = "nonsense"
        return loss(self, batch)

    monkeypatch.setattr(CF_, "loss", talking)
    begin = time.monotonic()
    assert fit(*CF, "--runs_dir", str(place)) == 0
    assert time.monotonic() - begin < 30
    assert numbers(metrics(place, "CF")) == alone
    assert list(folder(place, "CF").rglob("*.wandb"))


def test_a_server_that_dies_in_a_trial_is_an_error_and_the_trial_can_be_told_again(
    place, fit, server, monkeypatch, capsys
):
    """Training ends, and its results are in the folder; the next agent that is handed the trial logs them."""
    dead = server(dies=True)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr(wandb_logger, "PATIENCE", 3.0)
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert "W&B did not take the results of this trial" in capsys.readouterr().err
    stored = metrics(place, "CF")
    (run,) = dead.runs.values()
    assert run.exitcode is None
    end_client()
    alive = Stub()
    monkeypatch.setenv("WANDB_BASE_URL", alive.url)
    assert fit(*CF, "--runs_dir", str(place)) == 0
    end_client()
    alive.close()
    (run,) = alive.runs.values()
    assert run.exitcode == 0
    assert {key: run.summary[key] for key in published(stored)} == published(stored)


def test_a_refused_trial_has_failed_on_the_server_too(place, fit, server, monkeypatch, capsys):
    stub = server()
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_RUN_ID", "trial7")
    assert fit(*CF, "--data.identified", "7", "--runs_dir", str(place)) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: identified=7.0 is not in (0, 1]")
    (run,) = stub.runs.values()
    assert (run.name, run.exitcode) == ("trial7", 2)
    assert run.summary["refused"].startswith("identified=7.0 is not in (0, 1]")
    monkeypatch.delenv("WANDB_SWEEP_ID")
    assert fit(*CF, "--data.identified", "7", "--runs_dir", str(place)) == 2
    assert len(stub.runs) == 1
    assert not Path("wandb").exists()


def test_a_silent_server_is_waited_for_once_in_a_command(place, fit, server, monkeypatch, capfd):
    """An original that is trained on demand is a process of its own, which asks first, here twice and not for 15 s."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_MAX", "1")
    monkeypatch.setenv("WANDB__GRAPHQL_RETRY_WAIT_MAX_SECONDS", "0.1")
    server(answers="500")
    shutil.rmtree(place / "poison_digits")
    assert fit(*CF, "--runs_dir", str(place)) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B")]
    assert [line.partition(":")[0].partition(" (")[0] for line in said] == [
        "W&B cannot be reached", "W&B did not answer before"
    ]  # fmt: skip
    for method in ("Original", "CF"):
        assert [path.name.startswith("offline-run-") for path in folder(place, method).glob("wandb/*run-*")] == [True]


@pytest.mark.parametrize("command", ["sweep", "repair"])
def test_a_study_is_one_command(command, place, small, monkeypatch):
    """Its workers inherit what one of them learns."""
    seen = []

    def run(self):
        seen.append(os.environ.get(wandb_settings.SILENCE))
        raise UserError("that is all")

    monkeypatch.setattr("cmu_lightning.sweep.runner.Runner.run", run)
    monkeypatch.setattr("cmu_lightning.sweep.check.find_refused", lambda *_: [])
    config = ["--config", "poison_digits.yaml", "--config", small]
    given = [str(PACKAGE.parent / "sweeps/demo_digits/original.yaml")] if command == "sweep" else config
    assert main([command, *given, "--runs_dir", "elsewhere"]) == 2
    assert len(seen) == 1
    assert seen[0]
    assert wandb_settings.SILENCE not in os.environ


def test_weights_that_the_server_does_not_take_stay(place, fit, server, alone, monkeypatch, capfd):
    """Its silence is found out when the artifact is announced."""
    server(dies=True)
    monkeypatch.setattr(wandb_logger, "PATIENCE", 2.0)

    def refused(self, artifact):
        raise wandb.errors.AuthenticationError("no answer")

    monkeypatch.setattr(wandb.Run, "log_artifact", refused)
    assert fit(*CF, "--wandb.log_model", "true", "--runs_dir", str(place)) == 0
    assert numbers(metrics(place, "CF")) == alone
    assert "W&B does not take the weights (no answer): they stay in" in capfd.readouterr().err


@pytest.mark.parametrize(("sweep", "code"), [("abc", 0), (None, 1)])
def test_sigterm_of_an_agent_is_no_failure(place, fit, server, monkeypatch, sweep, code):
    stub = server()
    if sweep:
        monkeypatch.setenv("WANDB_SWEEP_ID", sweep)

    def ended(self, batch):
        if self.global_step == 5:
            raise SIGTERMException
        return Original.loss(self, batch)

    monkeypatch.setattr("cmu_lightning.unlearning.CF.loss", ended)
    assert fit(*CF, "--runs_dir", str(place)) == (0 if sweep else 143)
    (run,) = stub.runs.values()
    assert run.exitcode == code


def test_a_crash_is_reported(place, fit, server, monkeypatch):
    stub = server()

    def broken(self, batch):
        raise ArithmeticError

    monkeypatch.setattr("cmu_lightning.unlearning.CF.loss", broken)
    with pytest.raises(ArithmeticError):
        fit(*CF, "--runs_dir", str(place))
    (run,) = stub.runs.values()
    assert run.exitcode == 1


@pytest.mark.parametrize("lost", [False, True])
def test_early_termination_ends_a_run_cleanly_and_it_can_go_on(place, fit, server, monkeypatch, capsys, lost):
    """The server says stop in its answer to what the client streams; the interrupt may be lost on its way."""
    if lost:
        monkeypatch.setattr("wandb.sdk.lib.interrupt.interrupt_main", lambda: None)
    handler = signal.getsignal(signal.SIGINT)
    stub = server(stops=True)
    slow = ("--procedure.unlearn_steps", "1000000", "--trainer.val_check_interval", "1000000")
    assert fit(*CF, *slow, "--runs_dir", str(place)) == 0
    signal.signal(signal.SIGINT, handler)
    (run,) = stub.runs.values()
    assert run.exitcode == 0
    assert run.history
    assert "run the same command again to continue" in capsys.readouterr().err
    assert not (folder(place, "CF") / "metrics.json").exists()
    assert "optimizer_states" in torch.load(folder(place, "CF") / "last.ckpt", weights_only=True)


def test_a_service_that_does_not_end_is_not_waited_for(place, server, monkeypatch):
    """It stands still, as one does that has missed the word."""
    server()
    monkeypatch.setattr(wandb_settings, "SECONDS_TO_TEAR_DOWN", 1.0)
    before = set(services())  # other tests may have left some that do not end
    wandb.Api()
    (service,) = set(services()) - before
    os.kill(service, signal.SIGSTOP)
    try:
        begin = time.monotonic()
        end_client()
        assert 1 <= time.monotonic() - begin < 20
    finally:
        os.kill(service, signal.SIGCONT)


def test_the_end_of_a_command_waits_for_no_service(place, server, monkeypatch, capsys):
    server(key="abc")
    begun, ends = threading.Event(), threading.Event()

    def stands():
        begun.set()
        ends.wait()

    monkeypatch.setattr(wandb_settings, "SECONDS_TO_TEAR_DOWN", 0.1)
    monkeypatch.setattr(wandb, "teardown", stands)
    monkeypatch.setattr(sys, "argv", ["cmu_lightning", "dashboard", "--entity", "e", "--project", "p"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(PACKAGE / "__main__.py"), run_name="__main__")
    assert begun.is_set()
    assert "did not take the dashboard" in capsys.readouterr().err
    ends.set()
