"""The choice among candidates, on made-up numbers and on those of finished studies."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cmu_lightning.console import PlainConsole
from cmu_lightning.deploy.choice import Candidate, Outcome, choose, doubt, is_destroyed, require_validation
from cmu_lightning.errors import UserError
from cmu_lightning.parsing import PACKAGE

LAPTOP_PCAM = PACKAGE.parent / "docs/results/laptop_pcam/runs.jsonl"


def candidate(name: str, val_acc: float, changed: float, **more: Any) -> Candidate:
    metrics = {"val_acc": val_acc, "changed": changed, "selection_score": (val_acc + changed) / 2}
    return Candidate(name, Path(name), metrics | more)


def test_the_highest_score_that_is_not_destroyed_is_chosen():
    original = candidate("the original", 0.9, 0.0)
    candidates = [
        candidate("a", 0.4, 1.0),  # destroyed, though its score is the highest
        candidate("b", 0.8, 0.5),
        candidate("c", 0.7, 0.6),  # its score equals b's, and it comes later
        candidate("d", 0.9, 0.0),
    ]
    chosen, reason = choose(original, candidates)
    assert chosen.name == "b"
    assert re.match(r"b is chosen: of 3 candidates .* 0\.6500 against the original's 0\.4500; .* 50% of the", reason)
    assert "\n" not in reason


def test_the_original_is_kept_where_nothing_is_better():
    original = candidate("the original", 0.9, 0.0)
    chosen, reason = choose(original, [candidate("a", 0.4, 1.0), candidate("equal", 0.9, 0.0)])
    assert chosen is original
    assert reason.startswith("The original is kept: of 2 candidates none")
    assert "0.4500" in reason
    assert choose(original, [])[0] is original


def test_a_model_that_guesses_one_of_two_classes_is_not_chosen():
    original, guessing, repaired = (
        candidate("the original", 0.76, 0.0),
        candidate("guessing", 0.5, 0.78),
        candidate("repaired", 0.72, 0.3),
    )
    assert choose(original, [guessing, repaired])[0] is guessing, "the accuracy of guessing is not known"
    original.metrics["val_majority"] = 0.5
    assert choose(original, [guessing, repaired])[0] is repaired
    original.metrics["val_majority"] = 0.8
    assert choose(original, [guessing, repaired])[0] is guessing, "an original that is worse than guessing"


# Measured by the repair of docs/own_model.md on a CPU: val_acc and changed, in the order of the study.
TUTORIAL = {
    "Potion": (0.965, 0.9),
    "ASSD": (0.945, 0.9),
    "SSD (selection 1, dampening_ratio 0.1)": (0.81, 1.0),
    "SSD (selection 1, dampening_ratio 1)": (0.87, 0.9333),
    "SSD (selection 10, dampening_ratio 0.1)": (0.985, 0.4333),
    "SSD (selection 10, dampening_ratio 1)": (0.99, 0.0),
    "SSD (selection 100, dampening_ratio 0.1)": (0.975, 0.0),
    "SSD (selection 100, dampening_ratio 1)": (0.975, 0.0),
    "CF": (0.99, 0.0),
    "Scrub (distill 0.1)": (0.99, 0.0),
    "Scrub (distill 1)": (0.99, 0.0),
    "BadT": (0.985, 0.3333),
}


def test_stored_runs_of_the_tutorial():
    original = candidate("the original", 0.975, 0.0, val_majority=0.115)
    candidates = [candidate(name, *measured) for name, measured in TUTORIAL.items()]
    assert not any(is_destroyed(each, original) for each in candidates)
    assert choose(original, candidates)[0].name == "Potion"
    unchanged = [each for each in candidates if each.metrics["changed"] == 0]
    assert choose(original, unchanged)[0].name == "SSD (selection 10, dampening_ratio 1)", "the first of four"
    assert choose(original, [each for each in unchanged if each.metrics["val_acc"] == 0.975])[0] is original


@pytest.mark.parametrize(
    ("seed", "identified", "destroyed", "expected"),
    [
        (0, 0.1, {"Potion", "TunedSSD"}, "RewoD"),
        (0, 1.0, {"Potion", "TunedSSD"}, "RewoD"),
        (1, 0.1, {"Potion", "TunedSSD"}, "RewoD"),
        (1, 1.0, {"TunedSSD"}, "Potion"),
    ],
)
def test_stored_runs_of_two_classes(seed, identified, destroyed, expected):
    """TunedSSD always predicts one class there, and has the highest selection score on the small deletion sets."""
    stored = [json.loads(line) for line in LAPTOP_PCAM.read_text().splitlines()]
    stored = [run for run in stored if run["seed"] == seed]
    (val_acc,) = (run["val_acc"] for run in stored if run["method"] == "Original")
    original = candidate("the original", val_acc, 0.0, val_majority=0.5)
    runs = [Candidate(run["method"], Path(), run) for run in stored if run.get("identified") == identified]
    assert len(runs) == 7
    assert {run.name for run in runs if is_destroyed(run, original)} == destroyed
    assert choose(original, runs)[0].name == expected


def test_without_validation_samples_nothing_can_be_compared():
    with pytest.raises(UserError, match="there are no validation samples, so candidates cannot be compared: add"):
        require_validation(Candidate("the original", Path("x"), {"changed": 0.0}))
    with pytest.raises(UserError, match="files of cmu_lightning changed while the original was measured: run"):
        require_validation(None)
    original = candidate("the original", 0.9, 0.0)
    assert require_validation(original) is original


def test_an_original_that_gets_other_inputs_than_in_training_is_doubted():
    assert doubt(candidate("the original", 0.9, 0.0, fit_retain=0.97)) is None
    assert doubt(candidate("the original", 0.9, 0.0)) is None
    warning = doubt(candidate("the original", 0.1, 0.0, fit_retain=0.114))
    assert warning is not None
    assert warning.startswith("warning: the original predicts the given label of only 11% of the images")


def test_an_outcome_as_json_and_as_a_table():
    more = {"method": "CF", "hyperparameters": {}, "hash": "0" * 10, "setting": "mine", "deleted": 1, "seconds": 2.25}
    original, good, bad = (
        candidate("the original", 0.9, 0.0, **more),
        candidate("good", 0.8, 0.5, **more),
        candidate("bad", 0.4, 1.0, **more),
    )
    outcome = Outcome(original, [good, bad], good, "because", {"cf": "no [room] left"})
    content = outcome.as_json()
    assert [*content] == ["setting", "run", "original_kept", "why", "original", "candidates", "failed"]
    assert (content["run"], content["original_kept"], content["why"]) == ("good", False, "because")
    assert [each["destroyed"] for each in content["candidates"]] == [False, True]
    assert content["original"] == {
        "run": "the original",
        "method": "CF",
        "hyperparameters": {},
        "hash": "0" * 10,
        "val_acc": 0.9,
        "changed": 0.0,
        "selection_score": 0.45,
    }
    console = PlainConsole(width=100)
    with console.capture() as capture:
        console.print(outcome.as_table())
    lines = capture.get().splitlines()
    assert lines[0].strip() == "mine: 1 flagged sample"
    for expected in (
        ["the original", "0.9000", "0.0000", "0.4500", "2.2", ""],
        ["good", "0.8000", "0.5000", "0.6500", "2.2", "chosen"],
        ["bad", "0.4000", "1.0000", "0.7000", "2.2", "destroyed"],
        ["cf", "", "", "", "", "failed: no [room] left"],
    ):
        assert expected in [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
