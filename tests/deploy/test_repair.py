"""One command from an original and a list of flagged samples to the chosen model.

The runs of a study are done in this process; tests/integration/test_deploy_tutorial.py has them done by a worker.
"""

import csv
import json
import re
import shutil
import time
from collections.abc import Iterator
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

import cmu_lightning
from cmu_lightning.__main__ import main
from cmu_lightning.data import Flagged
from cmu_lightning.deploy import choice, export, guards, repair, study
from cmu_lightning.deploy.choice import Candidate, doubts
from cmu_lightning.deploy.evidence import PREDICTED
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.report.load import read_runs
from cmu_lightning.sweep.queue import Failure
from tests.helpers.networks import Linear
from tests.helpers.workers import in_process_workers

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
WHOLE_STUDY = study.STUDY
STUDY = WHOLE_STUDY | {"ssd": {"selection": (1.0, 10.0), "dampening_ratio": (1.0,)}, "scrub": {"distill": (0.1,)}}
"""Every method, at fewer values."""
REPAIR = ("repair", "--config", "repair.yaml", "--model.original", "model.pt", "--runs_dir", "runs")


@pytest.fixture(autouse=True)
def _no_processes() -> Iterator[None]:
    with in_process_workers():
        yield


@pytest.fixture(autouse=True)
def _small_study(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "STUDY", STUDY)


@pytest.fixture(autouse=True)
def _no_guards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose by scores: a linear network that forgets the trigger forgets its class."""
    monkeypatch.setattr(choice, "objection", lambda parts: None)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with digits as images, every 20th marked and called a 0, half of those flagged, and a trained model."""
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
def repaired(project: Path) -> Path:
    """The same folder after `repair`; tests that change it change it back."""
    with pytest.MonkeyPatch.context() as patch, in_process_workers():
        patch.chdir(project)
        patch.setattr(study, "STUDY", STUDY)
        patch.setattr(choice, "objection", lambda parts: None)
        assert main(REPAIR) == 0
    return project


def read_choice(project: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((project / "runs/mine/repaired.json").read_text())
    return content


def test_what_was_tried_and_what_was_chosen(repaired):
    told = read_choice(repaired)
    methods = {path.parent.name for path in repaired.glob("runs/mine/*/*") if (path / "metrics.json").exists()}
    assert methods == {"Keep", "PURE", "Potion", "ASSD", "SSD", "CF", "Scrub", "BadT"}
    assert (len(told["candidates"]), told["failed"], told["not_tried"], told["notes"]) == (8, {}, [], [])
    stands = [each for each in told["candidates"] if not each["destroyed"] and "refused" not in each]
    scores = {each["run"]: each["score"] for each in stands}
    assert told["run"] == max(scores, key=lambda run: scores[run])
    assert not told["original_kept"]
    for each in (told["original"], *told["candidates"]):
        assert each["score"] == pytest.approx(5 * each["val_acc"] + 1 - (15 * each["fit_identified"] + 1) / 17)
    guessing = read_metrics(repaired / told["original"]["run"])["val_majority"]
    classes = [len(list(folder.iterdir())) for folder in repaired.glob("images/val/*")]
    assert guessing == max(classes) / sum(classes)
    for each in told["candidates"]:
        assert each["destroyed"] == (each["val_acc"] - guessing < (told["original"]["val_acc"] - guessing) / 2)
        assert read_metrics(repaired / each["run"])["fit_identified"] == each["fit_identified"]
    assert "of 8 candidates" in told["why"]
    assert told["why"].count("\n") == 0
    config = (repaired / told["run"] / "config.yaml").read_text()
    assert "checkpoints: all" in config, "no other repair drops its weights"


def test_the_original_is_measured_though_it_has_no_run(repaired):
    original = read_choice(repaired)["original"]
    stored = read_metrics(repaired / original["run"])
    assert (stored["method"], stored["changed"], stored["deleted"], stored["samples_forward"]) == ("Keep", 0.0, 15, 0)
    assert stored["selection_score"] == stored["val_acc"] / 2
    given = torch.load(repaired / "model.pt", weights_only=True)
    kept = cmu_lightning.load(repaired / original["run"]).state_dict()
    assert all(torch.equal(kept[key], given[key]) for key in given)
    rows = sorted(repaired.glob("images/val/*/*.png"))
    pixels = torch.stack([torch.from_numpy(np.array(Image.open(row))).unsqueeze(0) / 255 for row in rows])
    labels = torch.tensor([int(row.parent.name) for row in rows])
    network = Linear(64, 10)
    network.load_state_dict(given)
    assert stored["val_acc"] == ((network((pixels - 0.5) / 0.5)).argmax(dim=1) == labels).double().mean()


def test_weights_of_the_chosen_run_and_of_the_original_stay(repaired):
    told = read_choice(repaired)
    left = {str(path.parent.relative_to(repaired)) for path in repaired.glob("runs/mine/*/*/last.ckpt")}
    assert left == {told["run"], told["original"]["run"]}


def test_repeating_the_command_runs_nothing_and_lost_weights_come_back(repaired, monkeypatch, capsys):
    monkeypatch.chdir(repaired)
    before = {path: path.read_bytes() for path in Path("runs").glob("mine/*/*/metrics.json")}
    told = read_choice(repaired)
    weights = torch.load(f"{told['run']}/last.ckpt", weights_only=True)["state_dict"]
    Path(told["run"], "last.ckpt").unlink()
    started = time.time_ns()
    assert main([*REPAIR, "--out", "other.json"]) == 0
    again = torch.load(f"{told['run']}/last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(again[key], weights[key]) for key in weights)
    assert main(REPAIR) == 0  # runs the original only, to learn whether the files are the same
    assert sorted(path.stat().st_mtime_ns for path in Path("runs/.sweep/asked").iterdir())[-3] < started
    after = {path: path.read_bytes() for path in Path("runs").glob("mine/*/*/metrics.json")}
    assert {path for path in after if after[path] != before[path]} <= {Path(told["run"], "metrics.json")}
    assert json.loads(Path("other.json").read_text()) == told
    printed = capsys.readouterr().out
    assert told["why"] in printed
    assert "other.json" in printed
    assert f"python -m cmu_lightning predict {told['run']} --out predictions.csv" in printed
    assert f"python -m cmu_lightning export {told['run']} --out FOLDER" in printed
    assert "the original" in printed


def test_predictions_have_names_of_files_and_classes_and_a_list_takes_their_indices(repaired, monkeypatch, tmp_path):
    monkeypatch.chdir(repaired)
    run = read_choice(repaired)["run"]
    assert main(["predict", run, "--out", str(tmp_path / "all.csv")]) == 0
    with (tmp_path / "all.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    trained = [row for row in rows if row["split"] != "validation"]
    validated = [row for row in rows if row["split"] == "validation"]
    assert sorted(row["name"] for row in validated) == sorted(
        path.relative_to("images/val").as_posix() for path in Path("images/val").glob("*/*.png")
    )
    for row in rows:
        assert row["label_class"] == row["name"].partition("/")[0]
        assert (row["before"], row["after"]) == (row["before_class"], row["after_class"])  # classes are digits
    deleted = [row["index"] for row in trained if row["split"] == "deleted"]
    (tmp_path / "again.csv").write_text("\n".join(["index", *deleted]))
    names = [row["name"] for row in trained]
    both = [Flagged(str(path)).flagged(600, names) for path in (tmp_path / "again.csv", Path("flagged.csv"))]
    assert torch.equal(*both)


def test_images_are_read_as_the_data_were(repaired, monkeypatch, tmp_path):
    """A run whose data are resized resizes the images to classify, too."""
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
    monkeypatch.setattr(export, "write_onnx", lambda network, images, path: path.touch())
    monkeypatch.setattr(export, "largest_difference", lambda network, images, path: 0.0)
    told = read_choice(repaired)
    assert main(["export", told["run"], "--out", str(tmp_path / "out")]) == 0
    card = (tmp_path / "out/README.md").read_text()
    original, own = (read_metrics(Path(each)) for each in (told["original"]["run"], told["run"]))
    assert f"| `val_acc` | validation accuracy | {original['val_acc']:.4f} | {own['val_acc']:.4f} |" in card
    assert told["why"] in card
    assert "in this order: `0`, `1`, `2`" in card
    assert "converted to grey" in card
    assert "True labels are not known" in card
    assert "acc_corr" not in card
    assert main(["export", told["original"]["run"], "--out", str(tmp_path / "kept")]) == 0
    card = (tmp_path / "kept/README.md").read_text()
    assert "kept as it was" in card
    assert told["why"] not in card


def test_a_chosen_run_that_cannot_be_repeated(repaired, monkeypatch, capsys):
    """Its results stay, and the exit code is no success."""
    monkeypatch.chdir(repaired)
    run, really_run = Path(read_choice(repaired)["run"]), repair._run
    results, weights = (run / "metrics.json").read_bytes(), (run / "last.ckpt").read_bytes()

    def fail_to_repeat(points, *more):
        again = [point for point in points if not (run / "metrics.json").exists()]
        return [Failure(point, 1, ["killed"]) for point in again] or really_run(points, *more)

    monkeypatch.setattr(repair, "_run", fail_to_repeat)
    (run / "last.ckpt").unlink()
    assert main([*REPAIR, "--out", "never.json"]) == 1
    assert "cannot be restored" in capsys.readouterr().err
    assert json.loads((run / "metrics.json").read_bytes()) == json.loads(results)
    assert not Path("never.json").exists()
    (run / "metrics.json").write_bytes(results)
    (run / "last.ckpt").write_bytes(weights)


def test_an_interruption_while_weights_are_made_again_loses_no_results(repaired, monkeypatch):
    monkeypatch.chdir(repaired)
    run = Path(read_choice(repaired)["run"])
    results, weights = (run / "metrics.json").read_bytes(), (run / "last.ckpt").read_bytes()

    def interrupt(points, *more):
        if not (run / "metrics.json").exists():
            raise KeyboardInterrupt
        return []

    monkeypatch.setattr(repair, "_run", interrupt)
    (run / "last.ckpt").unlink()
    assert main(REPAIR) == 130
    assert json.loads((run / "metrics.json").read_bytes()) == json.loads(results)
    (run / "metrics.json").write_bytes(results)
    (run / "last.ckpt").write_bytes(weights)


def test_an_original_that_fits_its_training_data_is_not_doubted(repaired):
    stored = read_metrics(repaired / read_choice(repaired)["original"]["run"])
    assert "fit_retain" in stored
    assert doubts(Candidate("the original", repaired, stored)) == []


def test_what_is_predicted_of_single_samples_agrees_with_the_results(repaired):
    told = read_choice(repaired)
    labels = {path.parent.name: len(list(path.parent.iterdir())) for path in repaired.glob("images/val/*/*")}
    for each in (told["original"], next(one for one in told["candidates"] if one["run"] == told["run"])):
        stored = np.load(repaired / each["run"] / PREDICTED)
        assert len(stored["train"]) == 600
        given = np.repeat([*map(int, sorted(labels))], [labels[name] for name in sorted(labels)])
        assert (stored["validation"] == given).mean() == pytest.approx(each["val_acc"], abs=1e-12)


def test_a_model_that_loses_a_class_is_passed_over(repaired, monkeypatch, capsys):
    monkeypatch.chdir(repaired)
    first = read_choice(repaired)
    monkeypatch.setattr(choice, "objection", guards.objection)
    assert main([*REPAIR, "--out", "guarded.json"]) == 0
    guarded = json.loads(Path("guarded.json").read_text())
    assert guarded["original_kept"]
    refused = {each["run"]: each["refused"] for each in guarded["candidates"] if "refused" in each}
    assert refused[first["run"]].startswith("it loses class 0 (recall ")
    assert f"but {refused[first['run']]}" in guarded["why"]
    assert "loses class 0" in capsys.readouterr().out
    assert all(each["score"] <= guarded["original"]["score"] for each in guarded["candidates"] if "refused" not in each)
    Path("runs/mine/repaired.json").write_text(json.dumps(first))


def test_only_some_methods_and_no_time_for_others(project, monkeypatch, tmp_path, capsys):
    """The original and PURE are run whatever the time, and what is not started is named."""
    monkeypatch.chdir(project)
    own = [*REPAIR, "--runs_dir", str(tmp_path)]
    assert main([*own, "--only", "CF, pure", "--budget", "0"]) == 0
    told = json.loads((tmp_path / "mine/repaired.json").read_text())
    assert [each["method"] for each in told["candidates"]] == ["PURE"]
    assert told["not_tried"] == ["cf"]
    assert "one candidate was not started: the --budget of 0 minutes" in told["notes"][0]
    assert "not tried" in capsys.readouterr().out
    assert main([*own, "--only", "pure,cf"]) == 0
    told = json.loads((tmp_path / "mine/repaired.json").read_text())
    assert ([each["method"] for each in told["candidates"]], told["not_tried"]) == (["PURE", "CF"], [])


def test_another_candidate_afterwards(repaired, monkeypatch, capsys):
    """Its weights are made again, nothing else is run, and the weights of the first choice stay."""
    monkeypatch.chdir(repaired)
    first = read_choice(repaired)
    (cf,) = Path("runs/mine/CF").iterdir()
    assert not (cf / "last.ckpt").exists()
    before = {path: path.stat().st_mtime_ns for path in Path("runs").glob("mine/*/*/metrics.json")}
    assert main([*REPAIR, "--choose", "cf"]) == 0
    now = read_choice(repaired)
    assert (now["run"], len(now["candidates"])) == (str(cf), 8)
    assert now["why"].startswith("CF is chosen because --choose asks for cf; its val_acc is")
    assert (cf / "last.ckpt").exists()
    assert Path(first["run"], "last.ckpt").exists()
    changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {cf / "metrics.json"}
    assert main([*REPAIR, "--choose", "the original"]) == 0
    assert read_choice(repaired)["original_kept"]
    assert main([*REPAIR, "--choose", "nothing"]) == 2
    assert "choose from PURE, Potion, ASSD, SSD (selection 1, dampening_ratio 1)" in capsys.readouterr().err
    (cf / "last.ckpt").unlink()
    config = cf / "config.yaml"
    config.write_text(config.read_text().replace("checkpoints: all", "checkpoints: chosen"))
    assert main(REPAIR) == 0
    assert read_choice(repaired) == first


def test_corrected_labels_are_used(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    flagged = (project / "flagged.csv").read_text().split()[1:]
    labels = load_digits().target
    rows = [f"{name},{labels[int(Path(name).stem)]}" for name in flagged]
    (tmp_path / "corrected.csv").write_text("\n".join(["name,corrected_label", *rows]))
    arguments = ["--data.discovery.path", str(tmp_path / "corrected.csv"), "--runs_dir", str(tmp_path)]
    assert main([*REPAIR, *arguments, "--only", "relabel"]) == 0
    told = json.loads((tmp_path / "mine/repaired.json").read_text())
    assert [each["method"] for each in told["candidates"]] == ["Relabel"]
    assert read_metrics(Path(told["candidates"][0]["run"]))["corrected"] == len(flagged)


def test_what_a_run_says_of_the_original_is_repeated(project, monkeypatch, tmp_path, capsys):
    """Weights that are left out of a file; the run that measures the original says so."""
    monkeypatch.chdir(project)
    several = {"student": torch.load("model.pt"), "criterion": {"weight": torch.ones(3)}}
    state = {f"{part}.{name}": values for part, own in several.items() for name, values in own.items()}
    torch.save(state, tmp_path / "several.pt")
    more = ["--model.original", str(tmp_path / "several.pt"), "--runs_dir", str(tmp_path)]
    assert main([*REPAIR, *more, "--only", "cf"]) == 0
    said = "the weights under student. of "
    assert said in capsys.readouterr().err
    (note,) = json.loads((tmp_path / "mine/repaired.json").read_text())["notes"]
    assert said in note
    capsys.readouterr()
    assert main([*REPAIR, *more, "--only", "cf"]) == 0, "which runs nothing"
    assert said in capsys.readouterr().err


def test_without_validation_samples_the_retain_data_decide(project, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(project)
    shutil.copytree("images/train", tmp_path / "bare/train")
    arguments = ["--data.root", str(tmp_path / "bare"), "--data.val_size", "0", "--runs_dir", str(tmp_path)]
    assert main([*REPAIR, *arguments, "--only", "potion,cf"]) == 0
    told = json.loads((tmp_path / "mine/repaired.json").read_text())
    for each in (told["original"], *told["candidates"]):
        assert "val_acc" not in each
        assert each["score"] == pytest.approx(5 * each["fit_retain"] + 1 - (15 * each["fit_identified"] + 1) / 17)
    table = capsys.readouterr().out
    assert "fit_retain" in table
    assert "val_acc" not in table.partition("Potion")[0]


def test_a_detector_in_place_of_a_list(project, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    monkeypatch.setattr(study, "STUDY", {"keep": {}, "assd": {}})
    setting = SETTING.replace("Flagged, init_args: {path: flagged.csv}", "LossRanking, init_args: {count: 9}")
    (tmp_path / "detect.yaml").write_text(setting)
    arguments = ["--config", str(tmp_path / "detect.yaml"), "--model.original", "model.pt", "--runs_dir", str(tmp_path)]
    assert main(["repair", *arguments]) == 0
    told = json.loads((tmp_path / "mine/repaired.json").read_text())
    assert read_metrics(Path(told["run"]))["deleted"] == 9
    assert len(told["candidates"]) == 1


def test_a_failed_run_is_named_and_one_of_another_list_does_not_stand_for_it(repaired, monkeypatch, capsys):
    """On the second list only CF fails: a file stands where its run should be."""
    monkeypatch.chdir(repaired)
    monkeypatch.setattr(study, "STUDY", {"keep": {}, "assd": {}, "cf": {}, "badt": {}})
    told, before = read_choice(repaired), Path("flagged.csv").read_text()
    Path("flagged.csv").write_text("\n".join(before.splitlines()[:-1]))
    Path("runs/mine/CF").rename("runs/mine/CF.kept")
    Path("runs/mine/CF").write_text("")
    try:
        assert main([*REPAIR, "--out", "fewer.json"]) == 0
    finally:
        Path("runs/mine/CF").unlink()
        Path("runs/mine/CF.kept").rename("runs/mine/CF")
        Path("flagged.csv").write_text(before)
    now = json.loads(Path("fewer.json").read_text())
    assert [each["method"] for each in now["candidates"]] == ["ASSD", "BadT"]
    assert [*now["failed"]] == ["cf"]
    assert now == read_choice(repaired), "where a model card looks for it"
    Path("runs/mine/repaired.json").write_text(json.dumps(told))
    assert not {each["run"] for each in now["candidates"]} & {each["run"] for each in told["candidates"]}
    assert "failed" in capsys.readouterr().out


def test_data_that_have_moved_are_found_by_the_config(repaired, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(shutil.copytree(repaired, tmp_path / "project"))
    run = Path(read_choice(Path())["run"])
    Path("images").rename("elsewhere")
    assert main(["predict", str(run)]) == 2
    assert re.search(
        r"the data of .* cannot be read \(.*\); .*config.yaml holds their location under data", capsys.readouterr().err
    )
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("root: images", "root: elsewhere"))
    assert main(["predict", str(run)]) == 0


def test_a_run_whose_list_has_changed_names_the_list(repaired, monkeypatch, capsys):
    monkeypatch.chdir(repaired)
    before = Path("flagged.csv").read_text()
    Path("flagged.csv").write_text("\n".join(before.splitlines()[:-1]))
    try:
        assert main(["predict", read_choice(repaired)["run"], "--out", "none.csv"]) == 2
    finally:
        Path("flagged.csv").write_text(before)
    said = "another deletion set (S_f), because its list flagged.csv has changed since: put the old one back"
    assert said in capsys.readouterr().err
    assert not Path("none.csv").exists()


def test_a_repair_goes_with_data_that_have_moved(repaired, monkeypatch):
    """The same command with the new place runs nothing, and the page is of the images there."""
    monkeypatch.chdir(repaired)
    told = read_choice(repaired)
    before = {path: path.stat().st_mtime_ns for path in Path("runs").glob("mine/*/*/metrics.json")}
    Path("images").rename("moved")
    try:
        assert main([*REPAIR, "--data.root", "moved"]) == 0
        assert read_choice(repaired) == told
        changed = {path for path, time in before.items() if path.stat().st_mtime_ns != time}
        assert changed <= {Path(told["run"], "metrics.json")}
        assert main(["predict", told["run"], "--out", "moved.csv"]) == 0
    finally:
        Path("moved").rename("images")
        assert main([*REPAIR, "--data.root", "images"]) == 0


def test_a_report_names_what_repair_leaves(repaired):
    found = read_runs(repaired / "runs")
    assert found.table.empty
    assert {each.reason.partition(":")[0] for each in found.skipped} == {"of unknown manipulation", "what repair chose"}


def test_a_list_of_runs_says_where_what_repair_leaves_is_told(repaired, capsys):
    assert main(["list", str(repaired / "runs")]) == 2
    assert "the choice of repair, with its reasons, is in the repaired.json" in capsys.readouterr().err
    assert main(["list", str(repaired / "runs/mine")]) == 2
    assert "is the folder of one setting: give the runs folder" in capsys.readouterr().err


def test_trusted_images(project, monkeypatch, capsys):
    """Validation images that carry the mark, in folders of their right labels."""
    monkeypatch.chdir(project)
    for path in sorted(Path("images/val").glob("*/*.png"))[::10]:
        image = np.array(Image.open(path))
        image[-2:, -2:] = 255
        copied = Path("trusted", path.parent.name, path.name)
        copied.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(copied)
    command = [*REPAIR[:-1], "runs_with_trusted", "--only", "potion", "--trusted", "trusted"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    told = json.loads(Path("runs_with_trusted/mine/repaired.json").read_text())
    total = len([*Path("trusted").glob("*/*.png")])
    for run in (told["original"], *told["candidates"]):
        network, right = cmu_lightning.load(run["run"]), 0
        for path in Path("trusted").glob("*/*.png"):
            pixels = torch.from_numpy(np.array(Image.open(path))).float().view(1, 1, 8, 8) / 255
            right += int(network((pixels - 0.5) / 0.5).argmax()) == int(path.parent.name)
        assert run["trusted"] == {"right": right, "of": total}
        assert f"{right} of {total}" in shown
    page = next(Path("runs_with_trusted").glob("mine/*/*/repair.html")).read_text()
    assert f"of {total} trusted images correctly" in page
    shutil.rmtree("runs_with_trusted")


WRONG = {
    "no folder of trusted images": (["--trusted", "nothing"], "--trusted nothing: there is no such folder; give one"),
    "no original": (["--model.original", "nothing.pt"], "--model.original names nothing.pt, but there is no such"),
    "a name that no file has": (["--model.original", 300 * "a"], "which cannot be read (File name too long)"),
    "no list": (["--data.discovery.path", "nothing.csv"], "--data.discovery.path names nothing.csv, but there"),
    "weights that are no numbers": (["--model.original", "nan.pt"], "nan.pt has weights that are not finite"),
    "weights to keep": (["--checkpoints", "none"], "repair keeps the weights of the run that it chooses: leave --ch"),
    "a folder to write to": (["--out", "images"], "--out images is a folder"),
    "a config that is no YAML": (["--config", "tab.yaml"], "the config tab.yaml is not YAML (while scanning"),
    "no such method": (["--only", "pure,fc"], "--only pure,fc: repair has no method 'fc'; choose from pure"),
    "only the original": (["--only", "keep"], "--only keep: repair has no method 'keep'"),
    "a time that is none": (["--budget", "-1"], "--budget -1 is not a number of minutes: give 0 or more"),
    "nothing of that name": (["--choose", "cf"], "--choose cf: no finished candidate has that name; choose from none"),
    "no corrected labels among others": (["--only", "relabel,cf"], "--only relabel needs corrected labels: add a col"),
    "no corrected labels": (
        ["--only", "relabel"],
        "--only relabel needs corrected labels: add a column corrected_label to the list",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_reported_once(case, project, monkeypatch, capfd):
    monkeypatch.chdir(project)
    Path("tab.yaml").write_text("data:\n\tinit_args: {}\n")
    torch.save({key: nan * value for key, value in torch.load("model.pt").items()}, "nan.pt")
    arguments, says = WRONG[case]
    assert main([*REPAIR, "--runs_dir", "wrong", *arguments]) == 2
    error = capfd.readouterr().err
    assert error.count(says) == 1
    assert "Traceback" not in error
    assert not list(Path("wrong").glob("*/repaired.json"))
    assert not list(Path("wrong").glob("*/CF"))
    if case != "nothing of that name" and "corrected" not in case:  # the original has to be measured first
        assert not [path for path in Path("wrong").rglob("*") if not path.relative_to("wrong").parts[0].startswith(".")]


def test_arguments_that_choose_a_method_are_refused(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
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
    monkeypatch.setattr(repair, "_run", lambda points, *more: [Failure(points[0], 2, ["error: that was all"])])
    for given, is_announced in (
        ([], True),
        (["--model.original", "model.pt"], False),
        (["--model.original=model.pt"], False),
    ):
        assert main(["repair", "--config", "own_images.yaml", *given]) == 2
        assert (
            "no --model.original is given: repair uses the setting's own" in capsys.readouterr().err
        ) is is_announced


def test_every_overlay_of_the_study_exists_and_the_original_comes_first(monkeypatch):
    monkeypatch.setattr(study, "STUDY", WHOLE_STUDY)
    points = study.study_points(["--config", "own_images.yaml"], Path("runs"))
    assert len(points) == 15
    assert len({point.key for point in points}) == 15
    assert [study.overlay_of(point) for point in points[:3]] == ["keep", "pure", "relabel"]
    assert "rewod" not in WHOLE_STUDY


def test_where_the_weights_of_the_original_are_chooses_no_method():
    where = ["--model.original_key", "net", "--model.original_prefix", "student"]
    for point in study.study_points(["--config", "own_images.yaml", *where], Path("runs")):
        assert set(where) <= set(point.arguments)


def test_where_nothing_can_be_written_nothing_is_run(tmp_path, capsys):
    Path("file").write_text("")
    for out in ("file/x.json", str(tmp_path)):
        assert main(["repair", "--config", "poison_digits.yaml", "--out", out]) == 2
        assert re.match(rf"error: --out {re.escape(out)} (cannot be written \(|is a folder)", capsys.readouterr().err)
    assert not Path("runs").exists()
