"""One command from an original and a list of flagged samples to the chosen model."""

import csv
import json
import re
import shutil
import sys
import time
from math import nan
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.data import Flagged
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.repair import command
from cmu_lightning.repair.choose import Candidate, choose, comparable, doubts
from cmu_lightning.repair.study import TRIED, points
from cmu_lightning.report.reading.collect import collect
from cmu_lightning.sweep.failures import Failure
from cmu_lightning.unlearning import Keep
from tests.helpers.networks import Linear

SETTING = """
setting: mine
data:
  class_path: FolderDataModule
  init_args:
    root: images
    grey: true
    manipulation: {class_path: Unknown}
    discovery: {class_path: Flagged, init_args: {path: flagged.csv}}
network: {class_path: tests.helpers.networks.Linear, init_args: {pixels: 64, num_classes: 10}}
procedure: {steps: 20, unlearn_steps: 6, batch_size: 64, lr: 0.02}
trainer: {accelerator: cpu, enable_progress_bar: false}
"""
REPAIR = ("repair", "--config", "repair.yaml", "--model.original", "model.pt", "--runs_dir", "runs")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Digits in folders, every 20th marked and called a 0 and half of those flagged, and a model trained on them."""
    folder = tmp_path_factory.mktemp("repair")
    whole, flagged = load_digits(), []
    pixels = torch.zeros(600, 1, 8, 8)
    labels = torch.tensor(whole.target[:600])
    for row in range(800):
        image, label = (whole.images[row] * 15).astype(np.uint8), int(whole.target[row])
        if row < 600 and row % 20 == 0:
            image[-2:, -2:], label = 255, 0
            flagged.append(f"0/{row}.png")
        path = folder / "images" / ("train" if row < 600 else "val") / str(label) / f"{row}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
        if row < 600:
            pixels[row, 0], labels[row] = torch.from_numpy(image) / 255, label
    (folder / "flagged.csv").write_text("\n".join(["name", *flagged[::2]]))
    (folder / "repair.yaml").write_text(SETTING)
    torch.manual_seed(0)
    network = Linear(64, 10)
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network((pixels - 0.5) / 0.5), labels).backward()
        optimizer.step()
    torch.save(network.state_dict(), folder / "model.pt")
    return folder


@pytest.fixture(scope="module")
def repaired(place):
    """The place once `repair` has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.setattr("sys.argv", ["cmu_lightning"])
        assert main(REPAIR) == 0
    return place


def chosen(place):
    return json.loads((place / "runs/mine/repaired.json").read_text())


def test_what_was_tried_and_what_was_chosen(repaired):
    told = chosen(repaired)
    methods = {path.parent.name for path in repaired.glob("runs/mine/*/*") if (path / "metrics.json").exists()}
    assert methods == {"Keep", "Potion", "ASSD", "SSD", "CF", "Scrub", "BadT"}
    assert (len(told["candidates"]), told["failed"]) == (12, {})
    scores = {each["run"]: each["selection_score"] for each in told["candidates"] if not each["destroyed"]}
    assert told["run"] == max(scores, key=lambda run: scores[run])
    assert not told["original_kept"]
    guess = read_metrics(repaired / told["original"]["run"])["val_majority"]
    classes = [len(list(folder.iterdir())) for folder in repaired.glob("images/val/*")]
    assert guess == max(classes) / sum(classes)
    for each in told["candidates"]:
        assert each["destroyed"] == (each["val_acc"] - guess < (told["original"]["val_acc"] - guess) / 2)
        assert read_metrics(repaired / each["run"])["selection_score"] == each["selection_score"]
    assert f"of {len(scores)} candidates" in told["why"]
    assert told["why"].count("\n") == 0
    assert "checkpoints: all" in (repaired / told["run"] / "config.yaml").read_text(), "no other repair drops it"


def test_the_original_is_measured_though_it_has_no_run(repaired):
    original = chosen(repaired)["original"]
    stored = read_metrics(repaired / original["run"])
    assert (stored["method"], stored["changed"], stored["deleted"], stored["samples_forward"]) == ("Keep", 0.0, 15, 0)
    assert stored["selection_score"] == stored["val_acc"] / 2
    own = torch.load(repaired / "model.pt", weights_only=True)
    kept = cmu_lightning.load(repaired / original["run"]).state_dict()
    assert all(torch.equal(kept[key], own[key]) for key in own)
    rows = sorted(repaired.glob("images/val/*/*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(row))).unsqueeze(0) / 255 for row in rows])
    labels = torch.tensor([int(row.parent.name) for row in rows])
    network = Linear(64, 10)
    network.load_state_dict(own)
    assert stored["val_acc"] == ((network((pixels - 0.5) / 0.5)).argmax(dim=1) == labels).double().mean()


def test_weights_of_the_chosen_run_and_of_the_original_stay(repaired):
    told = chosen(repaired)
    left = {str(path.parent.relative_to(repaired)) for path in repaired.glob("runs/mine/*/*/last.ckpt")}
    assert left == {told["run"], told["original"]["run"]}


def test_again_nothing_is_done_and_lost_weights_come_back(repaired, monkeypatch, capsys):
    monkeypatch.chdir(repaired)
    before = {path: path.read_bytes() for path in Path("runs").glob("mine/*/*/metrics.json")}
    told = chosen(repaired)
    weights = torch.load(f"{told['run']}/last.ckpt", weights_only=True)["state_dict"]
    Path(told["run"], "last.ckpt").unlink()
    asked = time.time_ns()
    assert main([*REPAIR, "--out", "other.json"]) == 0
    again = torch.load(f"{told['run']}/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert main(REPAIR) == 0  # all that is asked again is whether the files are the same
    assert sorted(path.stat().st_mtime_ns for path in Path("runs/.sweep/asked").iterdir())[-3] < asked
    after = {path: path.read_bytes() for path in Path("runs").glob("mine/*/*/metrics.json")}
    assert {path for path in after if after[path] != before[path]} <= {Path(told["run"], "metrics.json")}
    assert json.loads(Path("other.json").read_text()) == told
    said = capsys.readouterr().out
    assert told["why"] in said
    assert "other.json" in said
    assert f"python -m cmu_lightning predict {told['run']} --out predictions.csv" in said
    assert f"python -m cmu_lightning export {told['run']} --out FOLDER" in said
    assert "the original" in said


def test_predictions_have_names_of_files_and_classes_and_a_list_takes_their_indices(repaired, monkeypatch, tmp_path):
    monkeypatch.chdir(repaired)
    run = chosen(repaired)["run"]
    assert main(["predict", run, "--out", str(tmp_path / "all.csv")]) == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["split"] != "validation"]
    validated = [row for row in rows if row["split"] == "validation"]
    assert sorted(row["name"] for row in validated) == sorted(
        path.relative_to("images/val").as_posix() for path in Path("images/val").glob("*/*.png")
    )
    for row in rows:
        assert row["label_class"] == row["name"].partition("/")[0]
        assert (row["before"], row["after"]) == (row["before_class"], row["after_class"])  # classes are digits
    deleted = [row["index"] for row in own if row["split"] == "deleted"]
    (tmp_path / "again.csv").write_text("\n".join(["index", *deleted]))
    names = [row["name"] for row in own]
    both = [Flagged(str(path)).flagged(600, names) for path in (tmp_path / "again.csv", Path("flagged.csv"))]
    assert torch.equal(*both)


def test_images_are_read_as_the_data_were(repaired, monkeypatch, tmp_path):
    """A run whose data are resized resizes what it is asked about, too."""
    monkeypatch.chdir(repaired)
    arguments = [*REPAIR[1:], "--data.image_size", "8", "--runs_dir", str(tmp_path)]
    assert main(["fit", "--config", "unlearn/keep.yaml", *arguments]) == 0
    (run,) = tmp_path.glob("mine/Keep/*")
    with Image.open(next(Path("images/val").glob("*/*"))) as image:
        image.resize((24, 24), Image.Resampling.NEAREST).convert("RGB").save(tmp_path / "large.png")
    assert main(["predict", str(run), "--images", str(tmp_path / "large.png"), "--out", str(tmp_path / "p.csv")]) == 0
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 2


def test_the_card_of_the_chosen_run(repaired, monkeypatch, tmp_path):
    """The model was no run, so its numbers are those of the run that kept it."""
    monkeypatch.chdir(repaired)
    told = chosen(repaired)
    assert main(["export", told["run"], "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    original, own = (read_metrics(Path(each)) for each in (told["original"]["run"], told["run"]))
    assert f"| `val_acc` | validation accuracy | {original['val_acc']:.4f} | {own['val_acc']:.4f} |" in card
    assert told["why"] in card
    assert "in this order: `0`, `1`, `2`" in card
    assert "made grey" in card
    assert "Nobody knows the true labels" in card
    assert "acc_corr" not in card
    assert main(["export", told["original"]["run"], "--out", str(tmp_path / "kept")]) == 0
    card = (tmp_path / "kept/README.md").read_text()
    assert "kept as it was" in card
    assert told["why"] not in card


def test_a_chosen_run_that_cannot_be_made_again(repaired, monkeypatch, capsys):
    """Its results stay; and nobody is told that all is well."""
    monkeypatch.chdir(repaired)
    run, really = Path(chosen(repaired)["run"]), command._run
    results, weights = (run / "metrics.json").read_bytes(), (run / "last.ckpt").read_bytes()

    def fails(study, *more):
        again = [point for point in study if not (run / "metrics.json").exists()]
        return [Failure(point, 1, ["killed"]) for point in again] or really(study, *more)

    monkeypatch.setattr(command, "_run", fails)
    (run / "last.ckpt").unlink()
    assert main([*REPAIR, "--out", "never.json"]) == 1
    assert "cannot be made again" in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_bytes()) == json.loads(results)
    assert not Path("never.json").exists()
    (run / "metrics.json").write_bytes(results)
    (run / "last.ckpt").write_bytes(weights)


def test_an_original_that_is_fed_otherwise_than_in_training_is_doubted(repaired):
    stored = read_metrics(repaired / chosen(repaired)["original"]["run"])
    assert doubts(Candidate("the original", repaired, stored)) == ""
    said = doubts(Candidate("the original", repaired, stored | {"fit_retain": 0.114}))
    assert said.startswith("warning: the original predicts the given label of only 11% of the images")
    assert doubts(Candidate("the original", repaired, {})) == ""


def test_a_detector_in_place_of_a_list(place, monkeypatch, tmp_path):
    monkeypatch.chdir(place)
    monkeypatch.setattr("cmu_lightning.repair.study.TRIED", {"keep": {}, "potion": {}})
    monkeypatch.setattr(sys, "argv", ["cmu_lightning"])
    setting = SETTING.replace("Flagged, init_args: {path: flagged.csv}", "LossRanking, init_args: {count: 9}")
    (tmp_path / "detect.yaml").write_text(setting)
    arguments = ["--config", str(tmp_path / "detect.yaml"), "--model.original", "model.pt", "--runs_dir", str(tmp_path)]
    assert main(["repair", *arguments]) == 0
    told = json.loads((tmp_path / "mine/repaired.json").read_text())
    assert read_metrics(Path(told["run"]))["deleted"] == 9
    assert len(told["candidates"]) == 1


def test_a_failed_run_is_named_and_one_of_another_list_does_not_stand_for_it(repaired, monkeypatch, capsys):
    """Only on the second list CF is refused, by a folder that stands where its run should."""
    monkeypatch.chdir(repaired)
    told = chosen(repaired)
    lines = Path("flagged.csv").read_text().splitlines()
    before = Path("flagged.csv").read_text()
    Path("flagged.csv").write_text("\n".join(lines[:-1]))
    Path("runs/mine/CF").rename("runs/mine/CF.kept")
    Path("runs/mine/CF").write_text("")
    try:
        assert main([*REPAIR, "--out", "fewer.json"]) == 0
    finally:
        Path("runs/mine/CF").unlink()
        Path("runs/mine/CF.kept").rename("runs/mine/CF")
        Path("flagged.csv").write_text(before)
    now = json.loads(Path("fewer.json").read_text())
    assert len(now["candidates"]) == 11
    assert "CF" not in {each["method"] for each in now["candidates"]}
    assert [*now["failed"]] == ["cf"]
    assert now == json.loads(Path("runs/mine/repaired.json").read_text()), "where a model card looks for it"
    Path("runs/mine/repaired.json").write_text(json.dumps(told))
    assert not {each["run"] for each in now["candidates"]} & {each["run"] for each in told["candidates"]}
    assert "failed" in capsys.readouterr().out


def test_data_that_have_moved_are_found_again_by_the_config(repaired, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(repaired, tmp_path / "place"))
    run = Path(json.loads(Path("runs/mine/repaired.json").read_text())["run"])
    Path("images").rename("elsewhere")
    assert main(["predict", str(run)]) == 2
    assert re.search(
        r"the data of .* cannot be read \(.*\); where they are, .*config.yaml says", capsys.readouterr().err
    )
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("root: images", "root: elsewhere"))
    assert main(["predict", str(run)]) == 0


def test_a_report_names_what_repair_leaves(repaired):
    results, skipped = collect(repaired / "runs")
    assert results == []
    assert {each.reason.partition(":")[0] for each in skipped} == {"of unknown manipulation", "what repair chose"}


WRONG = {
    "no original": (["--model.original", "nothing.pt"], "--model.original names nothing.pt, and there is no such"),
    "a name that no file has": (["--model.original", 300 * "a"], "which cannot be read (File name too long)"),
    "no list": (["--data.discovery.path", "nothing.csv"], "--data.discovery.path names nothing.csv, and there"),
    "weights that are no numbers": (["--model.original", "nan.pt"], "nan.pt has weights that are not finite"),
    "a folder to write to": (["--out", "images"], "--out images is a folder"),
    "a config that is no YAML": (["--config", "tab.yaml"], "the config tab.yaml is not YAML (while scanning"),
    "nothing to choose by": (
        ["--data.root", "bare", "--data.val_size", "0", "--data.discovery.path", "two.csv"],
        "nothing validates",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_once(case, place, monkeypatch, capfd):
    monkeypatch.chdir(place)
    for row in range(5):
        for label in range(10):
            path = Path("bare/train", str(label), f"{row}.png")
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), row).save(path)
    Path("two.csv").write_text("name\n0/1.png\n1/0.png\n")
    Path("tab.yaml").write_text("data:\n\tinit_args: {}\n")
    torch.save({key: nan * value for key, value in torch.load("model.pt").items()}, "nan.pt")
    arguments, says = WRONG[case]
    assert main([*REPAIR, "--runs_dir", "wrong", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.count(says) == 1
    assert "Traceback" not in error
    assert not list(Path("wrong").glob("*/repaired.json"))
    assert not list(Path("wrong").glob("*/CF"))
    if "bare" not in arguments:
        assert not [path for path in Path("wrong").rglob("*") if not path.relative_to("wrong").parts[0].startswith(".")]


def test_repair_chooses_the_method(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    for arguments in (
        ["--model", "SSD"],
        ["--model.selection", "3"],
        ["--config", "unlearn/cf.yaml"],
        ["-c", "unlearn/cf.yaml"],
    ):
        assert main([*REPAIR, *arguments]) == 2
        assert "repair tries several methods" in capsys.readouterr().err
    assert main(["repair", "--config", "nothing.yaml"]) == 2
    assert "there is no config nothing.yaml" in capsys.readouterr().err


def test_an_original_that_is_not_given_is_announced(monkeypatch, capsys):
    monkeypatch.setattr(command, "_run", lambda study, *more: [Failure(study[0], 2, ["error: that was all"])])
    for given, said in (([], True), (["--model.original", "model.pt"], False), (["--model.original=model.pt"], False)):
        assert main(["repair", "--config", "own_images.yaml", *given]) == 2
        assert ("no --model.original is given: the setting's own" in capsys.readouterr().err) is said


def test_every_tried_overlay_is_there_and_the_original_comes_first():
    study = points(["--config", "own_images.yaml"], Path("runs"))
    assert len(study) == 13
    assert len({point.key for point in study}) == 13
    assert "unlearn/keep.yaml" in study[0].arguments
    assert "rewod" not in TRIED
    assert Keep.__name__ == "Keep"


def made(name, val_acc, changed):
    metrics = {"val_acc": val_acc, "changed": changed, "selection_score": (val_acc + changed) / 2}
    return Candidate(name, Path(name), metrics)


def test_where_nothing_can_be_written_nothing_is_run(tmp_path, capsys):
    Path("file").write_text("")
    for out in ("file/x.json", str(tmp_path)):
        assert main(["repair", "--config", "poison_digits.yaml", "--out", out]) == 2
        assert re.match(rf"error: --out {re.escape(out)} (cannot be written \(|is a folder)", capsys.readouterr().err)
    assert not Path("runs").exists()


def test_who_guesses_one_of_two_classes_is_not_chosen():
    original, guessing, repaired = made("the original", 0.76, 0.0), made("a", 0.5, 0.78), made("b", 0.72, 0.3)
    assert choose(original, [guessing, repaired])[0] is guessing  # as long as nobody knows how many classes there are
    original.metrics["val_majority"] = 0.5
    assert choose(original, [guessing, repaired])[0] is repaired
    original.metrics["val_majority"] = 0.8  # above the original's own accuracy, which half of decides then
    assert choose(original, [guessing, repaired])[0] is guessing


def test_the_choice():
    original = made("the original", 0.9, 0.0)
    tried = [made("a", 0.4, 1.0), made("b", 0.8, 0.5), made("c", 0.7, 0.6), made("d", 0.9, 0.0)]
    best, why = choose(original, tried)
    assert best.name == "b"  # a is destroyed, c is equal and comes later
    assert re.match(r"b is chosen: of 3 candidates .* 0\.6500 against 0\.4500", why)
    best, why = choose(original, [tried[0], tried[3]])
    assert best is original  # equal is not better
    assert why.startswith("The original is kept: of 2 candidates")
    with pytest.raises(UserError, match="nothing validates"):
        comparable(Candidate("the original", Path("x"), {"changed": 0.0}))
    with pytest.raises(UserError, match="files changed while it measured the original"):
        comparable(None)
