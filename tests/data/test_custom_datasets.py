"""A user's own images, in folders and in arrays."""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder
from torchvision.transforms import functional

from cmu_lightning.console import _say_once
from cmu_lightning.data import FolderDataModule, Poison, TensorDataModule, Unknown
from cmu_lightning.data.batches import evaluation_size
from cmu_lightning.data.datasets import arrays as array_module
from cmu_lightning.data.memmap import MappedImages
from cmu_lightning.errors import UserError


def draw(path, size=(9, 7), value=0, mode="RGB"):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    shape = size[::-1] if mode == "L" else (*size[::-1], 3)
    pixels = np.random.RandomState(value).randint(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return pixels


def folder(root="mine", splits=("train",), size=(9, 7)):
    for split in splits:
        for number, name in enumerate(["cat/b.png", "cat/a.png", "dog/deep/1.png", "dog/2.png"]):
            draw(Path(root, split, name), size, number + 10 * len(split))
    return root


def test_folders_are_read_as_torchvision_reads_them():
    folder(splits=("train", "val"))
    data = FolderDataModule(Unknown(), "mine", mean=[0.1, 0.2, 0.3], std=[1, 2, 3])
    data.setup()
    theirs = ImageFolder("mine/train")
    assert data.classes == theirs.classes
    assert data.num_classes == 2
    for row, (image, label) in enumerate(theirs):
        assert np.array_equal(data.samples.images[row].numpy(), np.asarray(image))
        assert data.samples.given_labels[row] == label
    assert data.names == ["cat/a.png", "cat/b.png", "dog/2.png", "dog/deep/1.png"]
    assert len(data.validation.given_labels) == 4
    pixels = data.pixels()(data.samples.images, torch.zeros(4, dtype=torch.bool))
    expected = functional.normalize(functional.to_tensor(theirs[2][0]), [0.1, 0.2, 0.3], [1, 2, 3])
    assert torch.allclose(pixels[2], expected, atol=1e-6)
    assert pixels[2].shape == (3, 7, 9)


@pytest.mark.parametrize("name", ["a\rb.png", "caf\udce9.png"])
def test_names_that_no_list_can_hold_are_left_out_and_said(name, capsys):
    """Lists, tables and pages could not name them after the training."""
    folder()
    draw(Path("mine/train/cat", name))
    data = FolderDataModule(Unknown(), "mine")
    data.setup()
    assert len(data.names) == 4
    assert "names that no list can hold: 1" in capsys.readouterr().err


def test_sizes_and_grey():
    folder()
    draw("mine/train/dog/2.png", (20, 30), 3)
    with pytest.raises(UserError, match=r"dog/2.png has 20x30 pixels and .*cat/a.png has 9x7: set data.image_size"):
        FolderDataModule(Unknown(), "mine").setup()
    data = FolderDataModule(Unknown(), "mine", image_size=8, grey=True)
    data.setup()
    image = Image.open("mine/train/dog/2.png").convert("L").resize((8, 12), Image.Resampling.BILINEAR)
    assert np.array_equal(data.samples.images[2, :, :, 0].numpy(), np.asarray(image)[2:10])
    assert data.mean == data.std == (0.5,)
    data = FolderDataModule(Unknown(), "mine", image_size=6, resize=8, grey=True)
    data.setup()
    assert np.array_equal(data.samples.images[2, :, :, 0].numpy(), np.asarray(image)[3:9, 1:7])
    with pytest.raises(UserError, match=r"data.resize=5 needs a data.image_size that is not larger"):
        FolderDataModule(Unknown(), "mine", image_size=6, resize=5)


def test_classes_in_the_order_of_the_network():
    folder(splits=("train", "val"))
    data = FolderDataModule(Unknown(), "mine", classes=["dog", "cat"])
    data.setup()
    assert data.names == ["cat/a.png", "cat/b.png", "dog/2.png", "dog/deep/1.png"]
    assert data.samples.given_labels.tolist() == data.validation.given_labels.tolist() == [1, 1, 0, 0]
    assert data.validation_names == data.names
    for name, number in (("dog", "0"), ("cat", "1")):
        Path(f"mine/train/{name}").rename(f"mine/train/{number}")
        Path(f"mine/val/{name}").rename(f"mine/val/{number}")
    assert FolderDataModule(Unknown(), "mine", classes=[1, 0]).numbers == {"1": 0, "0": 1}


def test_classes_that_are_not_the_folders():
    folder()
    for wrong in (["dog"], ["dog", "cat", "cat"], ["dog", "cow"]):
        with pytest.raises(UserError, match=r"are not the folders \['cat', 'dog'\] of mine/train: name each once"):
            FolderDataModule(Unknown(), "mine", classes=wrong)


def test_large_images_are_classified_in_smaller_batches():
    sizes = {
        side: evaluation_size(torch.empty(1, side, side, 3, dtype=torch.uint8)) for side in (8, 32, 64, 96, 224, 999)
    }
    assert sizes == {8: 1000, 32: 1000, 64: 1000, 96: 444, 224: 81, 999: 16}


def deep(path):
    Image.fromarray(np.zeros((7, 9), dtype=np.uint16)).save(path)


WRONG = {
    "no train folder": (lambda: shutil.rmtree("mine/train"), {}, "there is no folder mine/train"),
    "no classes": (lambda: [shutil.rmtree(f"mine/train/{name}") for name in ("cat", "dog")], {}, "has no folders"),
    "an empty class": (lambda: Path("mine/train/bird").mkdir(), {}, "folder mine/train/bird has no image"),
    "text for an image": (
        lambda: Path("mine/train/cat/c.png").write_text("x"),
        {},
        "mine/train/cat/c.png cannot be read",
    ),
    "half an image": (
        lambda: Path("mine/train/cat/a.png").write_bytes(Path("mine/train/cat/a.png").read_bytes()[:90]),
        {},
        "mine/train/cat/a.png cannot be read",
    ),
    "16 bits": (lambda: deep("mine/train/cat/a.png"), {}, "cat/a.png has more than 8 bits"),
    "another class to validate": (lambda: draw("mine/val/bird/1.png"), {}, "mine/val/bird is of a class"),
    "nothing to validate": (lambda: Path("mine/val").mkdir(), {}, "mine/val has no images"),
    "means of other channels": (None, {"mean": [0.5]}, r"mean=\[0.5\] of FolderDataModule has 1 numbers for 3"),
    "means of 0 to 255": (None, {"mean": [127, 127, 127]}, r"not from 0 to 1, and white is 1: divide it and std"),
    "a deviation of 0": (None, {"std": [0.5, 0, 1]}, "is not positive, and pixels are divided by it"),
    "no size": (None, {"image_size": 0}, "image_size=0"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_folder(case):
    folder()
    damage, arguments, says = WRONG[case]
    if damage:
        damage()
    with pytest.raises(UserError, match=says) as error:
        FolderDataModule(Unknown(), "mine", **arguments).setup()
    assert str(error.value).count("\n") == 0


def litter():
    """Put next to the images what is none; return the line that says so."""
    for name in (
        "cat/.ipynb_checkpoints/a-checkpoint.png",
        ".ipynb_checkpoints/1.png",
        "cat/._a.png",
        "cat/animated.gif",
    ):
        draw(f"mine/train/{name}")
    draw("mine/train/loose.png")
    Path("mine/train/dog/notes.TXT").write_text("x")
    Path("mine/train/dog/gone.png").symlink_to("nowhere.png")
    Path("mine/train/dog/self.png").symlink_to("self.png")
    Path("mine/train/dog/deep/up").symlink_to("..")
    os.mkfifo("mine/train/dog/pipe.png")
    return (
        "of the files in mine are left out: hidden: 3 (mine/train/.ipynb_checkpoints/, "
        "mine/train/cat/.ipynb_checkpoints/, mine/train/cat/._a.png); in no class folder: 1 (mine/train/loose.png); "
        "other formats: 2 (mine/train/cat/animated.gif, mine/train/dog/notes.TXT); links in a circle: 1 "
        "(mine/train/dog/deep/up/); broken links: 2 (mine/train/dog/gone.png, mine/train/dog/self.png); no files: 1 "
        "(mine/train/dog/pipe.png)"
    )


def test_what_is_no_image_is_left_out_and_said_once(capsys):
    folder(splits=("train", "val"))
    plain = FolderDataModule(Unknown(), "mine")
    plain.setup()
    digest, names = plain.content(), plain.names
    assert capsys.readouterr().err == ""
    expected = litter()
    Path("mine/val/.ipynb_checkpoints").mkdir()
    _say_once.cache_clear()
    for _ in range(2):
        data = FolderDataModule(Unknown(), "mine", classes=["dog", "cat"])
        data.setup()
        assert data.names == names
        assert FolderDataModule(Unknown(), "mine").content() == digest
    assert (
        capsys.readouterr().err
        == expected.replace("hidden: 3", "hidden: 4").replace("._a.png)", "._a.png, ...)") + "\n"
    )


def test_a_class_of_which_all_is_left_out():
    folder()
    draw("mine/train/bird/1.gif")
    with pytest.raises(UserError, match=r"bird has no image \(left out: other formats: 1 \(mine/train/bird/1.gif\)\)"):
        FolderDataModule(Unknown(), "mine")


def test_a_folder_that_cannot_be_read(monkeypatch):
    folder()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("deep"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"the folder mine/train/dog/deep cannot be read \(Permission denied\)"):
        FolderDataModule(Unknown(), "mine")


def test_another_folder_has_another_digest_wherever_it_lies():
    one = FolderDataModule(Unknown(), folder("mine")).content()
    shutil.copytree("mine", "copy")
    assert FolderDataModule(Unknown(), "copy").content() == one
    pixels = np.asarray(Image.open("mine/train/cat/a.png")).copy()
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save("mine/train/cat/a.png")
    assert FolderDataModule(Unknown(), "mine").content() != one
    Path("copy/train/cat/a.png").rename("copy/train/dog/a.png")
    assert FolderDataModule(Unknown(), "copy").content() != one


def arrays(count=40, **changes):
    random = np.random.RandomState(0)
    content = {
        "train_images": random.randint(0, 256, (count, 6, 5), dtype=np.uint8),
        "train_labels": np.arange(count, dtype=np.int32) % 4,
        "val_images": random.randint(0, 256, (8, 6, 5), dtype=np.uint8),
        "val_labels": np.arange(8) % 3,
    }
    content |= changes
    return {name: value for name, value in content.items() if value is not None}


def saved(content, suffix="npz"):
    """Save arrays as one file or as a folder of `.npy` files, and return the path."""
    if suffix == "npz":
        np.savez("mine.npz", **content)
    elif suffix == "npy":
        shutil.rmtree("mine", ignore_errors=True)
        Path("mine").mkdir()
        for name, array in content.items():
            np.save(f"mine/{name}.npy", array)
        return "mine"
    else:
        save_file({name: torch.from_numpy(value) for name, value in content.items()}, "mine.safetensors")
    return f"mine.{suffix}"


def test_a_worker_reads_again_what_has_changed(monkeypatch):
    monkeypatch.setattr(TensorDataModule, "kept", {})
    pixels = []
    for value in (3, 3, 7):
        images = np.full((40, 6, 5), value, dtype=np.uint8)
        data = TensorDataModule(Unknown(), saved(arrays(train_images=images)))
        data.setup()
        pixels.append(int(data.samples.images[0, 0, 0]))
    assert pixels == [3, 3, 7]
    assert len(TensorDataModule.kept) == 1


@pytest.mark.parametrize("suffix", ["npz", "safetensors", "npy"])
def test_arrays(suffix):
    content = arrays()
    data = TensorDataModule(Unknown(), saved(content, suffix))
    data.setup()
    digest = data.content()
    assert data.names is None
    assert (data.num_classes, data.mean, len(data.validation.given_labels)) == (4, (0.5,), 8)
    assert np.array_equal(data.samples.images[..., 0].numpy(), content["train_images"])
    assert data.samples.given_labels.tolist() == content["train_labels"].tolist()
    held = TensorDataModule(Poison(size=3), saved(arrays(val_images=None, val_labels=None), suffix), num_classes=7)
    held.setup()
    assert (len(held.validation.given_labels), len(held.samples.given_labels), held.num_classes) == (4, 36, 7)
    assert not len(held.test.labels)
    assert held.content() != digest
    with pytest.raises(UserError, match="val_labels=given applies to held-out training samples"):
        TensorDataModule(Unknown(), saved(content, suffix), val_labels="given").setup()


@pytest.fixture
def read_parts(monkeypatch):
    """Every part of an array of images that is turned into a tensor, as its type and its number of rows."""
    parts = []
    to_tensor = array_module._tensor

    def record(part):
        if part.ndim > 1 and len(part):
            parts.append((type(part), len(part)))
        return to_tensor(part)

    monkeypatch.setattr(array_module, "_tensor", record)
    return parts


@pytest.mark.parametrize("suffix", ["npz", "compressed", "safetensors", "npy"])
@pytest.mark.parametrize("channels", [None, 3])
def test_arrays_go_into_a_memory_map_slice_by_slice(suffix, channels, monkeypatch, read_parts):
    """numpy reads an array of a zip archive whole; of the other formats no more than a slice is in memory."""
    monkeypatch.setattr(array_module, "SLICE_BYTES", 7 * 30 * (channels or 1))
    content = arrays()
    if channels:
        content |= {f"{part}_images": np.stack([content[f"{part}_images"]] * 3, axis=3) for part in ("train", "val")}
        content["train_images"][..., 1] //= 2
    path = saved(content, "npz" if suffix == "compressed" else suffix)
    if suffix == "compressed":
        np.savez_compressed(path, **content)
    data = TensorDataModule(Unknown(), path, memory_map=".")
    data.setup()
    types, rows = zip(*read_parts, strict=True)
    assert list(rows) == [7, 7, 7, 7, 7, 5, 7, 1]  # 40 to train on, 8 to validate on
    assert set(types) == {{"safetensors": torch.Tensor, "npy": np.memmap}.get(suffix, np.ndarray)}
    plain = TensorDataModule(Unknown(), path)
    plain.setup()
    assert isinstance(data.samples.images, MappedImages)
    assert torch.equal(data.samples.images[:], plain.samples.images)
    assert torch.equal(data.validation.images[:], plain.validation.images)
    assert data.fingerprint == plain.fingerprint


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_arrays_in_another_order(suffix):
    content = arrays()
    path = saved(content | {"train_images": np.asfortranarray(content["train_images"])}, suffix)
    data = TensorDataModule(Unknown(), path, memory_map=".")
    data.setup()
    assert np.array_equal(data.samples.images[:][..., 0].numpy(), content["train_images"])


def test_the_digest_of_a_folder_of_arrays_is_of_its_names_and_bytes():
    content = arrays()
    digest = TensorDataModule(Unknown(), saved(content, "npy")).content()
    shutil.copytree("mine", "copy")
    assert TensorDataModule(Unknown(), "copy").content() == digest
    Path("copy/notes.txt").write_text("x")
    assert TensorDataModule(Unknown(), "copy").content() == digest
    np.save("copy/train_images.npy", content["train_images"] // 2)
    assert TensorDataModule(Unknown(), "copy").content() != digest


@pytest.mark.parametrize(
    ("suffix", "damaged"),
    [("safetensors", "mine.safetensors"), ("npz", "mine.npz"), ("npy", "mine/train_images.npy")],
)
def test_half_a_file_of_arrays_and_a_memory_map(suffix, damaged):
    path = saved(arrays(), suffix)
    Path(damaged).write_bytes(Path(damaged).read_bytes()[:-700])
    with pytest.raises(UserError, match=rf"{path} cannot be read .*give a whole"):
        TensorDataModule(Unknown(), path, memory_map=".").setup()


IMAGES = arrays()["train_images"]

WRONG_ARRAYS = {
    "floats": ({"train_images": IMAGES / 255.0}, r"train_images of type float64 and shape \(40, 6, 5\): give uint8"),
    "flat": ({"train_images": IMAGES.reshape(40, 30)}, r"of type uint8 and shape \(40, 30\)"),
    "too few": ({"train_images": IMAGES[:39]}, "has 39 train_images and 40 train_labels"),
    "no labels": ({"train_labels": None}, "has no train_labels"),
    "no images": ({"train_images": None}, "train_labels and no train_images"),
    "labels of floats": ({"train_labels": np.zeros(40)}, r"train_labels of type float64 and shape \(40,\)"),
    "one-hot labels": ({"train_labels": np.eye(40, dtype=int)}, r"of type int64 and shape \(40, 40\)"),
    "a negative label": ({"train_labels": np.arange(40) - 1}, "has the label -1 at index 0"),
    "a new class to validate": ({"val_labels": np.arange(8)}, "has the label 4 at index 4, but the classes are 0 to 3"),
    "another shape to validate": (
        {"val_images": np.zeros((8, 6, 6), dtype=np.uint8)},
        r"val_images of shape \(8, 6, 6, 1\) and train_images of shape \(40, 6, 5, 1\)",
    ),
    "objects": ({"train_labels": np.array([None] * 40)}, "cannot be read"),
}


@pytest.mark.parametrize("case", WRONG_ARRAYS)
@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("memory_map", [None, "."])
def test_what_is_wrong_with_arrays(case, suffix, memory_map):
    changes, says = WRONG_ARRAYS[case]
    with pytest.raises(UserError, match=says):
        TensorDataModule(Unknown(), saved(arrays(**changes), suffix), memory_map=memory_map).setup()


def test_files_that_are_no_arrays():
    Path("mine.npz").write_text("x")
    np.save("mine.npy", IMAGES)
    Path("mine.safetensors").write_text("x")
    for path in ("mine.npz", "mine.npy", "mine.safetensors"):
        with pytest.raises(UserError, match=f"{path} cannot be read"):
            TensorDataModule(Unknown(), path)
    with pytest.raises(UserError, match=r"there is no file nothing\.npz"):
        TensorDataModule(Unknown(), "nothing.npz")
    Path("empty").mkdir()
    with pytest.raises(UserError, match="empty has no train_labels"):
        TensorDataModule(Unknown(), "empty")


SETTING = """
setting: mine
data:
  class_path: {data}
  init_args: {{manipulation: {{class_path: {manipulation}}}, {arguments}}}
"""


def setting(data, manipulation, arguments):
    Path("setting.yaml").write_text(SETTING.format(data=data, manipulation=manipulation, arguments=arguments))


def digits(root):
    """A few digits of 12x12 pixels in folders."""
    whole = load_digits()
    for row in range(300):
        path = Path(root, "test" if row >= 250 else "train", str(whole.target[row]), f"{row}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.pad((whole.images[row] * 15).astype(np.uint8), 2)).save(path)


def metrics(method):
    return [json.loads(path.read_text()) for path in Path("runs").glob(f"mine/{method}/*/metrics.json")]


def test_ones_own_folder_from_the_command_line(fit, capsys):
    """Unknown with a list; then a researcher's Poison on the same images; folders that differ share no run."""
    digits("one")
    setting("FolderDataModule", "Unknown", "root: one, grey: true")
    names = sorted(path.relative_to("one/train").as_posix() for path in Path("one/train/3").glob("*"))
    Path("list.csv").write_text("name,score\n" + "".join(f"{name},1\n" for name in names[:5]))
    own = ("--config", "setting.yaml", "--runs_dir", "runs")
    flagged = ("--data.discovery", "Flagged", "--data.discovery.path", "list.csv")
    assert fit(*own, *flagged) == 0
    assert fit(*own, "--config", "unlearn/cf.yaml", *flagged) == 0
    (run,) = metrics("CF")
    assert (run["deleted"], run["dataset"], run["model"]) == (5, "folder", "Linear")
    assert not {"acc_corr", "manipulated"} & run.keys()
    assert fit(*own, "--config", "unlearn/cf.yaml", *flagged) == 0
    assert "was finished before" in capsys.readouterr().out
    Path("one").rename("two")
    assert fit(*own, "--data.root", "two", "--config", "unlearn/cf.yaml", *flagged) == 0
    assert "was finished before" in capsys.readouterr().out
    setting("FolderDataModule", "Poison", "root: two, grey: true")
    assert fit(*own, "--config", "setting.yaml", "--data.manipulation.size", "10") == 0
    assert {"acc_corr", "acc_retain", "asr"} <= metrics("Original")[1].keys() | metrics("Original")[0].keys()
    Path("two/train/0/0.png").rename("two/train/0/again.png")
    assert fit(*own, "--config", "setting.yaml", "--data.manipulation.size", "10") == 0
    assert len({one["hash"] for one in metrics("Original")}) == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--network.num_classes", "7"), r"shape \(7,\) for the 10 classes of folder: make network of"),
        (("--data.root", "nowhere"), "there is no folder nowhere/train"),
        (("--data.grey", "false"), "does not take images of shape"),
        (("--data.discovery", "Flagged", "--data.discovery.path", "list.csv"), "line 3 has '3/x.png'"),
    ],
)
def test_wrong_inputs_leave_nothing(arguments, says, fit, capsys):
    digits("one")
    Path("list.csv").write_text("name\n0/0.png\n3/x.png\n")
    setting("FolderDataModule", "Unknown", "root: one, grey: true")
    assert fit("--config", "setting.yaml", "--runs_dir", "runs", *arguments) == 2
    error = re.sub(r"\Aloading folder from one\n", "", capsys.readouterr().err.strip())
    assert error.startswith("error: ")
    assert error.count("\n") == 0
    assert re.search(says, error), error
    assert [path for path in Path("runs").rglob("*") if ".locks" not in path.parts] == []


def test_arrays_from_the_command_line(fit, capsys):
    whole = load_digits()
    images = np.pad((whole.images[:300] * 15).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    np.savez("one.npz", train_images=images, train_labels=whole.target[:300])
    setting("TensorDataModule", "Unknown", "path: one.npz")
    Path("list.txt").write_text("3\n17\n")
    flagged = ("--data.discovery", "Flagged", "--data.discovery.path", "list.txt")
    own = ("--config", "setting.yaml", "--runs_dir", "runs", "--config", "unlearn/ssd.yaml", *flagged)
    assert fit(*own[:4], *flagged) == 0
    assert fit(*own) == 0
    (run,) = metrics("SSD")
    assert run["deleted"] == 2
    np.savez("one.npz", train_images=images, train_labels=np.r_[whole.target[:299], 0])
    assert fit(*own[:4], *flagged) == 0
    assert fit(*own) == 0
    assert len({one["hash"] for one in metrics("SSD")}) == len({one["hash"] for one in metrics("Original")}) == 2
    assert fit(*own[:4], "--data.num_classes", "3") == 2
    assert re.search("has the label 3 at index 3, but the classes are 0 to 2", capsys.readouterr().err)
