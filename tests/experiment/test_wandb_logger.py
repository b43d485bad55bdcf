"""Runs that reach no server of W&B, with a client that finds it out at once; with the real one: tests/integration."""

import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.experiment import wandb_logger, wandb_settings
from cmu_lightning.experiment.run import Run
from cmu_lightning.experiment.wandb_publish import publish_results
from tests.helpers.failing_wandb import fail_at_once, fail_in_mid_run
from tests.helpers.run_files import CF, metrics, numbers
from tests.helpers.wandb_server import KEY


@pytest.fixture
def client(place, monkeypatch):
    """There is a key, and no server."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    return fail_at_once(monkeypatch)


def sentences(capfd):
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("W&B")]


def test_without_a_key_training_ends_with_the_same_numbers(place, fit, alone, capfd):
    assert fit(*CF, "--runs_dir", str(place)) == 0
    assert numbers(metrics(place, "CF")) == alone
    (said,) = sentences(capfd)
    assert "is not configured" in said
    assert not list(place.rglob("*.wandb"))


def test_without_a_server_training_ends_with_the_same_numbers(place, fit, client, alone, capfd):
    assert fit(*CF, "--runs_dir", str(place)) == 0
    assert numbers(metrics(place, "CF")) == alone
    (said,) = sentences(capfd)
    assert re.fullmatch(r"W&B cannot be reached \(.*no answer\) after \d+ s: this run is logged offline.*", said)
    assert client.modes == ["online", "offline"]


def test_the_limits_sum_to_less_than_45_seconds():
    of_the_client = 10
    assert wandb_logger.SECONDS_TO_BEGIN + of_the_client + wandb_logger.SECONDS_TO_END < 45


def test_a_sweep_without_a_key_is_an_error(place, fit, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert "sweep's trial needs" in capsys.readouterr().err
    assert not list(place.glob("poison_digits/CF/*/metrics.json"))


def test_a_sweep_without_a_server_is_an_error(place, fit, client, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr("cmu_lightning.cli.fit.report_refusal", lambda reason: pytest.fail("it asked again"))
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert "sweep's trial needs" in capsys.readouterr().err
    assert client.modes == ["online"]
    assert not list(place.glob("poison_digits/CF/*/metrics.json"))


def test_runs_of_one_study_wait_once_for_a_silent_server(place, fit, client, monkeypatch, capfd):
    """Until the silence is long past."""
    with wandb_settings.one_silence():
        for identified in ("0.5", "0.6"):
            assert fit(*CF, "--data.identified", identified, "--runs_dir", str(place)) == 0
        first, second = sentences(capfd)
        assert first.startswith("W&B cannot be reached")
        assert second.startswith("W&B did not answer before")
        assert client.modes == ["online", "offline", "offline"]
        assert wandb_settings.was_silent()
        monkeypatch.setattr(wandb_settings, "SECONDS_OF_SILENCE", 0.0)
        assert not wandb_settings.was_silent()
    assert wandb_settings.SILENCE not in os.environ


def test_a_mode_that_is_none_is_said(place, fit, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert "error: WANDB_MODE=sometimes is no mode of W&B: set it to online, offline" in capsys.readouterr().err
    assert not list(place.glob("poison_digits/CF"))


@pytest.mark.parametrize("mode", ["offline", "disabled"])
def test_a_sweep_that_hears_nothing_is_an_error(mode, place, fit, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setenv("WANDB_MODE", mode)
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert f"WANDB_MODE is {mode}: set it to online" in capsys.readouterr().err
    assert not list(place.glob("poison_digits/CF"))


@pytest.mark.parametrize("error", [ConnectionResetError("gone"), json.JSONDecodeError("nonsense", "", 0), KeyError()])
def test_a_client_that_fails_in_mid_run_does_not_end_the_run(error, place, fit, alone, monkeypatch, capfd):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    calls = fail_in_mid_run(monkeypatch, error)
    assert fit(*CF, "--runs_dir", str(place)) == 0
    assert numbers(metrics(place, "CF")) == alone
    (said,) = sentences(capfd)
    assert said.startswith("W&B's client has failed (")
    assert "run the same command again after its end to log its results" in said
    assert calls == ["log", "finish"]  # it is not asked again


def test_a_trial_whose_client_fails_ends_and_is_an_error(place, fit, alone, monkeypatch, capfd):
    """Its results are in the folder, for the next agent that is handed the trial."""
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    fail_in_mid_run(monkeypatch, ConnectionResetError("gone"))
    assert fit(*CF, "--runs_dir", str(place)) == 2
    assert numbers(metrics(place, "CF")) == alone
    assert "error: W&B's client has failed (gone) and did not take the results of this trial" in capfd.readouterr().err


REFUSED = {
    "a tag": (["--wandb.tags", f"[a, {'b' * 65}]"], {}, "wandb.tags=b+ cannot be used for W&B .*65 characters"),
    "an empty tag": (["--wandb.tags", "['']"], {}, "wandb.tags= cannot be used for W&B"),
    "tags": ([], {"WANDB_TAGS": "b" * 65}, "WANDB_TAGS=b+ cannot be used for W&B .*65 characters"),
    "a project": (["--wandb.project", "a/b"], {}, "the project a/b cannot be used for W&B"),
    "a project of the environment": ([], {"WANDB_PROJECT": "a/b"}, "WANDB_PROJECT=a/b cannot be used for W&B"),
    "an entity": (["--wandb.entity", "a/b"], {}, "the entity 'a/b' cannot be used for W&B"),
    "a key": ([], {"WANDB_API_KEY": f"{KEY}\n"}, "WANDB_API_KEY holds a blank or an end of line: set it to the key"),
    "an address": ([], {"WANDB_BASE_URL": "localhost:80"}, "WANDB_BASE_URL=localhost:80 cannot be used for W&B"),
    "a folder": ([], {"WANDB_DIR": "file/x"}, "WANDB_DIR=file/x is no folder that can be written to"),
    "a long folder": ([], {"WANDB_CACHE_DIR": "x" * 300}, "WANDB_CACHE_DIR=x+ is no folder"),
    "a run": ([], {"WANDB_RUN_ID": "a/b"}, "WANDB_RUN_ID=a/b cannot be used for W&B"),
    "a switch": ([], {"WANDB_QUIET": "perhaps"}, "WANDB_QUIET=perhaps cannot be used for W&B"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_the_client_would_refuse_is_refused_before_anything_is_trained(
    case, place, fit, client, monkeypatch, capsys
):
    arguments, variables, says = REFUSED[case]
    Path("file").touch()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    shutil.rmtree(place / "poison_digits")
    before = sorted(Path().rglob("*"))
    assert fit(*CF, *arguments, "--runs_dir", str(place)) == 2
    said = capsys.readouterr().err
    assert re.match(f"error: {says}", said), said
    assert said.count("\n") == 1
    assert KEY not in said
    assert not client.modes
    assert sorted(Path().rglob("*")) == before


def test_what_is_not_used_is_not_refused(place, fit, monkeypatch):
    monkeypatch.setenv("WANDB_BASE_URL", "localhost:80")
    assert fit(*CF, "--wandb.mode", "disabled", "--runs_dir", str(place)) == 0


@pytest.mark.parametrize("command", [["report", "runs", "--out", "out", "--wandb"], ["dashboard", "--entity", "e"]])
def test_other_commands_refuse_it_too(command, place, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    assert main([*command, "--project", "a/b"]) == 2
    assert "error: the project a/b cannot be used for W&B" in capsys.readouterr().err
    assert not Path("out").exists()


def test_the_seed_of_an_original_given_by_its_path_is_its_own(tmp_path):
    run, said = Run(tmp_path, tmp_path, "mine", "CF", "ab"), {}
    (tmp_path / "metrics.json").write_text(json.dumps({"hash": "ab", "original_seed": 1, "hyperparameters": {}}))
    experiment = SimpleNamespace(summary={}, save=lambda *_, **__: None)
    logger = SimpleNamespace(
        describe=said.update, experiment=experiment, uploads_model=False, attempt=lambda send: send()
    )
    publish_results(logger, {"original_seed": 0, "setting": "mine"}, run)
    assert (said["original_seed"], said["setting"]) == (1, "mine")


@pytest.mark.parametrize(
    ("at_first", "in_the_end", "name"), [(None, 0.30556, "CF 0.306 seed 3"), (0.5, 0.5, None), (None, None, None)]
)
def test_a_run_is_named_after_what_its_list_has_come_to(at_first, in_the_end, name, place):
    """W&B keeps the name with which the run began, unless another one is set."""
    run = Run.at(place, "mine", "CF", 3, "0123456789")
    logger = wandb_logger.WandbLogger(run, "unlearn", at_first, mode="offline")
    begun = logger._experiment = SimpleNamespace(config={}, name=None)
    logger.describe({"method": "CF"} | ({} if in_the_end is None else {"identified": in_the_end}))
    assert (begun.name, begun.config["method"]) == (name, "CF")
