"""The choice among candidates, on made-up numbers and on those of finished studies."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmu_lightning.console import PlainConsole
from cmu_lightning.deploy.choice import Candidate, Outcome, choose, doubts, is_destroyed, require_results, take
from cmu_lightning.deploy.guards import Part, Parts
from cmu_lightning.errors import UserError
from cmu_lightning.parsing import PACKAGE

LAPTOP_PCAM = PACKAGE.parent / "docs/results/laptop_pcam/runs.jsonl"


def candidate(name: str, val_acc: float, fit_identified: float, **more: Any) -> Candidate:
    return Candidate(name, Path(name), {"method": name, "val_acc": val_acc, "fit_identified": fit_identified} | more)


def test_the_highest_score_that_is_not_destroyed_is_chosen():
    original = candidate("the original", 0.9, 1.0)
    candidates = [
        candidate("a", 0.4, 0.0),  # destroyed
        candidate("b", 0.88, 0.25),
        candidate("c", 0.83, 0.0),  # its score equals b's, and it comes later
        candidate("d", 0.9, 1.0),
    ]
    chosen = choose(original, candidates)
    assert chosen.run.name == "b"
    assert re.match(
        r"b is chosen: its score of 5\.1500 is the highest of 4 .* 4\.5000\); its val_acc is 0\.88", chosen.reason
    )
    assert "it predicts the flagged label for 25% of the flagged samples (the original: 100%)" in chosen.reason
    assert chosen.refused == {}


def test_the_original_is_kept_where_nothing_is_better():
    original = candidate("the original", 0.9, 1.0)
    chosen = choose(original, [candidate("a", 0.4, 0.0), candidate("equal", 0.9, 1.0)])
    assert chosen.run is original
    assert chosen.reason.startswith("The original is kept: of 2 candidates, none scores higher than its")
    assert "4.5000" in chosen.reason
    assert choose(original, []).run is original


def parts(before: list[int], after: list[int], labels: list[int], flagged: list[int]) -> Parts:
    """Return parts of which S_f has the label 0, said of all before and of what `flagged` says after."""
    validation = Part(np.array(labels), np.array(before), np.array(after))
    zeros = np.zeros(len(flagged), dtype=int)
    return Parts(validation, validation, Part(zeros, zeros, np.array(flagged)), ["cat", "dog"])


def test_a_candidate_that_fails_a_guard_is_passed_over():
    labels = [0] * 30 + [1] * 30
    told = {
        "loses dogs": parts(labels, [0] * 60, labels, [1] * 9),
        "by chance": parts(labels, [*labels[:-1], 0], labels, [0] * 10 + [1]),
        "good": parts(labels, labels, labels, [1] * 9),
    }
    original = candidate("the original", 0.9, 1.0)
    runs = [candidate("good", 0.9, 0.5), candidate("loses dogs", 0.9, 0.0), candidate("by chance", 0.9, 0.2)]
    asked = []

    def parts_of(run: Candidate) -> Parts:
        asked.append(run.name)
        return told[run.name]

    chosen = choose(original, runs, parts_of)
    assert (chosen.run.name, asked) == ("good", ["loses dogs", "by chance", "good"])
    assert chosen.refused["loses dogs"] == "it loses class dog (recall 1.00 to 0.00) on validation samples"
    assert chosen.refused["by chance"].startswith("its gain is within the noise: ")
    assert "after the guards refused 2 with a higher one" in chosen.reason
    kept = choose(original, runs[1:], parts_of)
    assert kept.run is original
    assert "none that scores higher than its 4.5000 passes the guards; loses dogs scores highest" in kept.reason
    assert "but it loses class dog" in kept.reason


def test_another_candidate_is_taken_by_name():
    original = candidate("the original", 0.9, 1.0)
    strong, weak = candidate("SSD (selection 1)", 0.3, 0.0), candidate("SSD (selection 10)", 0.9, 0.6)
    for run in (strong, weak):
        run.metrics["method"] = "SSD"
    assert take(original, [strong, weak], "ssd").run is weak
    taken = take(original, [strong, weak], "ssd (selection 1)")
    assert taken.run is strong
    assert (
        "SSD (selection 1), which is destroyed, is chosen because --choose asks for ssd (selection 1)" in taken.reason
    )
    for name in ("Keep", "the original", "original"):
        assert take(original, [strong], name).run is original
    with pytest.raises(UserError, match=r"--choose cf: no finished candidate has that name; choose from SSD"):
        take(original, [strong], "cf")


def test_a_model_that_guesses_one_of_two_classes_is_not_chosen():
    original, guessing, repaired = (
        candidate("the original", 0.76, 1.0),
        candidate("guessing", 0.7, 0.0),
        candidate("repaired", 0.72, 0.3),
    )
    assert choose(original, [guessing, repaired]).run is guessing, "the accuracy of guessing is not known"
    original.metrics["val_majority"] = 0.69
    assert choose(original, [guessing, repaired]).run is original, "both are hardly better than guessing"
    original.metrics["val_majority"] = 0.66
    assert choose(original, [guessing, repaired]).run is repaired
    original.metrics["val_majority"] = 0.8
    assert choose(original, [guessing, repaired]).run is guessing, "an original that is worse than guessing"


@pytest.mark.parametrize(
    ("seed", "identified", "destroyed", "expected"),
    [
        (0, 0.1, {"Potion", "TunedSSD"}, "RewoD"),
        (0, 1.0, {"Potion", "TunedSSD"}, "RewoD"),
        (1, 0.1, {"Potion", "TunedSSD"}, "CF"),
        (1, 1.0, {"TunedSSD"}, "CF"),
    ],
)
def test_stored_runs_of_two_classes(seed, identified, destroyed, expected):
    """TunedSSD always predicts one class there, and has the highest selection score on the small deletion sets."""
    stored = [json.loads(line) for line in LAPTOP_PCAM.read_text().splitlines()]
    stored = [run for run in stored if run["seed"] == seed]
    (val_acc,) = (run["val_acc"] for run in stored if run["method"] == "Original")
    original = candidate("the original", val_acc, 1.0, val_majority=0.5)
    runs = [Candidate(run["method"], Path(), run) for run in stored if run.get("identified") == identified]
    assert len(runs) == 7
    assert {run.name for run in runs if is_destroyed(run, original)} == destroyed
    assert choose(original, runs).run.name == expected


def test_without_validation_samples_the_retain_data_count():
    original = Candidate("the original", Path("x"), {"fit_retain": 0.95, "fit_identified": 1.0})
    good = Candidate("good", Path("y"), {"fit_retain": 0.94, "fit_identified": 0.2})
    destroyed = Candidate("destroyed", Path("z"), {"fit_retain": 0.4, "fit_identified": 0.0})
    assert choose(original, [destroyed, good]).run is good
    assert is_destroyed(destroyed, original)
    assert "its fit_retain is 0.9400 (the original's: 0.9500)" in choose(original, [good]).reason


def test_an_original_that_is_not_in_the_ledger():
    with pytest.raises(UserError, match="files of cmu_lightning changed while the original was measured: run"):
        require_results(None)
    original = candidate("the original", 0.9, 0.0)
    assert require_results(original) is original


def test_what_is_said_before_anything_is_run():
    assert doubts(candidate("the original", 0.9, 1.0, fit_retain=0.97)) == []
    (warning,) = doubts(candidate("the original", 0.1, 1.0, fit_retain=0.114))
    assert warning.startswith("warning: the original predicts the given label of only 11% of the images")
    (little,) = doubts(candidate("the original", 0.7, 0.3, fit_retain=0.97))
    assert "predicts the flagged label for only 30% of the flagged samples, and it is wrong on 30%" in little
    assert doubts(candidate("the original", 0.7, 0.31, fit_retain=0.97)) == []


def test_a_candidate_that_was_not_shown_the_trusted_images_has_no_score_to_compare():
    """As those that `--choose` does not ask for."""
    more = {"hyperparameters": {}, "hash": "0" * 10, "setting": "mine", "deleted": 1, "seconds": 2.25}
    runs = [candidate(name, 0.9, 0.5, **more) for name in ("the original", "asked for", "other")]
    shown = [replace(each, trusted=(3, 4)) for each in runs[:2]]
    outcome = Outcome(shown[0], [shown[1], runs[2]], shown[1], "because", {})
    assert [("score" in each, "trusted" in each) for each in outcome.as_json()["candidates"]] == [
        (True, True),
        (False, False),
    ]
    console = PlainConsole(width=100)
    with console.capture() as capture:
        console.print(outcome.as_table())
    row = next(line for line in capture.get().splitlines() if "other" in line)
    assert "3 of 4" not in row
    assert f"{runs[2].score:.4f}" not in row


def test_no_candidate_has_finished():
    assert choose(candidate("the original", 0.9, 1.0), []).reason == "The original is kept: no candidate has finished."


def test_an_outcome_as_json_and_as_a_table():
    more = {"hyperparameters": {}, "hash": "0" * 10, "setting": "mine", "deleted": 1, "seconds": 2.25, "changed": 0.5}
    original, good, bad, odd = (
        candidate("the original", 0.9, 1.0, **more),
        candidate("good", 0.88, 0.5, **more),
        candidate("bad", 0.4, 0.0, **more),
        candidate("odd", 0.89, 0.0, **more),
    )
    refused = {"odd": "it loses class 3 (recall 1.00 to 0.00) on validation samples"}
    outcome = Outcome(
        original, [good, bad, odd], good, "because", {"cf": "no [room] left"}, refused, ["badt"], ["note"]
    )
    content = outcome.as_json()
    keys = ["setting", "run", "original_kept", "why", "original", "candidates", "failed", "not_tried", "notes"]
    assert [*content] == keys
    assert (content["run"], content["original_kept"], content["why"]) == ("good", False, "because")
    assert [each["destroyed"] for each in content["candidates"]] == [False, True, False]
    assert [each.get("refused") for each in content["candidates"]] == [None, None, refused["odd"]]
    assert (content["not_tried"], content["notes"]) == (["badt"], ["note"])
    assert content["original"] == {
        "name": "the original",
        "run": "the original",
        "method": "the original",
        "hyperparameters": {},
        "hash": "0" * 10,
        "val_acc": 0.9,
        "fit_identified": 1.0,
        "changed": 0.5,
        "score": pytest.approx(4.5 + 1 / 3),
    }
    console = PlainConsole(width=100)
    with console.capture() as capture:
        console.print(outcome.as_table())
    lines = capture.get().splitlines()
    assert lines[0].strip() == "mine: 1 flagged sample"
    for expected in (
        ["the original", "0.9000", "1.0000", "4.8333", "2.2", ""],
        ["good", "0.8800", "0.5000", "4.9000", "2.2", "chosen"],
        ["bad", "0.4000", "0.0000", "2.6667", "2.2", "destroyed"],
        ["odd", "0.8900", "0.0000", "5.1167", "2.2", "loses class 3"],
        ["cf", "", "", "", "", "failed: no [room] left"],
        ["badt", "", "", "", "", "not tried: no time"],
    ):
        assert expected in [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines]
