"""The regime map: its numbers worked out by hand, what is left out of it, and how it is drawn."""

import csv
import io
import json
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.report.appearance import SEQUENCE
from cmu_lightning.report.figures import regime_map
from cmu_lightning.report.load import read_runs
from cmu_lightning.report.regimes import REGULARITY, regimes
from cmu_lightning.report.table import as_csv
from cmu_lightning.report.tables import regime_table
from cmu_lightning.report.variants import compare
from tests.helpers.synthetic_runs import Study

UNIFORM = "{class_path: cmu_lightning.data.Uniform, init_args: {count: null, false_discovery_rate: 0.3}}"
FLAGGING = "{class_path: cmu_lightning.data.Similarity, init_args: {known: 4, count: null, fraction: 0.1}}"


def found():
    return regimes(compare(read_runs(Path("runs")).table, "paper"))


def test_there_is_no_map_where_nothing_affected_is_tested():
    """A folder of images may have no test split."""
    for manipulation in ("Poison", "RandomSwap"):
        study(manipulation)
    for results in Path("runs").rglob("metrics.json"):
        stored = json.loads(results.read_text())
        results.write_text(json.dumps({name: stored[name] for name in stored if name not in ("acc_corr", "digest")}))
    assert found() == []


def only():
    (made,) = found()
    return made


def study(manipulation, size=36, none=0.1, oracle=0.9, **more):
    """Two seeds of None and the oracle, and of CF at 0.5, whose mean is 0.3."""
    made = Study(Path("runs"), f"{manipulation}_digits", manipulation, size, **more)
    for seed, shift in ((0, -0.05), (1, 0.05)):
        made.original(seed, acc_corr=none + shift)
        if oracle is not None:
            made.unlearner("RewoD", 1.0, seed, acc_corr=oracle + shift)
        made.unlearner("CF", 0.5, seed, acc_corr=0.3 + shift)
    return made


def discovered(folder: Path, discovery: str) -> None:
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("    root: null", f"    root: null\n    discovery: {discovery}"))


def cells(each):
    return {
        (row.name, method, column): each.value(row, method, column)
        for row in each.shown
        for method in each.methods
        for column in each.columns
    }


def drawn_cells(made):
    """Every cell of a map's specification, by what it says of itself."""
    spec = regime_map(made).chart.to_dict()
    (rows,) = spec["datasets"].values()
    return {row["text"].partition(":")[0]: row for row in rows}, spec


def test_recovery_is_the_part_of_the_harm_that_is_repaired():
    study("Poison")
    study("RandomSwap", none=0.5, oracle=0.7)
    made = only()
    assert (made.data, made.way, made.methods, made.columns) == ("digits, ResNet9", "", ["CF", "RewoD"], ["0.5", "1"])
    assert cells(made) == {
        ("RandomSwap", "CF", "0.5"): pytest.approx((0.3 - 0.5) / (0.7 - 0.5)),
        ("RandomSwap", "CF", "1"): None,
        ("RandomSwap", "RewoD", "0.5"): None,
        ("RandomSwap", "RewoD", "1"): 1,
        ("Poison", "CF", "0.5"): pytest.approx((0.3 - 0.1) / (0.9 - 0.1)),
        ("Poison", "CF", "1"): None,
        ("Poison", "RewoD", "0.5"): None,
        ("Poison", "RewoD", "1"): 1,
    }
    by_place, spec = drawn_cells(made)
    good, bad = by_place["CF, Poison, identified 0.5"], by_place["CF, RandomSwap, identified 0.5"]
    assert (good["label"], bad["label"]) == ("0.25", "-1.00")
    gap = by_place["CF, Poison, identified 1"]
    assert (gap["value"], gap["label"]) == (None, "")
    assert gap["text"].endswith("nothing was run")
    assert "4 of 8 cells are empty" in regime_map(made).note
    assert "acc_corr 0.300 ± 0.071, 2 seeds; None 0.100; oracle 0.900" in good["text"]
    coloured = spec["spec"]["layer"][1]["encoding"]
    assert coloured["y"]["sort"] == ["Poison", "RandomSwap"]  # the more regular, the higher
    assert coloured["color"]["scale"]["range"] == list(SEQUENCE)
    assert coloured["color"]["scale"]["domain"] == [tenth / 10 for tenth in range(1, 10)]


def test_the_table_has_every_cell_and_every_gap():
    study("Poison")
    study("RandomSwap", none=0.5, oracle=0.7)
    rows = list(csv.DictReader(io.StringIO(as_csv(regime_table(found())))))
    assert [row["manipulation"] for row in rows] == ["Poison"] * 4 + ["RandomSwap"] * 4
    (there,) = [
        row for row in rows if (row["manipulation"], row["method"], row["identified"]) == ("Poison", "CF", "0.5")
    ]
    numbers = {key: float(there[key]) for key in ("recovery", "acc_corr mean", "None", "oracle", "seeds")}
    assert numbers == pytest.approx({"recovery": 0.25, "acc_corr mean": 0.3, "None": 0.1, "oracle": 0.9, "seeds": 2})
    gaps = [row for row in rows if row["seeds"] == "0"]
    assert len(gaps) == 4
    assert all(row["recovery"] == row["acc_corr mean"] == "" for row in gaps)


def test_rows_go_from_the_least_regular_to_the_most():
    given = ["Poison", "Mine", "InterclassConfusion", "Blended", "RandomSwap", "AsymmetricNoise"]
    for manipulation in given:
        study(manipulation)
    made = only()
    expected = ["RandomSwap", "AsymmetricNoise", "InterclassConfusion", "Blended", "Poison", "Mine"]
    assert [row.name for row in made.rows] == expected
    assert "Of unknown regularity: Mine." in regime_map(made).note


def test_every_manipulation_that_does_harm_has_a_place():
    from cmu_lightning import data

    kinds = [getattr(data, name) for name in data.__all__]
    harmful = {
        kind.__name__
        for kind in kinds
        if isinstance(kind, type) and issubclass(kind, data.Manipulation) and kind is not data.Manipulation
    } - {"GaussianPoison", "Unknown"}
    assert set(REGULARITY) == harmful


def test_what_has_no_oracle_or_did_no_harm_is_left_out_and_said():
    study("Poison")
    study("RandomSwap")
    study("Blended", oracle=None)
    study("GaussianPoison", none=0.9, oracle=0.91)
    made = only()
    assert [row.name for row in made.shown] == ["RandomSwap", "Poison"]
    note = regime_map(made).note
    assert "no oracle or no original: Blended." in note
    assert "less than 0.02 above None: GaussianPoison." in note
    assert len(drawn_cells(made)[0]) == 2 * 2 * 2


def test_without_oracles_it_is_acc_corr_and_says_so():
    study("Poison")
    study("RandomSwap", oracle=None)
    made = only()
    assert cells(made)["RandomSwap", "CF", "0.5"] == pytest.approx(0.3)
    assert cells(made)["Poison", "CF", "0.5"] == pytest.approx(0.3)
    shown = regime_map(made)
    assert shown.title.startswith("acc_corr by regularity")
    assert "no recovery" in shown.note


def test_one_manipulation_makes_no_map_nor_do_two_of_different_networks():
    study("Poison")
    assert main(["report", "runs", "--out", "out"]) == 0
    assert not list(Path("out").rglob("regime_map*"))
    assert "Regime map" not in Path("out/index.html").read_text()
    for seed in (0, 1):
        other = Study(Path("runs"), "other", "RandomSwap")
        other.original(seed, model="WideResNet")
        other.unlearner("CF", 0.5, seed, model="WideResNet", acc_corr=0.5)
    assert found() == []


def test_two_sizes_of_a_manipulation_are_two_rows():
    study("Poison")
    study("RandomSwap")
    bigger = study("Poison", 1100)
    assert [row.name for row in only().rows] == ["RandomSwap", "Poison, 36", "Poison, 1,100"]
    bigger.shared["width"] = 32
    bigger.original(0, acc_corr=0.1)
    bigger.unlearner("CF", 0.5, 0, acc_corr=0.2)
    names = [row.name for row in only().rows]
    assert names[:2] == ["RandomSwap", "Poison, 36"]
    assert len(set(names[2:])) == 2
    assert sum("network.width=32" in name for name in names[2:]) == 1


def test_other_discoveries_have_maps_of_their_own():
    for manipulation in ("Poison", "RandomSwap"):
        made = study(manipulation)
        for seed in (0, 1):
            discovered(made.unlearner("CF", 0.5, seed, hash=f"u{seed}", acc_corr=0.7), UNIFORM)
            recall = 0.25 + seed / 4  # of a detector, it differs
            discovered(made.unlearner("CF", recall, seed, hash=f"s{seed}", acc_corr=0.5 + seed / 5), FLAGGING)
            discovered(made.unlearner("Scrub", recall, seed, hash=f"s{seed}", acc_corr=0.2), FLAGGING)
            made.unlearner("CF", 0.1, seed, acc_corr=0.2)
    usual, flagging, mistaken = found()
    assert (usual.way, usual.columns) == ("", ["0.1", "0.5", "1"])
    assert (flagging.columns, flagging.methods) == (["flagged"], ["CF", "Scrub"])
    assert flagging.way == "discovery=Similarity, discovery.fraction=0.1, discovery.known=4"
    assert cells(flagging)["Poison", "CF", "flagged"] == pytest.approx((0.6 - 0.1) / 0.8)  # over seeds
    assert mistaken.way == "discovery=Uniform, discovery.false_discovery_rate=0.3"
    assert cells(mistaken)["RandomSwap", "CF", "0.5"] == pytest.approx((0.7 - 0.1) / 0.8)
    assert main(["report", "runs", "--out", "out"]) == 0
    assert {path.name for path in Path("out/figures/digits_ResNet9").iterdir()} == {
        f"{name}.{ending}"
        for name in (
            "regime_map",
            "regime_map_discovery=Similarity_discovery.fraction=0.1_discovery.known=4",
            "regime_map_discovery=Uniform_discovery.false_discovery_rate=0.3",
        )
        for ending in ("png", "svg", "pdf")
    }


def test_a_table_has_a_row_for_every_way_of_finding_s_f():
    for manipulation in ("Poison", "RandomSwap"):
        made = study(manipulation)
        for seed in (0, 1):
            more = {
                "hash": f"u{seed}",
                "acc_corr": 0.7,
                "acc_retain": 0.9 + seed / 10,
                "deleted": 20,
                "false_positives": 6,
            }
            discovered(made.unlearner("CF", 0.5, seed, **more), UNIFORM)
            discovered(made.unlearner("Scrub", seed / 4, seed, hash=f"s{seed}", acc_corr=0.2, deleted=8), FLAGGING)
    assert main(["report", "runs", "--out", "out"]) == 0
    with Path("out/tables/discoveries.csv").open(newline="") as file:
        rows = {(row["manipulation"], row["S_f"], row["identified"]): row for row in csv.DictReader(file)}
    mistaken = rows["Poison", "Uniform, false_discovery_rate=0.3", "0.5"]
    assert float(mistaken["precision mean"]) == pytest.approx(0.7)
    assert (mistaken["recall mean"], mistaken["CF mean"], mistaken["CF std"], mistaken["CF n"]) == (
        "0.5",
        "0.7",
        "0.0",
        "2",
    )
    assert (mistaken["Scrub mean"], mistaken["RewoD mean"]) == ("", "")
    assert float(mistaken["None mean"]) == pytest.approx(0.1)
    assert float(mistaken["oracle mean"]) == pytest.approx(0.9)
    usual = rows["Poison", "uniform", "0.5"]
    assert (usual["precision mean"], usual["recall mean"]) == ("1.0", "0.5")
    assert float(usual["CF mean"]) == pytest.approx(0.3)
    flagged = rows["RandomSwap", "Similarity, fraction=0.1, known=4", "flagged"]
    assert (float(flagged["recall mean"]), flagged["CF mean"]) == (0.125, "")
    assert len(rows) == 8  # uniform at 0.5 and 1, mistaken and flagged, of two manipulations
    with Path("out/tables/discoveries_acc_retain.csv").open(newline="") as file:
        (mean,) = [
            float(r["CF mean"])
            for r in csv.DictReader(file)
            if r["S_f"].startswith("Uniform") and "P" in r["manipulation"]
        ]
    assert mean == pytest.approx(0.95)
    assert "acc_corr by discovery of S_f" in Path("out/index.html").read_text()


def test_no_such_table_where_s_f_was_always_drawn():
    study("Poison")
    study("RandomSwap")
    assert main(["report", "runs", "--out", "out"]) == 0
    assert not list(Path("out/tables").glob("discoveries*"))


def stamps():
    return {path.name: path.stat().st_mtime_ns for path in Path("out/figures/digits_ResNet9").iterdir()}


def test_it_is_drawn_again_only_when_its_data_change(capsys):
    study("Poison")
    swap = study("RandomSwap")
    command = ["report", "runs", "--out", "out"]
    assert main(command) == 0
    before = stamps()
    drawn = Path("out/figures/digits_ResNet9/regime_map.svg").read_text()
    for said in (
        ">0.25<",
        "RandomSwap",
        "digits, ResNet9: Recovery by regularity",
        ">recovery<",
    ):
        assert said in drawn
    assert Path("out/figures/digits_ResNet9/regime_map.png").read_bytes().startswith(b"\x89PNG")
    assert main(command) == 0
    assert stamps() == before
    assert "(0 drawn" in capsys.readouterr().out
    swap.unlearner("CF", 0.5, 0, acc_corr=0.9)
    assert main(command) == 0
    after = stamps()
    assert all(after[name] != before[name] for name in before)
    (Path("runs/RandomSwap_digits")).rename("elsewhere")
    assert main(command) == 0
    assert not list(Path("out").rglob("regime_map.png"))
