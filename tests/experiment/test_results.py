"""What a run says of itself on the screen, what of it stands in metrics.json, and what `test` compares."""

from math import inf, nan

import pytest
import torch

from cmu_lightning.experiment.results import find_differences, print_columns
from cmu_lightning.report.tables import _tuned
from cmu_lightning.unlearning import TunedSSD
from tests.helpers.run_files import CF, metrics

TUNED = ("--config", "unlearn/tuned_ssd.yaml", "--data.identified", "0.5")


def test_rows_carry_the_names_of_the_metrics(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    print_columns("r[old]", {"Original": {"acc_corr": 0.5}, "CF": {"acc_corr": 0.25, "false_positives": 3}})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "r[old]"
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in said if "│" in line]
    assert cells == [
        ["affected domain, unseen: accuracy", "acc_corr", "0.5000", "0.2500"],
        ["clean samples in S_f", "false_positives", "", "3"],
    ]


def test_names_and_numbers_are_whole_on_a_narrow_screen(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    print_columns("", {"Original": {"acc_corr_nontarget": 0.5}, "TunedSSD": {"acc_corr_nontarget": 0.25}})
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "nontarget" in line]
    assert [cell.strip() for cell in line.split("│")[2:-1]] == ["acc_corr_nontarget", "0.5000", "0.2500"]


def test_the_first_lines_say_what_is_loaded_and_how_many_samples_there_are(place, fit, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert fit(*CF, "--runs_dir", str(place)) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[:2] == [
        "loading digits",
        "|S_tr| = 1,197, |S_m| = 36 manipulated, |S_f| = 18 identified; 203 validation samples",
    ]
    assert fit(*CF, "--runs_dir", str(place)) == 0
    assert "loading" not in capsys.readouterr().err  # as the run is finished


def test_the_point_that_a_grid_in_memory_has_chosen_is_kept_and_said(place, fit, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr(TunedSSD, "selections", (1.0, 20.0))
    monkeypatch.setattr(TunedSSD, "dampening_ratios", (0.5,))
    assert fit(*TUNED, "--runs_dir", str(place)) == 0
    stored = metrics(place, "TunedSSD")
    assert stored["chosen"] in ({"selection": 1.0, "dampening_ratio": 0.5}, {"selection": 20.0, "dampening_ratio": 0.5})
    said = f"TunedSSD has chosen selection={stored['chosen']['selection']:g}, dampening_ratio=0.5"
    assert said in capsys.readouterr().out
    assert _tuned(stored).items() >= stored["chosen"].items()
    assert set(stored["hyperparameters"]) == set(_tuned(stored)) - {"selection", "dampening_ratio"}
    # A process that only measures the weights knows it from the checkpoint.
    (path,) = place.glob("poison_digits/TunedSSD/*/metrics.json")
    path.unlink()
    assert fit(*TUNED, "--runs_dir", str(place)) == 0
    assert metrics(place, "TunedSSD")["chosen"] == stored["chosen"]
    assert torch.load(path.with_name("last.ckpt"), weights_only=True)["cmu_lightning"]["chosen"] == stored["chosen"]


def test_what_chooses_nothing_has_its_own_hyperparameters():
    assert _tuned({"hyperparameters": {"a": 1}}) == {"a": 1}


@pytest.mark.parametrize("stored", [nan, None, "0.5", inf, -inf, 0.5 + 1e-9, [0.5]])
def test_what_is_not_the_stored_number_differs(stored):
    assert find_differences({"acc_corr": 0.5}, {"acc_corr": stored}) == ["acc_corr"]


@pytest.mark.parametrize("stored", [nan, 0.5, None])
def test_what_is_missing_differs_from_whatever_is_stored(stored):
    assert find_differences({}, {"acc_corr": stored}) == ["acc_corr"]
    assert find_differences({"acc_corr": nan}, {}) == ["acc_corr"]


@pytest.mark.parametrize(("now", "stored"), [(0.5, 0.5 + 1e-14), (nan, nan), (7, 7), (1.0, 1)])
def test_the_same_number_does_not_differ(now, stored):
    assert find_differences({"acc_corr": now}, {"acc_corr": stored}) == []


def test_whatever_is_stored_is_shown(capsys):
    print_columns("runs", {"metrics.json": {"acc_corr": None, "val_acc": "much"}, "now": {"acc_corr": nan}})
    shown = capsys.readouterr().out
    assert all(text in shown for text in ("None", "much", "nan"))
