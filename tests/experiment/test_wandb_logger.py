"""Runs that reach no server of W&B, with a client that finds it out at once; with the real one: tests/integration."""

import json
import os
import re
from types import SimpleNamespace

import pytest

from cmu_lightning.experiment import wandb_logger, wandb_settings
from cmu_lightning.experiment.run import Run
from cmu_lightning.experiment.wandb_publish import publish_results
from tests.helpers.failing_wandb import fail_at_once
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


def test_the_seed_of_an_original_given_by_its_path_is_its_own(tmp_path):
    run, said = Run(tmp_path, tmp_path, "mine", "CF", "ab"), {}
    (tmp_path / "metrics.json").write_text(json.dumps({"hash": "ab", "original_seed": 1, "hyperparameters": {}}))
    experiment = SimpleNamespace(summary={}, save=lambda *_, **__: None)
    logger = SimpleNamespace(describe=said.update, experiment=experiment, uploads_model=False)
    publish_results(logger, {"original_seed": 0, "setting": "mine"}, run)
    assert (said["original_seed"], said["setting"]) == (1, "mine")
