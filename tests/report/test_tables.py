"""Means, measures, tables and what is missing, against numbers worked out by hand."""

import csv
import io
import json
import math
from pathlib import Path

import pytest

from cmu_lightning.report.aggregate import Spread, area, falls_back, missing, smallest_fraction, spread
from cmu_lightning.report.load import read_runs
from cmu_lightning.report.table import DIFFERS, as_csv, as_latex, as_markdown, table
from cmu_lightning.report.tables import (
    chosen_runs,
    cost,
    curves,
    measures,
    origin,
    published,
    regrets,
    retain_change,
)
from cmu_lightning.report.variants import compare
from tests.helpers.synthetic_runs import Study


def summary(rule="paper"):
    (comparison,) = compare(read_runs(Path("runs")).table, rule)
    return comparison


def flat(*means):
    return {at / 10: Spread(mean, None, 1) for at, mean in means}


def rows(made):
    return made.frame.to_dict("split")["data"]


def row(made, *beginning):
    (found,) = [row for row in rows(made) if tuple(row[: len(beginning)]) == beginning]
    return dict(zip(made.frame.columns, found, strict=True))


@pytest.fixture
def study():
    """Two seeds; RewoD at 0.5 and 1.0, CF at 0.5 alone, Scrub with two values of distill."""
    made = Study(Path("runs"))
    for seed, shift in ((0, 0.0), (1, 0.1)):
        made.original(seed, acc_corr=0.1, acc_retain=0.9 - shift, val_acc=0.9)
        made.unlearner("RewoD", 0.5, seed, acc_corr=0.3, acc_retain=0.9, acc_manipulated=0.5)
        made.unlearner("RewoD", 1.0, seed, acc_corr=0.8 + 2 * shift, acc_retain=0.94, acc_manipulated=1.0)
        made.unlearner("CF", 0.5, seed, acc_corr=0.2 + shift, acc_retain=0.7, acc_manipulated=0.5, seconds=4.0)
        for distill, score, corr, accuracy in ((0.1, 0.9, 0.5, 0.4), (1.0, 0.8, 0.85, 0.9)):
            numbers = {"selection_score": score, "acc_corr": corr, "val_acc": accuracy, "acc_retain": accuracy}
            made.unlearner("Scrub", 1.0, seed, {"distill": distill}, **numbers)
    return made


def test_hyperparameters_that_are_no_numbers_make_another_method():
    """What SSD's estimator is, is nothing that the paper's grid chooses."""
    study = Study(Path("runs"))
    study.original(0)
    for selection in (1.0, 10.0):
        study.unlearner("SSD", 0.5, 0, {"selection": selection, "fisher": "batch"}, acc_corr=0.2, selection_score=0.5)
    study.unlearner("SSD", 0.5, 0, {"selection": 1.0, "fisher": "sample"}, acc_corr=0.7, selection_score=0.9)
    own = summary()
    assert own.runs["label"].value_counts().to_dict() == {"SSD": 2, "SSD (fisher=sample)": 1}
    assert own.curve("SSD", "acc_corr")[0.5].mean == 0.2
    assert own.curve("SSD (fisher=sample)", "acc_corr")[0.5].mean == 0.7


def test_lists_are_no_numbers_to_choose_among():
    study = Study(Path("runs"))
    study.original(0)
    for layers in ([1], [1, 2]):
        study.unlearner("Mine", 0.5, 0, {"layers": layers}, acc_corr=0.1 * len(layers), selection_score=0.5)
    variant = summary()
    assert variant.methods == ["Mine", "Mine (layers=[1])"]


def found_by(folder, kind, **arguments):
    """Have a run's S_f found otherwise."""
    config = folder / "config.yaml"
    discovery = f"    discovery: {json.dumps({'class_path': kind, 'init_args': arguments})}\n"
    config.write_text(config.read_text().replace("    root: null\n", f"    root: null\n{discovery}"))


def test_seeds_of_ones_own_are_not_averaged_over_in_silence():
    study = Study(Path("runs"))
    study.original(0)
    for seed in (0, 1):
        found_by(study.unlearner("CF", 0.5, 0, acc_corr=0.2 + seed / 2, hash=f"{seed}" * 10), "mine.Random", seed=seed)
    variant = summary()
    assert variant.methods == ["CF", "CF (data.discovery.seed=1)"]
    assert variant.found == ["mine.Random"]


def test_what_s_m_did_no_harm_to_is_said(study):
    study.original(1, acc_corr=0.9, acc_retain=0.9)
    assert summary().found == []
    (said,) = [sentence for sentence in missing(summary()) if sentence.startswith("Nothing to correct")]
    assert said.startswith("Nothing to correct with seeds 1: the original's acc_corr is 0.90 and its acc_retain 0.90")


def test_classes_of_one_name_are_several_methods():
    study = Study(Path("runs"))
    study.original()
    for at, module in enumerate(("mine", "other")):
        folder = study.unlearner("Ascent", 0.5, hyperparameters={"weight": 0.1 * at})
        config = folder / "config.yaml"
        text = config.read_text()
        assert text.count("class_path: cmu_lightning.unlearning.Ascent") == 1
        config.write_text(text.replace("cmu_lightning.unlearning.Ascent", f"{module}.Ascent"))
    variant = summary()
    assert variant.methods == ["Ascent", "Ascent (model=other.Ascent)"]


def test_spread_is_mean_and_sample_deviation():
    assert spread([]) is None
    assert spread([0.5]) == (0.5, None, 1)
    assert spread([1.0, 2.0, 6.0]) == (3.0, pytest.approx(math.sqrt(7)), 3)


def test_curves_are_means_over_seeds(study):
    made = summary()
    assert made.curve("CF", "acc_corr") == {0.5: (pytest.approx(0.25), pytest.approx(0.1 / math.sqrt(2)), 2)}
    assert made.curve("RewoD", "acc_corr")[1.0].mean == pytest.approx(0.9)
    assert made.original("acc_corr") == (0.1, 0.0, 2)
    assert made.oracle("acc_corr").mean == pytest.approx(0.9)
    table = curves(made)
    assert row(table, "CF", "1")["acc_corr"] is None  # a gap, not a number from elsewhere
    assert row(table, "CF", "1")["seeds"] == 0
    assert row(table, "CF", "0.5")["acc_corr"].mean == pytest.approx(0.25)


def test_change_of_retain_is_against_the_original_of_the_same_seed(study):
    made = retain_change(summary())
    assert row(made, "CF")["change"] == (pytest.approx(-15.0), None, 1)  # -20 and -10
    rewod = row(made, "RewoD")["change"]  # 5 at 0.5, 9 at 1.0
    assert (rewod.mean, rewod.std) == (pytest.approx(7.0), pytest.approx(math.sqrt(8)))
    assert row(made, "CF")["fractions"] == "1 of 2"
    assert row(made, "None (acc_retain)")["change"].mean == pytest.approx(85.0)


def test_the_papers_numbers_stand_beside_its_settings():
    made = Study(Path("runs"), "poison_cifar10", size=500, width=64, steps=4000, unlearn_steps=1000)
    made.original(dataset="cifar10")
    for method in ("SSD", "CF"):
        made.unlearner(method, 0.1, dataset="cifar10", acc_retain=0.9)
    change = retain_change(summary())
    assert row(change, "SSD")["paper"] == (-8.94, 1.02, 10)
    assert row(change, "CF")["paper"] == (0.97, 0.06, 10)
    assert row(change, "None (acc_retain)")["paper"] == 90.52
    assert row(cost(summary()), "SSD")["paper, seconds"] == 108
    assert set(change.frame[DIFFERS]) == {None}
    assert "paper |" in as_markdown(change).splitlines()[2]  # nothing differs, so the heading says nothing


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"width": 16}, "network.width 16, not 64"),
        ({"steps": 400}, "procedure.steps 400, not 4000"),
        ({"size": 1000}, "|S_m| 1,000, not 500"),
        ({"width": 16, "size": 1000}, "network.width 16, not 64; |S_m| 1,000, not 500"),
    ],
    ids=str,
)
def test_the_papers_numbers_do_not_stand_beside_what_differs_and_the_heading_says_in_what(change, says):
    same = {"size": 500, "width": 64, "steps": 4000, "unlearn_steps": 1000}
    made = Study(Path("runs"), "poison_cifar10", **same | change)
    made.original(dataset="cifar10")
    for method in ("SSD", "CF"):
        made.unlearner(method, 0.1, dataset="cifar10", acc_retain=0.9)
    for found, heading in ((retain_change(summary()), "paper"), (cost(summary()), "paper, seconds")):
        assert set(found.frame[heading]) == {None}
        assert set(found.frame[DIFFERS]) == {says}
        assert f"| {heading} (none: {says}) |".replace("|S_m|", "\\|S_m\\|") in as_markdown(found)
        assert f"{says.replace('|', '|')}" in as_csv(found).replace('"', "")


def test_the_number_of_steps_of_unlearning_keeps_the_papers_numbers_from_what_fine_tunes():
    made = Study(Path("runs"), "poison_cifar10", size=500, width=64, steps=4000, unlearn_steps=100)
    made.original(dataset="cifar10")
    for method in ("SSD", "CF"):
        made.unlearner(method, 0.1, dataset="cifar10", acc_retain=0.9)
    change = retain_change(summary())
    assert row(change, "SSD")["paper"] == (-8.94, 1.02, 10)
    assert row(change, "CF")["paper"] is None
    assert row(change, "CF")[DIFFERS] == "procedure.unlearn_steps 100, not 1000"
    assert f"| {DIFFERS} |" in as_markdown(change)  # rows differ in it, so it is a column


def test_the_papers_seconds_do_not_stand_beside_other_data(study):
    assert set(cost(summary()).frame["paper, seconds"]) == {None}


def test_the_published_numbers_cover_table_1():
    settings = published()["retain_change"]["settings"]
    assert len({(each["dataset"], each["manipulation"]) for each in settings}) == 4
    assert all(set(each["change"]) == {"BadT", "CF", "SSD", "Scrub", "RewoD"} for each in settings)


def test_the_rule_decides_and_regret_tells_what_it_costs(study):
    assert summary().chosen_of("Scrub")["acc_corr"].tolist() == [0.5, 0.5]
    assert summary("oracle").chosen_of("Scrub")["acc_corr"].tolist() == [0.85, 0.85]
    table = regrets(summary())
    paper = row(table, "Scrub", "paper")
    assert (paper["regret"], paper["largest"]) == (pytest.approx(0.35), pytest.approx(0.35))
    assert (paper["destroyed"], paper["points"]) == (2, 2)  # 0.4 is less than half of 0.9
    assert row(table, "Scrub", "oracle")["regret"] == 0
    assert row(table, "Scrub", "oracle")["destroyed"] == 0
    assert {each[0] for each in rows(table)} == {"Scrub"}  # the others had no choice
    assert row(table, "Scrub", "rem")["points"] == 0  # nothing of what it needs was measured


def test_chosen_runs_say_where_they_come_from(study):
    table = chosen_runs(summary())
    found = row(table, "Scrub", "1", "1")
    assert (found["hyperparameters"], found["of"], found["destroyed"]) == ("distill=0.1", 2, True)
    assert (Path("runs") / found["folder"] / "metrics.json").exists()
    assert row(table, "CF", "0.5", "0")["regret"] == 0


def test_measures(study):
    table = measures(summary())
    rewod, cf, scrub = (row(table, method) for method in ("RewoD", "CF", "Scrub"))
    assert (rewod["0.9 of the oracle at"], cf["0.9 of the oracle at"]) == ("1", "not reached")
    assert rewod["area"] == (pytest.approx((0.55 + 0.65) / 2), pytest.approx(0.1 / math.sqrt(2)), 2)
    assert cf["area"] is None
    assert rewod["utility x healed"].mean == pytest.approx((0.45 + 0.94) / 2)
    assert scrub["utility x healed"] is None  # acc_manipulated was not measured
    assert scrub["destroyed"] == "2 of 2"


def test_area_and_smallest_fraction_of_a_curve():
    curve = flat((1, 0.0), (2, 0.5), (4, 1.0))
    heights = {at: each.mean for at, each in curve.items()}
    assert area(heights, [0.1, 0.2, 0.4]) == pytest.approx((0.1 * 0.25 + 0.2 * 0.75) / 0.3)
    assert area(heights, [0.1, 0.2, 0.3, 0.4]) is None  # nothing is filled in
    assert area(heights, [0.1]) is None
    assert smallest_fraction(curve, Spread(1.0, None, 1)) == 0.4
    assert smallest_fraction(curve, Spread(0.5, None, 1)) == 0.2
    assert smallest_fraction(curve, Spread(1.2, None, 1)) is None
    assert smallest_fraction(curve, None) is None
    back = flat((1, 0.95), (2, 0.85), (4, 1.0), (8, 0.7))
    assert falls_back(back, Spread(1.0, None, 1)) == [0.2, 0.8]
    assert falls_back(back, Spread(2.0, None, 1)) == falls_back(back, None) == []
    assert smallest_fraction(flat((1, 0.89), (2, 0.91), (4, 1.0)), Spread(1.0, None, 1)) == 0.2


def test_cost_is_of_the_chosen_runs(study):
    made = row(cost(summary()), "CF")
    assert (made["seconds"], made["samples forward"].mean, made["runs"]) == ((4.0, 0.0, 2), 1000, 2)
    assert row(cost(summary()), "None (training the original)")["seconds"].mean == 10


def test_origin_names_seeds_and_versions(study):
    found = row(origin(summary()), "Scrub")
    assert (found["runs"], found["seeds"], found["torch"], found["device"]) == (4, "0, 1", "2.15.0", "cpu x86_64")


def test_nothing_is_missing_from_a_full_study():
    made = Study(Path("runs"))
    made.original()
    for identified in (0.5, 1.0):
        made.unlearner("RewoD", identified, acc_corr=0.9)
        made.unlearner("Scrub", identified, 0, {"distill": 0.1}, selection_score=0.5)
    assert missing(summary()) == []


def test_what_is_missing_is_said(study):
    made = Study(Path("runs"))
    made.unlearner("Scrub", 0.5, 0, {"distill": 0.1})
    made.unlearner("Scrub", 0.5, 0, {"distill": 1.0})
    made.unlearner("Scrub", 1.0, 0, {"distill": 5.0}, selection_score=0.1)
    assert missing(summary()) == [
        "CF: no run at identified 1 (seeds 0, 1).",
        "Scrub: no run at identified 0.5 (seeds 1).",
        "Scrub: 2 of 3 points lack some of 3 runs, the worst has 2.",
        "Scrub: 1 points without what the rule paper needs.",
    ]


def test_the_oracle_is_what_was_trained_without_any_of_s_m():
    """Though another way of RewoD, whose S_f has clean samples in it, has more runs."""
    made = Study(Path("runs"))
    made.original()
    made.unlearner("RewoD", 1.0, 0, acc_corr=0.95)
    for seed in (1, 2):
        made.original(seed)
        for at in (0.5, 1.0):
            made.unlearner("RewoD", at, seed, {"way": "other"}, acc_corr=0.6, false_positives=9)
    assert summary().oracle("acc_corr") == (0.95, None, 1)


def test_missing_oracles_and_seeds_are_said():
    made = Study(Path("runs"))
    made.original()
    made.unlearner("CF", 1.0, 0)
    made.unlearner("BadT", 1.0, 0)
    made.unlearner("BadT", 1.0, 0, model_seed=1, hash="0123456789")
    said = missing(summary())
    assert said[0] == "No oracle: there is no acc_corr of RewoD at identified 1."
    assert said[1] == "CF: no run for seeds original=0 manipulation=0 model=1 data=0."


def test_missing_originals_are_said():
    Study(Path("runs")).unlearner("CF", 1.0, 3)
    assert "No original for seeds 3." in missing(summary())
    assert rows(retain_change(summary()))[1][:2] == ["CF", None]


TABLE = table(
    "t", "Title_1", "50% of S_m", ["a & b", "x", "y"], [["p|q", Spread(0.12345, 0.5, 3), 1], ["r", None, 2.0]]
)


def test_a_table_in_three_formats():
    assert list(csv.reader(io.StringIO(as_csv(TABLE)))) == [
        ["a & b", "x mean", "x std", "x n", "y"],
        ["p|q", "0.12345", "0.5", "3", "1"],
        ["r", "", "", "", "2.0"],
    ]
    markdown = as_markdown(TABLE).splitlines()
    assert markdown[2:6] == [
        "| a & b | x | y |",
        "| --- | ---: | ---: |",
        "| p\\|q | 0.123 ± 0.500 | 1 |",
        "| r | – | 2.000 |",
    ]
    latex = as_latex(TABLE)
    assert "\\caption{Title\\_1. 50\\% of S\\_m}" in latex
    assert "\\begin{tabular}{lrr}" in latex
    assert "p|q & 0.123 $\\pm$ 0.500 & 1 \\\\" in latex


ODD = table(
    "t", "", "", ["@x", "y"], [["=1+1", -0.5], ["<img src=x>|\n![a](b)", None], ["-0.5", Spread(-1.5, None, 1)]]
)


def test_names_that_mean_something_in_a_table_stay_names():
    assert [line[:2] for line in csv.reader(io.StringIO(as_csv(ODD)))] == [
        ["'@x", "y mean"],
        ["'=1+1", "-0.5"],
        ["<img src=x>|\n![a](b)", ""],
        ["-0.5", "-1.5"],
    ]
    lines = as_markdown(ODD).splitlines()
    assert lines[2].startswith("| @x |")
    assert lines[5] == "| &lt;img src=x>\\| ![a]\\(b) | – |"


def test_every_table_that_a_rule_made_names_it(study):
    for rule in ("paper", "oracle"):
        for made in (retain_change, measures, cost, curves, chosen_runs):
            found = made(summary(rule))
            assert set(found.flat()["rule"]) == {rule}
            assert f"chosen by the rule {rule}." in as_markdown(found)
            assert f"chosen by the rule {rule}." in as_latex(found)


def test_metrics_that_were_not_measured_are_gaps(study):
    for path in Path("runs").rglob("metrics.json"):
        stored = json.loads(path.read_text())
        for key in ("acc_corr", "val_acc"):
            stored.pop(key, None)
        path.write_text(json.dumps(stored))
    made = summary()
    assert made.curve("CF", "acc_corr") == {}
    assert row(measures(made), "CF")["area"] is None
    assert row(measures(made), "CF")["destroyed"] is None
    assert any(line.startswith("No oracle") for line in missing(made))


def test_what_a_detector_found_is_no_fraction_that_others_lack(study):
    """It is told how many samples to take; its recall differs from seed to seed, and is one place in the curve."""
    without = summary()
    before = {method: row(measures(without), method) for method in without.methods}
    for seed, recall in ((0, 0.25), (1, 0.35)):
        folder = study.unlearner("CF", recall, seed, hash=f"{seed}" * 10, acc_corr=0.3 + seed / 10, acc_retain=0.9)
        config = folder / "config.yaml"
        detector = "    discovery:\n      class_path: cmu_lightning.data.LossRanking\n      init_args: {count: 20}\n"
        config.write_text(config.read_text().replace("    root: null\n", f"    root: null\n{detector}"))
    now = summary()
    (own,) = [method for method in now.methods if "LossRanking" in method]
    assert now.fractions == without.fractions == [0.5, 1.0]
    assert {method: row(measures(now), method) for method in without.methods} == before
    assert now.curve(own, "acc_corr") == {0.3: Spread(pytest.approx(0.35), pytest.approx(0.0707, abs=1e-4), 2)}
    assert (row(measures(now), own)["fractions"], row(measures(now), own)["area"]) == ("1 of 1", None)
    assert not any(own in sentence and "no run at" in sentence for sentence in missing(now))
    assert [line[1] for line in rows(curves(now)) if line[0] == own] == ["0.3"]
