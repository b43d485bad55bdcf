"""What is read, what is skipped and why, and which runs belong together."""

import json
import shutil
from pathlib import Path

import pytest

import cmu_lightning.unlearning
from cmu_lightning import results
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import write_metrics
from cmu_lightning.report.load import WITHOUT_FINE_TUNING, pack, read_ratios, read_runs, seeds_text
from cmu_lightning.report.variants import compare, labels
from cmu_lightning.unlearning import Unlearner
from tests.helpers.synthetic_runs import Study


def change(folder, **values):
    path = folder / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def without(folder, key):
    path = folder / "metrics.json"
    stored = json.loads(path.read_text())
    del stored[key]
    path.write_text(json.dumps(stored))


def half(folder):
    path = folder / "metrics.json"
    path.write_text(path.read_text()[:300])


def half_made(folder):
    (folder / "metrics.json").rename(folder / ".metrics.json.part")


def moved(folder):
    (folder.parents[1] / "SSD").mkdir()
    folder.rename(folder.parents[1] / "SSD" / folder.name)


DAMAGE = {
    "half a file": (half, "CF/.*/metrics.json", "no whole JSON"),
    "an empty file": (lambda folder: (folder / "metrics.json").write_text(""), "CF/", "no whole JSON"),
    "no text": (lambda folder: (folder / "metrics.json").write_bytes(b"\xff\x00"), "CF/", "no whole JSON"),
    "endless nesting": (lambda folder: (folder / "metrics.json").write_text("[" * 100_000), "CF/", "no whole JSON"),
    "deep nesting": (lambda folder: change(folder, deep=json.loads("[" * 500 + "]" * 500)), "CF/", "no whole JSON"),
    "a list": (lambda folder: (folder / "metrics.json").write_text("[1]"), "CF/", "no JSON object"),
    "another program's file": (lambda folder: (folder / "metrics.json").write_text('{"loss": 1}'), "CF/", "no setting"),
    "no hash": (lambda folder: without(folder, "hash"), "CF/", "no hash"),
    "no original": (lambda folder: without(folder, "original"), "CF/", "no original"),
    "text for a number": (lambda folder: change(folder, acc_corr="high"), "CF/", "acc_corr='high'"),
    "an accuracy over 1": (lambda folder: change(folder, acc_retain=90.5), "CF/", "acc_retain=90.5"),
    "not a number": (lambda folder: change(folder, acc_corr=float("nan")), "CF/", "acc_corr=nan"),
    "no seconds": (lambda folder: change(folder, seconds=None), "CF/", "seconds=None"),
    "a yes for a number": (lambda folder: change(folder, manipulated=True), "CF/", "manipulated=True"),
    "a run without results": (half_made, "CF/", "not finished"),
    "an empty run folder": (lambda folder: (shutil.rmtree(folder), folder.mkdir()), "CF/", "no run"),
    "a run in another's place": (moved, "SSD/", "it says poison_digits/CF"),
    "a directory for a file": (
        lambda folder: ((folder / "metrics.json").unlink(), (folder / "metrics.json").mkdir()),
        "CF/",
        "cannot be read",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_is_named_and_the_rest_is_read(case):
    study = Study(Path("runs"))
    study.original()
    study.unlearner("CF", 0.5)
    damaged = study.unlearner("CF", 1.0)
    damage, path, reason = DAMAGE[case]
    damage(damaged)
    runs = read_runs(Path("runs"))
    assert runs.table["identified"].fillna(-1).tolist() == [0.5, -1]
    named = [each for each in runs.skipped if each.reason != "an empty folder"]
    assert len(named) == 1
    assert path.split("/")[0] in named[0].path
    assert reason in named[0].reason


def test_foreign_files_and_empty_folders_are_named_and_hidden_ones_are_not():
    Study(Path("runs")).original()
    Path("runs/notes.txt").write_text("mine")
    Path("runs/poison_digits/Original/plot.png").write_bytes(b"")
    Path("runs/wandb/empty").mkdir(parents=True)
    Path("runs/.locks").mkdir()
    runs = read_runs(Path("runs"))
    assert len(runs.table) == 1
    assert {each.path for each in runs.skipped} == {"notes.txt", "poison_digits/Original/plot.png", "wandb/empty"}


def test_a_copy_of_a_run_counts_once():
    folder = Study(Path("runs")).unlearner("CF")
    shutil.copytree(folder, folder.with_name(f"7-{folder.name.partition('-')[2]}"))
    runs = read_runs(Path("runs"))
    assert len(runs.table) == 1
    assert "the same run as poison_digits/CF/0-" in runs.skipped[0].reason


def seeds(*numbers):
    return dict(zip(("original_seed", "manipulation_seed", "model_seed", "data_seed"), numbers, strict=True))


def test_seeds_tell_repetitions_apart():
    assert seeds_text(seeds(3, 3, 3, 3)) == seeds_text(seeds(3, 3, None, None)) == "3"
    assert seeds_text(seeds(0, 0, 1, 0)) == "original=0 manipulation=0 model=1 data=0"


def read():
    runs = read_runs(Path("runs"))
    assert runs.skipped == []
    return compare(runs.table, "paper")


def counts(comparison):
    """How many runs each method has."""
    return comparison.runs["label"].value_counts().to_dict()


def test_seeds_and_fractions_and_hyperparameters_are_one_variant():
    study = Study(Path("runs"))
    for seed in (0, 1):
        study.original(seed)
        for identified in (0.1, 1.0):
            study.unlearner("CF", identified, seed)
            study.unlearner("Scrub", identified, seed, {"distill": 0.1 + identified})
    (variant,) = read()
    assert variant.name == "poison_digits"
    assert counts(variant) == {"CF": 4, "Scrub": 4}
    assert set(variant.originals["seed"]) == {0, 1}


@pytest.mark.parametrize(
    ("change", "note"),
    [
        ({"width": 32}, "network.width=32"),
        ({"steps": 600}, "procedure.steps=600"),
        ({"size": 72}, "data.manipulation.size=72"),
    ],
)
def test_other_originals_are_other_variants(change, note):
    for seeds, study in ((3, Study(Path("runs"))), (2, Study(Path("runs"), **change))):
        for seed in range(seeds):
            study.original(seed)
            study.unlearner("CF", 1.0, seed)
    usual, other = read()
    assert (usual.name, other.name) == ("poison_digits", f"poison_digits ({note})")
    for variant, seeds in ((usual, 3), (other, 2)):
        assert len(variant.originals) == counts(variant)["CF"] == seeds
        assert variant.points["original"].notna().all()


def test_batch_statistics_of_several_processes_make_another_variant_and_another_method():
    """Of an original where it was trained so, of an unlearner where that was."""
    study = Study(Path("runs"))
    for seed in (0, 1, 2):
        study.original(seed, **({"processes": 2} if seed == 2 else {}))
        study.unlearner("CF", 1.0, seed)
    study.unlearner("RewoD", 1.0, 0)
    study.unlearner("RewoD", 1.0, 1, processes=4)
    usual, other = read()
    assert (usual.name, other.name) == ("poison_digits", "poison_digits (trainer.processes=2)")
    assert counts(usual) == {"CF": 2, "RewoD": 1, "RewoD (trainer.processes=4)": 1}
    assert counts(other) == {"CF": 1}


def test_other_data_are_another_variant():
    study = Study(Path("runs"))
    study.original(0)
    study.original(1)
    study.original(2, fingerprint=1)
    assert [variant.name for variant in read()] == ["poison_digits", "poison_digits (fingerprint=1)"]


def edit(folder, before, after):
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace(before, after))


def test_what_has_no_bearing_on_an_original_makes_no_other_variant():
    """How S_f would have come about, where a file or a list is, and how many of S_m validate by chance."""
    listed = "    discovery:\n      class_path: cmu_lightning.data.Flagged\n      init_args:\n"
    discovery = "    root: null\n    discovery:\n      class_path: cmu_lightning.data.Uniform\n"
    changes = {
        "discovery": lambda seed: ("    root: null\n", discovery) if seed else ("", ""),
        "path": lambda seed: ("    root: null\n", f"    path: place{seed}/x.npz\n"),
        "given": lambda seed: ("    root: null\n", "    val_labels: given\n"),
        "list": lambda seed: ("    root: null\n", f"    root: null\n{listed}        path: place{seed}/list.csv\n"),
    }
    for setting, change in changes.items():
        study = Study(Path("runs"), setting)
        for seed in (0, 1):
            more = {"manipulated": 31 - seed} if setting == "given" else {}
            edit(study.original(seed, **more), *change(seed))
            edit(study.unlearner("CF", 1.0, seed, **more), *change(seed) if setting != "discovery" else ("", ""))
    found = {variant.name: variant for variant in read()}
    assert set(found) == set(changes)
    assert {name: counts(variant)["CF"] for name, variant in found.items()} == dict.fromkeys(changes, 2)
    assert found["given"].about["manipulated"] == 36


def test_an_unlearner_of_another_length_is_another_method():
    for study in (Study(Path("runs")), Study(Path("runs"), unlearn_steps=50)):
        study.original(0)
        study.unlearner("CF", 1.0)
    Study(Path("runs")).unlearner("CF", 0.5)
    (variant,) = read()
    assert variant.methods == ["CF", "CF (procedure.unlearn_steps=50)"]


def test_retraining_does_not_depend_on_the_length_of_unlearning():
    Study(Path("runs")).original()
    for seed, study in enumerate((Study(Path("runs")), Study(Path("runs"), unlearn_steps=50))):
        study.unlearner("RewoD", 1.0, seed)
    comparisons = compare(read_runs(Path("runs")).table, "paper")
    assert sorted({label for variant in comparisons for label in variant.methods}) == ["RewoD"]


def test_one_s_own_method_may_take_either_number_of_steps():
    Study(Path("runs")).original()
    original = Study(Path("runs")).hash(seed=0)
    for number, steps in enumerate((300, 3000)):
        folder = Study(Path("runs"), steps=steps).unlearner("Mine", 1.0, original=original, hash=f"{number}" * 10)
        edit(folder, "cmu_lightning.unlearning.Mine", "mine.Mine")
    (variant,) = read()
    assert variant.methods == ["Mine", "Mine (procedure.steps=3000)"]


def test_who_retrains_is_known_without_torch():
    stages = [each for each in vars(cmu_lightning.unlearning).values() if isinstance(each, type)]
    unlearners = [each for each in stages if issubclass(each, Unlearner) and each is not Unlearner]
    assert len(unlearners) >= 3
    assert {each.__name__ for each in unlearners if each.uses == "steps"} - {"Dampener"} == WITHOUT_FINE_TUNING


def test_runs_of_unknown_originals_are_kept_from_those_of_known_ones():
    study = Study(Path("runs"))
    study.original(0)
    study.unlearner("CF", 1.0, 0)
    study.unlearner("CF", 1.0, 1)
    study.unlearner("CF", 0.5, 1, original="0123456789")
    names = {variant.name: variant for variant in read()}
    assert len(names) == 3
    known = next(variant for variant in names.values() if len(variant.originals))
    assert known.runs["seed"].tolist() == [0]
    assert sum("not in the runs folder" in name for name in names) == 2


def test_a_run_without_config_is_kept_apart():
    study = Study(Path("runs"))
    study.original(0)
    (study.original(1) / "config.yaml").unlink()
    (study.original(2) / "config.yaml").write_text("{")
    runs = read_runs(Path("runs"))
    assert len(compare(runs.table, "paper")) == 3
    assert [each.path.rpartition("/")[2] for each in runs.skipped] == ["config.yaml", "config.yaml"]


def test_labels_say_what_differs_from_the_usual():
    assert labels("x", [{"a": 1, "b": 2}], [1]) == ["x"]
    found = [{"data.discovery": "Flagged"}, {"data.discovery": "None"}]
    assert labels("x", found, [4, 1]) == ["x (data.discovery=Flagged)", "x"]
    assert labels("x", [{"a": 1, "b": 2}, {"a": 2}], [1, 1]) == ["x (a=1, b=2)", "x"]
    assert labels("x", [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 1}], [4, 5, 1]) == ["x (b=2)", "x", "x (b=None)"]
    ways = [{"model": "A", "network": "A"}, {"model": "B", "network": "B"}]
    assert labels("x", ways, [2, 1]) == ["x", "x (network=B)"]
    ways = [{"a": 1, "b": 2}, {"a": 3}, {"a": 3, "b": 2}]
    assert len(set(labels("x", ways, [4, 1, 1]))) == 3


def test_no_two_ways_of_a_method_have_one_name():
    study = Study(Path("runs"))
    study.original(0)
    ways = [{"turns": "epoch", "most": None}, {"turns": "step", "most": None}, {"turns": "step", "most": 50}]
    for way, identified in [(ways[0], 0.1), (ways[0], 0.5), (ways[1], 0.1), (ways[2], 0.1)]:
        study.unlearner("Scrub", identified, 0, way, selection_score=0.5)
    (variant,) = compare(read_runs(Path("runs")).table, "paper")
    assert sorted(counts(variant).values()) == [1, 1, 2]
    assert "Scrub (most=a number, turns=step)" in variant.methods


def in_metrics(folder):
    """Have a run say its config as `fit` does, in its results; its `config.yaml` then says nothing."""
    import yaml

    change(folder, config=yaml.safe_load((folder / "config.yaml").read_text()))
    (folder / "config.yaml").write_text("{")


def test_the_config_in_the_results_says_the_same_as_the_file():
    study = Study(Path("runs"))
    folders = [study.original(0), study.unlearner("CF", 0.5), study.unlearner("SSD", 0.5, 0, {"selection": 1.0})]
    before = read_runs(Path("runs"))
    assert before.table["settings"].notna().all()
    for folder in folders:
        in_metrics(folder)
    after = read_runs(Path("runs"))
    assert (after.skipped, before.skipped) == ([], [])
    assert after.table["settings"].tolist() == before.table["settings"].tolist()
    assert after.table["config"].tolist() == before.table["config"].tolist()
    assert all("config" not in metrics for metrics in after.table["metrics"])


def test_results_are_a_table_of_runs_with_hyperparameters_and_procedure():
    study = Study(Path("runs"), unlearn_steps=70)
    study.original(0)
    study.unlearner("SSD", 0.3, 0, {"selection": 10.0, "fisher": "batch"}, acc_corr=0.25, acc_retain=0.9, changed=0.5)
    Path("runs/notes.txt").write_text("mine")
    table = results("runs")
    assert table["method"].tolist() == ["Original", "SSD"]
    ssd, original = table.iloc[1], table.iloc[0]
    said = ("identified", "acc_corr", "hyperparameters.selection", "hyperparameters.fisher", "procedure.steps")
    assert [ssd[name] for name in said] == [0.3, 0.25, 10.0, "batch", 300]
    said = ("procedure.unlearn_steps", "network.width", "data.manipulation.size", "environment.torch", "manipulated")
    assert [ssd[name] for name in said] == [70, 16, 36, "2.15.0", 36]
    assert original[["identified", "changed", "hyperparameters.selection", "original"]].isna().all()
    assert table["model_seed"].isna().tolist() == [True, False]
    assert str(table["model_seed"].dtype) == str(table["deleted"].dtype) == "Int64"  # whole numbers stay whole
    assert (Path("runs") / ssd["folder"] / "metrics.json").exists()
    assert table.attrs["skipped"] == [("notes.txt", "no run: a file of something else")]
    assert not {"metrics", "config", "settings"} & set(table)


def test_results_of_nothing_are_refused_and_of_an_empty_folder_empty():
    with pytest.raises(UserError, match="there is no runs folder nowhere"):
        results("nowhere")
    Path("runs").mkdir()
    assert results("runs").empty


def test_a_packed_run_keeps_its_importance_ratios(tmp_path):
    from cmu_lightning.report.load import pack_line

    folder = Study(Path("runs")).unlearner("SSD", 1.0)
    content = {"log10_edges": [0.0, 1.0], "counts": [3], "left_alone": 0, "selected": 1}
    (folder / "importance_ratios.json").write_text(json.dumps(content))
    runs = read_runs(Path("runs"))
    assert pack(runs, Path("a.jsonl")) == 1
    again = read_runs(Path("a.jsonl"))
    name = str(folder.relative_to("runs"))
    assert read_ratios(runs, name) == read_ratios(again, name) == content
    assert again.table["settings"].tolist() == runs.table["settings"].tolist()
    line = pack_line(folder, json.loads((folder / "metrics.json").read_text()))
    assert (line["importance_ratios"], line["config"].startswith("seed_everything")) == (content, True)
    Path("b.jsonl").write_text(json.dumps(line))
    assert read_runs(Path("b.jsonl")).table["settings"].tolist() == runs.table["settings"].tolist()


def test_a_changed_digit_in_results_is_noticed_and_their_digest_is_no_column():
    folder = Study(Path("runs")).unlearner("SSD", 1.0)
    path = folder / "metrics.json"
    write_metrics(folder, json.loads(path.read_text()))
    assert not any(name.endswith("digest") for name in results("runs").columns)
    path.write_text(path.read_text().replace('"seconds": 1.0', '"seconds": 7.0'))
    runs = read_runs(Path("runs"))
    assert runs.table.empty
    assert [each.reason for each in runs.skipped] == ["damaged or edited: its digest does not agree"]


@pytest.mark.parametrize("digest", [True, False])
def test_a_changed_digit_in_a_packed_file_is_noticed(digest):
    Study(Path("runs")).unlearner("SSD", 1.0)
    Study(Path("runs")).unlearner("SSD", 0.5)
    pack(read_runs(Path("runs")), Path("a.jsonl"))
    first, second = Path("a.jsonl").read_text().splitlines()
    line = json.loads(first)
    line["seconds"] += 1
    if not digest:  # as files of earlier versions
        del line["digest"]
    Path("a.jsonl").write_text(f"{json.dumps(line)}\n{second}\n")
    runs = read_runs(Path("a.jsonl"))
    assert runs.skipped == ([("a.jsonl, line 1", "damaged: its digest does not agree")] if digest else [])
    assert len(runs.table) == 2 - digest
    assert all("digest" not in metrics for metrics in runs.table["metrics"])
