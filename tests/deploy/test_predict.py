"""Predictions of a run and of its original, as a CSV file."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from cmu_lightning.__main__ import main
from cmu_lightning.data import DigitsDataModule
from cmu_lightning.data.sampling import held_out
from cmu_lightning.deploy.predict import as_csv, find_images
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import write_metrics
from tests.helpers.damage import flip_bit
from tests.helpers.finished import CodeOnLoading, assert_refused, run_folder
from tests.helpers.networks import Linear

CF = ("--config", "unlearn/cf.yaml", "--data.identified", "0.5")


def read_rows(path: str = "predictions.csv") -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def load_linear(run: Path) -> Linear:
    network = Linear(144, 10)
    state = torch.load(run / "last.ckpt", weights_only=True)["state_dict"]
    network.load_state_dict({key.removeprefix("network."): value for key, value in state.items()})
    return network.eval()


def expected_predictions(run: Path, images: torch.Tensor) -> tuple[list[int], list[float]]:
    """Return classes and probabilities of images (n, 12, 12) from 0 to 1, without the package."""
    with torch.no_grad():
        probabilities = load_linear(run)(((images - 0.1357) / 0.2930).unsqueeze(1)).softmax(1)
    return probabilities.argmax(1).tolist(), probabilities.max(1).values.tolist()


def digits_of(checkpoint: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of S_tr and of validation as the run's checkpoint describes them, each (n, 12, 12)."""
    data = DigitsDataModule.__new__(DigitsDataModule)
    train = data.load()[0]
    held = held_out(train.labels, 203)
    images = train.images[..., 0].float() / 255
    retained, validation = images[~held], images[held]
    retained[checkpoint["manipulated"], 9:, 9:] = 1
    return retained, validation


def assert_predicted(rows: list[dict[str, str]], column: str, run: Path, images: torch.Tensor) -> None:
    classes, probabilities = expected_predictions(run, images)
    assert [int(row[column]) for row in rows] == classes
    given = [float(row[f"{column}_probability"]) for row in rows]
    assert given == pytest.approx(probabilities, abs=2e-6)


def test_every_sample_before_and_after(unlearned, capsys):
    run = run_folder(unlearned)
    assert main(["predict", str(run)]) == 0
    rows = read_rows()
    state = torch.load(run / "last.ckpt", weights_only=True)["DigitsDataModule"]
    trained, validated = rows[:1197], rows[1197:]
    held = held_out(DigitsDataModule.__new__(DigitsDataModule).load()[0].labels, 203)
    assert [int(row["index"]) for row in trained] == torch.nonzero(~held).flatten().tolist(), "as a flagged list counts"
    assert [int(row["index"]) for row in validated] == torch.nonzero(held).flatten().tolist()
    assert {row["split"] for row in validated} == {"validation"}
    assert [at for at, row in enumerate(trained) if row["split"] == "deleted"] == state["deleted"].tolist()
    assert {row["split"] for row in trained} == {"deleted", "retain"}
    assert {row["name"] for row in rows} == {""}
    assert {trained[index]["label"] for index in state["manipulated"].tolist()} == {"0"}
    for part, images in zip((trained, validated), digits_of(state), strict=True):
        assert_predicted(part, "before", run_folder(unlearned, "Original"), images)
        assert_predicted(part, "after", run, images)
    changed = [row["before"] != row["after"] for row in rows]
    assert [row["changed"] == "true" for row in rows] == changed
    assert 0 < sum(changed) < len(rows)
    stored = json.loads((run / "metrics.json").read_text())
    right = [row["after"] == row["label"] for row in validated]
    assert sum(right) / 203 == pytest.approx(stored["val_acc"])
    shown = capsys.readouterr().out
    assert all(f" {sum(row['split'] == split for row in rows):,} " in shown for split in ("deleted", "retain"))


def test_an_original_is_its_own_before(unlearned):
    assert main(["predict", str(run_folder(unlearned, "Original")), "--out", "new/o.csv"]) == 0
    rows = read_rows("new/o.csv")
    assert len(rows) == 1400
    assert {row["split"] for row in rows} == {"retain", "validation"}
    assert {row["changed"] for row in rows} == {"false"}


def test_names_of_files(unlearned, monkeypatch):
    monkeypatch.setattr(DigitsDataModule, "names", [f"{at}.png" for at in range(1400)])
    assert main(["predict", str(run_folder(unlearned))]) == 0
    rows = read_rows()
    data = DigitsDataModule.__new__(DigitsDataModule)
    labels = data.load()[0].labels.tolist()
    names = [int(row["name"].removesuffix(".png")) for row in rows]
    assert sorted(names) == list(range(1400))
    assert [labels[name] for name in names[1197:]] == [int(row["label"]) for row in rows[1197:]]
    own = [row["split"] != "deleted" for row in rows]
    assert sum(labels[name] == int(row["label"]) for name, row, ok in zip(names, rows, own, strict=True) if ok) > 1350


def write_images(folder: Path) -> torch.Tensor:
    """Write five digits as grey, coloured and indexed images, and return them."""
    folder.mkdir(parents=True)
    grey = torch.from_numpy(load_digits().images[:5] / 16 * 255).round().to(torch.uint8)
    grey = torch.nn.functional.pad(grey, (2, 2, 2, 2))
    for at, mode in enumerate(("L", "RGB", "RGBA", "L", "P")):
        Image.fromarray(grey[at].numpy()).convert(mode).save(folder / f"{at}.png")
    return grey.float() / 255


def test_image_files(unlearned):
    images = write_images(Path("mine/deeper"))
    Path("mine/notes.txt").write_text("no image")
    run = run_folder(unlearned)
    assert main(["predict", str(run), "--images", "mine", "mine/deeper/3.png"]) == 0
    rows = read_rows()
    assert list(rows[0]) == ["name", "before", "before_probability", "after", "after_probability", "changed"]
    assert [row["name"] for row in rows] == [f"mine/deeper/{at}.png" for at in (0, 1, 2, 3, 4, 3)]
    images = torch.cat([images, images[3:4]])
    assert_predicted(rows, "before", run_folder(unlearned, "Original"), images)
    assert_predicted(rows, "after", run, images)


def test_what_is_no_image_in_a_folder_is_passed_over(unlearned, capsys):
    write_images(Path("mine"))
    for name in ("notes.txt", "text.png", ".ipynb_checkpoints/1.png"):
        Path("mine", name).parent.mkdir(exist_ok=True)
        Path("mine", name).write_text("no image")
    Path("mine/half.png").write_bytes(Path("mine/0.png").read_bytes()[:60])
    Path("mine/gone.png").symlink_to("nowhere.png")
    run = str(run_folder(unlearned))
    assert main(["predict", run, "--images", "mine"]) == 0
    assert [row["name"] for row in read_rows()] == [f"mine/{at}.png" for at in range(5)]
    passed = capsys.readouterr().err.strip()
    assert passed == (
        "skipped: hidden: 1 (mine/.ipynb_checkpoints/); broken links: 1 (mine/gone.png); other formats: 1 "
        "(mine/notes.txt); damaged: 2 (mine/half.png, mine/text.png)"
    )
    for name in ("gone", *range(5)):
        Path(f"mine/{name}.png").unlink()
    assert_refused(["predict", run, "--images", "mine", "--out", "o.csv"], "none of the images can be decoded", capsys)
    Image.new("L", (13, 12)).save("mine/large.png")
    assert_refused(["predict", run, "--images", "mine", "--out", "o.csv"], "large.png has 13x12 pixels", capsys)
    assert not Path("o.csv").exists()


def test_the_original_that_was_given(copied, small, tmp_path):
    elsewhere = tmp_path / "mine.ckpt"
    shutil.move(run_folder(copied, "Original") / "last.ckpt", elsewhere)
    again = ["--model.original", str(elsewhere), "--runs_dir", str(tmp_path / "other")]
    assert main(["fit", "--config", "poison_digits.yaml", "--config", small, *CF, *again]) == 0
    assert main(["predict", str(run_folder(tmp_path / "other"))]) == 0
    assert len({row["before"] for row in read_rows()}) > 1


def test_a_run_that_was_moved_and_an_original_that_is_gone(copied, small, tmp_path, capsys):
    moved = Path(shutil.copytree(run_folder(copied), "moved"))
    assert_refused(["predict", str(moved)], "not where it was made; move it back to poison_digits/CF in", capsys)
    config = moved / "config.yaml"
    assert config.read_text().count("original: null") == 1
    config.write_text(config.read_text().replace("original: null", "original: mine.ckpt"))
    assert_refused(
        ["predict", str(moved)],
        "are gone: put mine.ckpt back, or run the command in the folder to which it is relative",
        capsys,
    )


def drop_weights(folder: Path) -> None:
    stored = json.loads((folder / "metrics.json").read_text())
    write_metrics(folder, stored | {"dropped_checkpoint": "last.ckpt"})
    (folder / "last.ckpt").unlink()


def other_data(folder: Path) -> None:
    content = torch.load(folder / "last.ckpt", weights_only=True)
    content["DigitsDataModule"]["fingerprint"] += 1
    torch.save(content, folder / "last.ckpt")


def poison_weights(folder: Path) -> None:
    torch.save({"state_dict": CodeOnLoading()}, folder / "last.ckpt")


def damage_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("data: [")


BROKEN = {
    "unfinished": (lambda run: (run / "metrics.json").unlink(), "has not finished: run `python -m cmu_lightning fit"),
    "without weights": (drop_weights, "last.ckpt was dropped: delete .*--checkpoints all"),
    "of other data": (other_data, "other images or labels than those in"),
    "with code": (poison_weights, "refused"),
    "without a config": (lambda run: (run / "config.yaml").unlink(), "it has no config.yaml"),
    "with a damaged config": (damage_config, "config.yaml is not a run's, or damaged"),
    "whose original lost its weights": (
        lambda run: drop_weights(run_folder(run.parents[2], "Original")),
        "weights of the original .* are gone: delete .*metrics.json and run",
    ),
    "with another run's weights": (
        lambda run: shutil.copy(run_folder(run.parents[2], "Original") / "last.ckpt", run),
        r"CF/\S*/last\.ckpt belongs to another run \(Original \w+\) than metrics\.json \(CF \w+\)",
    ),
    "whose original is another": (
        lambda run: shutil.copy(run / "last.ckpt", run_folder(run.parents[2], "Original")),
        "weights of the original .* are gone",
    ),
    "with a flipped bit": (lambda run: flip_bit(run / "last.ckpt"), r"CF/\S*/last\.ckpt is damaged"),
    "whose original has a flipped bit": (
        lambda run: flip_bit(run_folder(run.parents[2], "Original") / "last.ckpt"),
        r"Original/\S*/last\.ckpt is damaged",
    ),
    "whose original holds code": (lambda run: poison_weights(run_folder(run.parents[2], "Original")), "refused"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_run_that_cannot_predict(case, copied, capsys):
    run = run_folder(copied)
    BROKEN[case][0](run)
    assert_refused(["predict", str(run)], BROKEN[case][1], capsys)


WRONG = {
    "no run": (["nowhere"], "no run folder nowhere"),
    "a file as the run": (["mine/0.png"], "no run folder mine/0.png"),
    "no image": (["RUN", "--images", "nowhere.png"], "no image nowhere.png"),
    "a folder without images": (["RUN", "--images", "empty"], "empty holds no images"),
    "text as an image": (["RUN", "--images", "mine/0.png", "text.png"], "text.png cannot be read"),
    "half an image": (["RUN", "--images", "half.png"], "half.png cannot be read"),
    "an image of another size": (["RUN", "--images", "large.png"], "large.png has 13x12 pixels .* have 12x12"),
    "an image of 16 bits": (["RUN", "--images", "deep.png"], "deep.png has more than 8 bits"),
    "a folder as the file": (["RUN", "--out", "mine"], "--out mine is a folder"),
    "a file as the folder": (["RUN", "--out", "text.png/x.csv"], "text.png/x.csv cannot be written"),
    "an unknown option": (["RUN", "--image", "mine"], "unrecognized arguments: --image"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_reported_in_one_sentence(case, unlearned, capsys):
    write_images(Path("mine"))
    Path("empty").mkdir()
    Path("text.png").write_text("no image")
    Path("half.png").write_bytes(Path("mine/0.png").read_bytes()[:60])
    Image.new("L", (13, 12)).save("large.png")
    Image.new("I;16", (12, 12)).save("deep.png")
    arguments, says = WRONG[case]
    assert_refused(
        ["predict", *(str(run_folder(unlearned)) if each == "RUN" else each for each in arguments)], says, capsys
    )


def test_a_file_that_cannot_be_written_is_refused_before_anything_is_classified(unlearned, monkeypatch, capsys):
    monkeypatch.setattr("cmu_lightning.deploy.predict._predict", lambda *_: pytest.fail("it was classified"))
    Path("file").touch()
    assert main(["predict", str(run_folder(unlearned)), "--out", "file/predictions.csv"]) == 2
    assert "--out file/predictions.csv cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\rb.png", "caf\udce9.png"])
def test_names_that_no_table_can_hold_are_refused_before_anything_is_classified(name):
    Path(name).touch()
    with pytest.raises(UserError, match="cannot be written to a CSV file: rename the image"):
        find_images([Path(name)])
    with pytest.raises(UserError, match=r"holds no images \(skipped: names that no list can hold: 1 "):
        find_images([Path()])


def test_names_that_a_spreadsheet_would_calculate():
    rows = [
        {"name": "-1+1.png", "before": 3, "before_probability": "0.5", "before_class": "=cmd|' /C calc'!A0"},
        {"name": "cat.png", "before": -3, "before_probability": "-0.5", "before_class": "cat"},
    ]
    assert list(csv.reader(as_csv(rows).splitlines()))[1:] == [
        ["./-1+1.png", "3", "0.5", "'=cmd|' /C calc'!A0"],
        ["cat.png", "-3", "-0.5", "cat"],
    ]
