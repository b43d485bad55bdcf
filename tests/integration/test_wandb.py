"""What runs send to W&B, and what they do without it. The server is a stub on loopback, the client the real one."""

import json
import os
import pty
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from lightning.pytorch.loggers import CSVLogger
from PIL import Image

from cmu_lightning.experiment.execute import Job
from cmu_lightning.experiment.wandb_logger import WandbLogger
from cmu_lightning.parsing import PACKAGE
from tests.helpers.run_files import CF, SCRUB, folder, metrics, numbers, published, records
from tests.helpers.wandb_server import KEY

pytestmark = pytest.mark.slow


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
    assert {key: summary[key] for key in published(stored)} == published(stored)
    assert "config" not in summary, "it is W&B's config already"
    identity = ("setting", "dataset", "model", "manipulation", "method", "manipulated", "identified", "deleted")
    for name in (*identity, "seed", "original_seed", "hash", "original", "fingerprint"):
        assert config[name] == stored[name], name
    assert {name: config[name] for name in stored["hyperparameters"]} == stored["hyperparameters"]
    assert config["model.class_path"] == "Scrub"
    assert (config["data.identified"], config["model.distill"], config["seed_everything"]) == (0.5, 0.5, 0)
    assert not any("init_args" in key or key.startswith("wandb") for key in config)
    assert about["display_name"] == "Scrub 0.5 seed 0"
    assert config["trainer.accelerator"] == "cpu"  # which was asked for; defaults of the Trainer are left out
    assert not {"trainer.deterministic", "trainer.plugins", "trainer.max_time"} & set(config)
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
    assert {key: run.summary[key] for key in published(stored)} == published(stored)
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
    assert {key: run.summary[key] for key in published(stored)} == published(stored)
    assert (run.values["method"], run.values["deleted"], run.values["data.identified"]) == ("CF", 18, 0.5)


def test_nothing_of_it_is_part_of_the_run(place, fit, alone):
    tags = ("--wandb.tags", "[x]", "--wandb.project", "p", "--wandb.mode", "offline")
    assert fit(*CF, *tags, "--runs_dir", str(place)) == 0
    assert numbers(metrics(place, "CF")) == alone


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
    execute = Job.execute
    monkeypatch.setattr(Job, "execute", lambda job, path: loggers.extend(job.trainer.loggers) or execute(job, path))
    assert fit(*CF, "--runs_dir", str(place), "--wandb.mode", "offline") == 0
    assert [type(each) for each in loggers] == [CSVLogger, WandbLogger]


def test_an_offline_run_is_synced_by_the_client(place, fit, server):
    stub = server()
    assert fit(*CF, "--runs_dir", str(place), "--wandb.mode", "offline") == 0
    assert not stub.runs
    (run,) = folder(place, "CF").glob("wandb/offline-run-*")
    subprocess.run([str(Path(sys.executable).with_name("wandb")), "sync", str(run)], check=True, capture_output=True)
    (synced,) = stub.runs.values()
    stored = metrics(place, "CF")
    assert {key: synced.summary[key] for key in published(stored)} == published(stored)


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
