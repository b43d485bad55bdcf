"""The field's tables: averages and both kinds of spread by hand, and others' rows next to ours."""

import csv
import io
import json
import math
from pathlib import Path

import pytest

from cmu_lightning.report.aggregate import utility
from cmu_lightning.report.build import build
from cmu_lightning.report.field import average, field_table, published, published_tables
from cmu_lightning.report.load import read_runs
from cmu_lightning.report.regimes import families
from cmu_lightning.report.table import as_csv
from cmu_lightning.report.tables import measures, together
from cmu_lightning.report.variants import compare
from tests.helpers.synthetic_runs import Study

CELLS = {("Poison", "0.5"), ("RandomSwap", "0.5")}


def found():
    return families(compare(read_runs(Path("runs")).table, "paper"))


def rows(made):
    return [dict(zip(made.frame.columns, line, strict=True)) for line in made.frame.to_numpy().tolist()]


def row(made, **about):
    (own,) = [each for each in rows(made) if all(each[key] == value for key, value in about.items())]
    return own


def write_study(manipulation, healed, retain, corr=0.5, seeds=(0, 1), dataset="digits", methods=("CF",), **more):
    """Runs at 0.5 whose acc_manipulated is `healed` for seed 0 and 0.1 more for each further seed."""
    made = Study(Path("runs"), f"{manipulation}_{dataset}", manipulation, **more)
    for seed in seeds:
        about = {"acc_corr": corr, "acc_retain": retain, "dataset": dataset}
        if retain is None:
            del about["acc_retain"]
        made.original(seed, **about)
        for method in methods:
            made.unlearner(method, 0.5, seed, acc_manipulated=healed + seed / 10, **about)
    return made


def drop_retain():
    """Take acc_retain out of the originals of manipulations that affect everything: `Study` has one by default."""
    for path in Path("runs").glob("RandomSwap*/Original/*/metrics.json"):
        stored = json.loads(path.read_text())
        del stored["acc_retain"]
        path.write_text(json.dumps(stored))


def test_utility_is_acc_retain_or_where_everything_is_affected_acc_corr():
    assert utility(0.9, 0.1) == 0.9
    assert utility(None, 0.1) == utility(math.nan, 0.1) == 0.1
    assert utility(0.0, 0.1) == 0.0
    assert utility(None, None) is None


def test_both_spreads_of_an_average():
    values = {
        "0": {("Poison", "0.5"): 10.0, ("RandomSwap", "0.5"): 50.0},
        "1": {("Poison", "0.5"): 20.0, ("RandomSwap", "0.5"): 60.0},
    }
    mean, error, deviation, cells, seeds = average(values, CELLS)
    pooled = [10.0, 50.0, 20.0, 60.0]
    variance = sum((each - 35) ** 2 for each in pooled) / 3
    assert (mean, cells, seeds) == (35.0, 4, 2)
    assert error == pytest.approx(math.sqrt(variance / 4))
    assert deviation == pytest.approx(math.sqrt((30 - 35) ** 2 + (40 - 35) ** 2))  # of 30 and 40


def test_only_seeds_with_every_cell_are_averaged_over():
    values = {"0": dict.fromkeys(CELLS, 10.0), "1": {("Poison", "0.5"): 99.0}}
    assert average(values, CELLS) == (10.0, 0.0, None, 2, 1)
    assert average({"1": values["1"]}, CELLS) is None
    assert average({}, CELLS) is None
    assert average({"0": {("Poison", "1"): 10.0}}, {("Poison", "1")}) == (10.0, None, None, 1, 1)


def test_means_are_over_manipulations_fractions_and_seeds():
    write_study("Poison", healed=0.2, retain=0.9)
    write_study("RandomSwap", healed=0.6, retain=None, corr=0.8)
    drop_retain()
    table = field_table(found())
    poison, swap = (row(table, manipulation=name, method="CF") for name in ("Poison", "RandomSwap"))
    assert (poison["healed"], poison["utility"]) == (pytest.approx(25.0), pytest.approx(90.0))
    assert (swap["healed"], swap["utility"]) == (pytest.approx(65.0), pytest.approx(80.0))
    both = row(table, manipulation="all: RandomSwap, Poison", method="CF")
    assert (both["cells"], both["seeds"]) == (4, 2)
    assert both["healed"] == pytest.approx(45.0)
    assert both["utility"] == pytest.approx(85.0)
    products = [0.2 * 0.9, 0.3 * 0.9, 0.6 * 0.8, 0.7 * 0.8]
    assert both["utility x healed"] == pytest.approx(25 * sum(products))  # the mean of products, not their product
    assert both["healed: SD over seeds"] == pytest.approx(10 / math.sqrt(2))  # of 40 and 50
    deviation = math.sqrt(sum((each - 45) ** 2 for each in (20, 30, 60, 70)) / 3)
    assert both["healed: SE over cells"] == pytest.approx(deviation / 2)
    none = row(table, manipulation="all: RandomSwap, Poison", method="None")
    assert (none["healed"], none["cells"]) == (pytest.approx(10.0), 4)
    assert none["utility"] == pytest.approx(85.0)


def test_the_sum_of_a_curve_takes_the_same_utility_and_says_so():
    write_study("RandomSwap", healed=0.6, retain=None, corr=0.8, seeds=(0,))
    write_study("Poison", healed=0.5, retain=0.9, seeds=(0,))
    poison, swap = sorted(compare(read_runs(Path("runs")).table, "paper"), key=lambda each: each.name)
    assert rows(measures(swap))[0]["utility x healed"].mean == pytest.approx(0.48)
    assert rows(measures(poison))[0]["utility x healed"].mean == pytest.approx(0.45)
    assert measures(swap).note.removeprefix(measures(poison).note).startswith(" If everything is affected")
    (both,) = together([(each.name, [measures(each)]) for each in (poison, swap)])
    assert both.note == measures(swap).note


def test_a_method_that_lacks_a_manipulation_has_no_average():
    write_study("Poison", healed=0.2, retain=0.9, methods=("CF", "SSD"))
    write_study("InterclassConfusion", healed=0.4, retain=0.9)
    table = field_table(found())
    name = "all: InterclassConfusion, Poison"
    lacking = row(table, manipulation=name, method="SSD")
    assert (lacking["cells"], lacking["healed"]) == (0, None)
    assert row(table, manipulation="Poison", method="SSD")["cells"] == 2
    assert row(table, manipulation=name, method="CF")["cells"] == 4


def test_of_two_variants_of_a_manipulation_that_with_most_runs_counts():
    write_study("Poison", healed=0.2, retain=0.9)
    write_study("InterclassConfusion", healed=0.4, retain=0.9)
    write_study("Poison", healed=0.9, retain=0.9, seeds=(0,), size=100)
    table = field_table(found())
    (name,) = {each["manipulation"] for each in rows(table) if each["manipulation"].startswith("all")}
    assert name == "all: InterclassConfusion, Poison, 36"
    assert row(table, manipulation=name, method="CF")["healed"] == pytest.approx(35.0)


def test_one_manipulation_has_a_row_and_no_average():
    write_study("Poison", healed=0.2, retain=0.9)
    assert {each["manipulation"] for each in rows(field_table(found()))} == {"Poison"}
    report = build(read_runs(Path("runs")), "paper")
    assert "<h2>The field's tables</h2>" in report.text
    assert "Regime map" not in report.text
    (made,) = [each for each in report.tables if each.name == "field"]
    assert {line["rule"] for line in csv.DictReader(io.StringIO(as_csv(made)))} == {"paper"}
    assert not [each.name for each in report.tables if each.name.startswith("published")]  # digits are nobody's


def test_published_rows_stand_next_to_ours_and_in_no_average():
    for manipulation in ("Poison", "InterclassConfusion", "SymmetricNoise"):
        write_study(manipulation, healed=0.2, retain=0.9, dataset="cifar10", methods=("RewoD", "Potion"))
    made = {table.name: table for table in published_tables(found())}
    assert made.keys() == {"published_rem", "published_potion", "published_sap_cifar10"}
    rem = row(made["published_rem"], method="Potion")
    assert (rem["utility x healed: published"], rem["utility x healed: published SE"]) == (36.16, 3.62)
    assert (rem["healed: ours"], rem["our cells"]) == (pytest.approx(25.0), 6)
    assert "network.width 16, not 32" in rem["ours differ in"]
    assert "|S_m| 36, not 1000" in rem["ours differ in"]
    assert "identified 0.5, not 0.1 to 1 (10)" in rem["ours differ in"]
    assert row(made["published_rem"], method="REM")["healed: ours"] is None  # not run
    assert row(made["published_rem"], method="NPO on an ETD original")["ours differ in"].startswith(
        "none of our methods"
    )
    potion = row(made["published_potion"], method="Potion")
    assert (potion["healed: published"], potion["change of utility: published"]) == (93.72, -1.41)
    assert potion["change of utility: ours"] == pytest.approx(0.0)
    sap = row(made["published_sap_cifar10"], method="No unlearning")
    assert (sap["utility: published"], sap["utility: ours"]) == (84.61, pytest.approx(90.0))
    assert all(each["healed"] != 93.72 for each in rows(field_table(found())))


def test_what_was_not_run_is_said_next_to_a_published_row():
    write_study("Poison", healed=0.2, retain=0.9, dataset="cifar10", methods=("RewoD",))
    (rem, *_) = published_tables(found())
    own = row(rem, method="Retraining")
    assert (own["healed: published"], own["healed: ours"], own["our cells"]) == (53.61, None, 0)
    said = "no runs of InterclassConfusion; no runs of SymmetricNoise or RandomSwap; network.width 16, not 32"
    assert own["ours differ in"].startswith(said)


@pytest.mark.parametrize("source", published())
def test_every_source_states_its_setting_and_what_to_know_of_it(source):
    theirs = published()[source]
    assert {"title", "source", "setting", "caveats", "datasets", "manipulations", "measures", "rows"} <= theirs.keys()
    assert all({*row} - {"method", "ours"} <= {*theirs["measures"]} for row in theirs["rows"])
    write_study("Poison", healed=0.2, retain=0.9, dataset=theirs["datasets"][0])
    (made,) = [table for table in published_tables(found()) if table.name == f"published_{source}"]
    assert "published SE" not in "".join(made.frame) or "standard error over all these cells" in made.note
    assert theirs["setting"] in made.note
    assert all(caveat in made.note for caveat in theirs["caveats"])
