"""What runs send to W&B, and what they do without it. The server is a stub on loopback, the client the real one."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
import wandb
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException
from PIL import Image

from cmu_lightning.cli import main
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.tracking import wandb as tracking
from cmu_lightning.tracking.job import Job
from cmu_lightning.unlearning import Original
from tests.offline import records
from tests.stub import KEY, Stub

SCRUB = ("--config", "unlearn/scrub.yaml", "--data.identified", "0.5", "--trainer.log_every_n_steps", "5")
CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5", "--trainer.log_every_n_steps", "5")


@pytest.fixture
def place(runs, tmp_path, monkeypatch):
    """A copy of the runs folder, where W&B would be used if there were a key."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SWEEP_ID", "WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "of_client"))
    wandb.teardown()  # it has read the environment
    yield Path(shutil.copytree(runs, tmp_path / "runs"))
    wandb.teardown()


@pytest.fixture
def server(place, monkeypatch):
    """Makes a stub and points the client at it."""
    stubs = []

    def start(key=KEY, **behaviour):
        stubs.append(Stub(**behaviour))
        monkeypatch.setenv("WANDB_BASE_URL", stubs[0].url)
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
        return stubs[0]

    yield start
    wandb.teardown()
    for stub in stubs:
        stub.close()


def folder(place, method):
    (path,) = place.glob(f"poison_digits/{method}/*")
    return path


def metrics(place, method):
    return json.loads((folder(place, method) / "metrics.json").read_text())


def numbers(stored):
    return {key: value for key, value in stored.items() if key not in ("seconds", "environment")}


@pytest.fixture(scope="module")
def alone(runs, small, tmp_path_factory):
    """The numbers of a CF run that knows nothing of W&B."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        place = Path(shutil.copytree(runs, tmp_path_factory.mktemp("alone") / "runs"))
        assert main(["fit", "--config", "poison_digits.yaml", "--config", small, *CF, "--runs_dir", str(place)]) == 0
    assert not list(place.rglob("*wandb*"))
    return numbers(metrics(place, "CF"))


def test_an_offline_run_holds_what_the_run_folder_holds(place, fit):
    assert fit(*SCRUB, "--runs_dir", str(place), "--wandb.mode", "offline", "--wandb.log_model", "true") == 0
    stored = metrics(place, "Scrub")
    config, summary, history, artifacts, saved, about = {}, {}, [], [], [], {}
    for record in records(folder(place, "Scrub")):
        config |= record.get("config", {}).get("update", {})
        summary |= record.get("summary", {}).get("update", {})
        about |= record.get("run", {})
        history += [record["history"]["item"]] if "history" in record else []
        artifacts += [record] if "artifact" in json.dumps(record.get("request", record)) else []
        saved += [file["path"] for file in record.get("files", {}).get("files", [])]
    assert (about["run_group"], about["job_type"], about["project"]) == ("poison_digits", "unlearn", "cmu_lightning")
    assert {key: summary[key] for key in stored} == stored
    identity = ("setting", "dataset", "model", "manipulation", "method", "manipulated", "identified", "deleted")
    for name in (*identity, "seed", "original_seed", "hash", "original", "fingerprint"):
        assert config[name] == stored[name], name
    assert {name: config[name] for name in stored["hyperparameters"]} == stored["hyperparameters"]
    assert config["model.class_path"] == "Scrub"
    assert (config["data.identified"], config["model.distill"], config["seed_everything"]) == (0.5, 0.5, 0)
    assert not any("init_args" in key or key.startswith("wandb") for key in config)
    logged = {key for row in history for key in row}
    assert {"train_loss", "learning_rate", "forget_loss", "retain_loss", "val_acc", "selection_score"} <= logged
    for name in ("acc_corr", "acc_retain", "acc_unidentified"):
        assert [row[name] for row in history if name in row] == [pytest.approx(stored[name], abs=1e-7)]
    name = folder(place, "Scrub").name
    assert {f"{name}/config.yaml", f"{name}/metrics.json"} <= set(saved)
    images = [path for path in saved if "manipulated_images" in path]
    assert len(images) == 8
    for path in images:
        (file,) = folder(place, "Scrub").rglob(Path(path).name)
        with Image.open(file) as image:
            pixels = np.asarray(image)
        assert (pixels.shape, set(pixels[9:, 9:].flat)) == ((12, 12), {255})  # the trigger
        assert len(set(pixels.flat)) > 3  # and a digit
    assert artifacts


def test_forget_loss_is_logged_where_there_were_forget_steps(place, fit):
    steps = ("--model.alternate", "step", "--model.forget_steps", "10", "--runs_dir", str(place))
    assert fit(*SCRUB, *steps, "--wandb.mode", "offline") == 0
    rows = [record["history"]["item"] for record in records(folder(place, "Scrub")) if "history" in record]
    curves = {row["trainer/global_step"]: row for row in rows if "train_loss" in row}
    assert list(curves) == [4, 9, 14, 19]
    assert [step for step, row in curves.items() if "forget_loss" in row] == [4, 9]
    assert all(row["forget_loss"] < 0 < row["retain_loss"] for row in list(curves.values())[:2])
    assert curves[14]["train_loss"] == pytest.approx(curves[14]["retain_loss"], rel=1e-6)


def test_an_online_run(place, fit, server):
    stub = server()
    ssd = ("--config", "unlearn/ssd.yaml", "--data.identified", "0.5", "--runs_dir", str(place))
    assert fit(*ssd, "--wandb.tags", "[a, b]", "--wandb.group", "mine", "--wandb.project", "study") == 0
    (run,) = stub.runs.values()
    stored, kept = metrics(place, "SSD"), folder(place, "SSD")
    assert (run.exitcode, run.about["groupName"], run.about["tags"]) == (0, "mine", ["a", "b"])
    assert {key: run.summary[key] for key in stored} == stored
    ratios = json.loads((kept / "importance_ratios.json").read_text())
    assert run.summary["importance_ratios"]["values"] == ratios["counts"]
    assert run.summary["importance_ratios"]["bins"] == pytest.approx(ratios["log10_edges"])
    for name in ("config.yaml", "metrics.json"):
        assert run.files[f"{kept.name}/{name}"] == (kept / name).read_bytes()
    assert stub.unknown == set()


def test_no_secret_is_left_anywhere(place, fit, server, tmp_path):
    stub = server()
    Path(".env").write_text("SOMETHING=else\n")
    assert fit(*CF, "--runs_dir", str(place)) == 0
    (run,) = stub.runs.values()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.suffix == ".wandb" for path in files)
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert not [name for name, content in run.files.items() if KEY.encode() in content]


def test_a_finished_run_is_logged_again(place, fit, server):
    stub = server()
    arguments = (*CF, "--runs_dir", str(place))
    assert fit(*arguments, "--wandb.mode", "disabled") == 0
    assert not stub.runs
    stored = metrics(place, "CF")
    assert fit(*arguments) == 0
    (run,) = stub.runs.values()
    assert run.exitcode == 0
    assert {key: run.summary[key] for key in stored} == stored
    assert (run.values["method"], run.values["deleted"], run.values["data.identified"]) == ("CF", 18, 0.5)


def test_nothing_of_it_is_part_of_the_run(place, fit, alone):
    tags = ("--wandb.tags", "[x]", "--wandb.project", "p", "--wandb.mode", "offline")
    assert fit(*CF, *tags, "--runs_dir", str(place)) == 0
    assert numbers(metrics(place, "CF")) == alone


CASES = {
    "no key": ({}, (), "is not configured"),
    "no key, but asked for": ({}, ("--wandb.mode", "online"), "there is no key"),
    "a wrong key": ({"key": "f" * 40}, (), "cannot be reached .*401"),
    "a short key": ({"key": "abc"}, (), "cannot be reached"),
    "no answer": ({"answers": "never"}, (), "cannot be reached"),
    "errors": ({"answers": "500"}, (), "cannot be reached"),
    "death in mid-run": ({"dies": True}, (), "the end of this run took"),
}


@pytest.mark.parametrize("case", CASES)
def test_without_a_good_server_training_ends_with_the_same_numbers(case, place, fit, server, alone, monkeypatch, capfd):
    behaviour, arguments, says = CASES[case]
    if case != "death in mid-run":  # which answers at first, but not at once on a busy machine
        monkeypatch.setattr(tracking, "SECONDS_TO_BEGIN", 2.0)
    monkeypatch.setattr(tracking, "SECONDS_TO_END", 2.0)
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
    assert bool(list(folder(place, "CF").rglob("*.wandb"))) == (case != "no key")


def test_the_limits_sum_to_less_than_45_seconds():
    of_the_client = 10
    assert tracking.SECONDS_TO_BEGIN + of_the_client + tracking.SECONDS_TO_END < 45


@pytest.mark.parametrize("behaviour", [None, {"answers": "500"}])
def test_a_sweep_without_a_server_is_an_error(behaviour, place, fit, server, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr(tracking, "SECONDS_OF_TRIAL", 2.0)
    if behaviour:
        server(**behaviour)
        monkeypatch.setattr("cmu_lightning.cli.report_refusal", lambda reason: pytest.fail("it asked again"))
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert "sweep's trial needs" in capsys.readouterr().err
    assert not list(place.glob("poison_digits/CF/*/metrics.json"))


def test_a_server_that_dies_in_a_trial_is_an_error_and_the_trial_can_be_told_again(
    place, fit, server, monkeypatch, capsys
):
    """Training ends, and its results are in the folder; the next agent that is handed the trial logs them."""
    dead = server(dies=True)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr(tracking, "PATIENCE", 3.0)
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert "W&B did not take the results of this trial" in capsys.readouterr().err
    stored = metrics(place, "CF")
    (run,) = dead.runs.values()
    assert run.exitcode is None
    wandb.teardown()
    alive = Stub()
    monkeypatch.setenv("WANDB_BASE_URL", alive.url)
    assert fit(*CF, "--runs_dir", str(place)) == 0
    wandb.teardown()
    alive.close()
    (run,) = alive.runs.values()
    assert run.exitcode == 0
    assert {key: run.summary[key] for key in stored} == stored


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
    """An original that is trained on demand is a process of its own, which asks first."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setattr(tracking, "SECONDS_TO_BEGIN", 2.0)
    server(answers="500")
    shutil.rmtree(place / "poison_digits")
    assert fit(*CF, "--runs_dir", str(place)) == 0
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B")]
    assert [line.partition(":")[0].partition(" (")[0] for line in said] == [
        "W&B cannot be reached", "W&B did not answer before"
    ]  # fmt: skip
    for method in ("Original", "CF"):
        assert [path.name.startswith("offline-run-") for path in folder(place, method).glob("wandb/*run-*")] == [True]


def test_a_key_in_env_file(place, fit, server, monkeypatch):
    stub = server()
    monkeypatch.delenv("WANDB_API_KEY")
    Path(".env").write_text(f"WANDB_API_KEY={KEY}\nWANDB_PROJECT=of_file\n")
    monkeypatch.setenv("WANDB_PROJECT", "of_environment")
    assert fit(*CF, "--runs_dir", str(place)) == 0
    (run,) = stub.runs.values()
    assert run.exitcode == 0
    assert stub.projects == {"of_environment"}


def test_csv_files_come_first(place, fit, monkeypatch):
    loggers = []
    do = Job.do
    monkeypatch.setattr(Job, "do", lambda job, path: loggers.extend(job.trainer.loggers) or do(job, path))
    assert fit(*CF, "--runs_dir", str(place), "--wandb.mode", "offline") == 0
    assert [type(logger) for logger in loggers] == [CSVLogger, tracking.WandbLogger]


def test_an_offline_run_is_synced_by_the_client(place, fit, server):
    stub = server()
    assert fit(*CF, "--runs_dir", str(place), "--wandb.mode", "offline") == 0
    assert not stub.runs
    (run,) = folder(place, "CF").glob("wandb/offline-run-*")
    subprocess.run([str(Path(sys.executable).with_name("wandb")), "sync", str(run)], check=True, capture_output=True)
    (synced,) = stub.runs.values()
    stored = metrics(place, "CF")
    assert {key: synced.summary[key] for key in stored} == stored


def test_without_a_key_nothing_is_asked_in_a_terminal(place, small, tmp_path):
    """A pseudo-terminal, whose other end says nothing."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cmu_lightning", "fit", "--config", "poison_digits.yaml", "--config", small, *CF]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
    run = subprocess.Popen(
        [*command, "--runs_dir", str(place)], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    said = b""
    with suppress(OSError):  # the other end is gone
        while part := os.read(ours, 10_000):
            said += part
    assert run.wait(timeout=120) == 0, said
    assert b"W&B is not configured" in said
    assert metrics(place, "CF")["method"] == "CF"


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_sweep_that_hears_nothing_is_an_error(mode, place, fit, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_MODE", mode)
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert f"WANDB_MODE is {mode}: set it to online" in capsys.readouterr().err
    assert not list(place.glob("poison_digits/CF"))


def test_weights_that_the_server_does_not_take_stay(place, fit, server, alone, monkeypatch, capfd):
    """Its silence is found out when the artifact is announced."""
    server(dies=True)
    monkeypatch.setattr(tracking, "PATIENCE", 2.0)

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
    assert "the same command again goes on" in capsys.readouterr().err
    assert not (folder(place, "CF") / "metrics.json").exists()
    assert "optimizer_states" in torch.load(folder(place, "CF") / "last.ckpt", weights_only=True)
