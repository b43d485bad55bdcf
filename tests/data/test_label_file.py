"""Labels from a file: which samples are S_m, what the file may be, and what is said of one that does not fit."""

import csv
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cmu_lightning.cli.fit import main
from cmu_lightning.data import DigitsDataModule, FolderDataModule, LabelsFromFile, evaluation
from cmu_lightning.errors import UserError

STORED = 1400
"""Training samples of the digits as they are stored, validation samples included."""


@pytest.fixture(scope="module")
def clean():
    data = DigitsDataModule(LabelsFromFile("unused"))
    return data.load()[0].labels


@pytest.fixture
def noisy(clean):
    """Labels of which the first twenty 3s and every seventh 8 are wrong."""
    labels = clean.clone()
    labels[torch.nonzero(clean == 3).flatten()[:20]] = 5
    labels[torch.nonzero(clean == 8).flatten()[::7]] = 1
    return labels


def publish(path: str, **columns: Any) -> None:
    """Write a file as CIFAR-10N's is: a pickled dict of numpy's arrays in a file of torch."""
    torch.save({name: np.asarray(labels) for name, labels in columns.items()}, path)


def write_csv(path: str, **columns: Any) -> None:
    cells = [np.asarray(column).tolist() for column in columns.values()]
    with Path(path).open("w", newline="") as file:
        csv.writer(file).writerows([[*columns], *zip(*cells, strict=True)])


def digits(path: str, **arguments: Any) -> DigitsDataModule:
    data = DigitsDataModule(LabelsFromFile(path, **arguments))
    data.setup()
    return data


def test_s_m_are_the_samples_whose_labels_disagree(clean, noisy):
    publish("labels.pt", clean_label=clean, worse_label=noisy)
    data = digits("labels.pt", given="worse_label", truth="clean_label")
    assert torch.equal(data.samples.given_labels, noisy[~data.held])
    assert torch.equal(data.samples.true_labels, clean[~data.held])
    assert torch.equal(data.samples.manipulated, (noisy != clean)[~data.held])
    assert torch.equal(data.validation.given_labels, clean[data.held])  # held out before the manipulation
    assert int(data.samples.deleted.sum()) == int(data.samples.manipulated.sum()) > 0


def test_the_affected_domain_is_the_classes_with_a_wrong_label(clean, noisy):
    np.save("labels.npy", noisy)
    data = digits("labels.npy")
    assert data.manipulation.affected(torch.arange(10)).nonzero().flatten().tolist() == [3, 8]
    assert data.manipulation.unaffected(torch.arange(10)).nonzero().flatten().tolist() == [0, 1, 2, 4, 5, 6, 7, 9]
    asked = evaluation.of_test(data)
    counted = dict(zip(asked.names, asked.domain.sum(dim=0).tolist(), strict=True))
    of_both = int(torch.isin(data.test.labels, torch.tensor([3, 8])).sum())
    assert counted == {"acc_corr": of_both, "acc_retain": len(data.test.labels) - of_both}


def test_validation_samples_can_have_the_given_labels(clean, noisy):
    np.save("labels.npy", noisy)
    data = DigitsDataModule(LabelsFromFile("labels.npy"), val_labels="given")
    data.setup()
    assert torch.equal(data.validation.given_labels, noisy[data.held])
    assert not torch.equal(data.validation.given_labels, clean[data.held])


@pytest.mark.parametrize("kind", ["csv", "npy", "pt", "tensor"])
def test_every_kind_of_file_says_the_same(kind, clean, noisy):
    path = f"labels.{'pt' if kind == 'tensor' else kind}"
    if kind == "csv":
        write_csv(path, given_label=noisy, other=clean)
    elif kind == "npy":
        np.save(path, noisy.numpy().astype(np.uint8))
    elif kind == "pt":
        publish(path, given_label=noisy, other=clean)
    else:
        torch.save(noisy, path)
    assert torch.equal(digits(path).samples.given_labels, noisy[~digits(path).held])


def test_the_datas_own_labels_are_the_given_ones_where_the_file_has_the_true(clean):
    """As in Clothing1M: the folder of an image says what the shop called it, the file what it is."""
    truth = (clean + (torch.arange(STORED) % 5 == 0).long()) % 10
    write_csv("labels.csv", checked=truth)
    data = digits("labels.csv", given=None, truth="checked")
    assert torch.equal(data.samples.given_labels, clean[~data.held])
    assert torch.equal(data.samples.true_labels, truth[~data.held])
    assert torch.equal(data.validation.true_labels, truth[data.held])
    assert torch.equal(data.samples.manipulated, (truth != clean)[~data.held])


def test_rows_that_say_which_sample_they_are_of_come_in_any_order(clean, noisy):
    order = torch.randperm(STORED, generator=torch.Generator().manual_seed(1))
    write_csv("labels.csv", given_label=noisy[order], index=order)
    data = digits("labels.csv")
    assert torch.equal(data.samples.given_labels, noisy[~data.held])


def test_names_of_files_and_of_classes():
    for at in range(6):
        folder = Path("images/train", ("cat", "dog")[at % 2])
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), at, np.uint8)).save(folder / f"{at}.png")
    rows = [f"cat\\{at}.png;cat" if at < 4 else f"cat/{at}.png;dog" for at in (4, 2, 0)]
    rows += [f"dog/{at}.png;dog" for at in (1, 3, 5)]
    Path("labels.csv").write_text("\ufeffname;label\n" + "\n".join(rows) + "\n")
    noise = LabelsFromFile("labels.csv", given="label")
    data = FolderDataModule(noise, root="images", mean=(0.5,) * 3, std=(0.5,) * 3, val_size=0)
    data.setup()
    wrong = [name for name, mark in zip(data.names, data.samples.manipulated.tolist(), strict=True) if mark]
    assert wrong == ["cat/4.png"]


def test_a_file_of_other_samples_is_noticed(clean, noisy):
    publish("labels.pt", clean_label=clean.roll(1), worse_label=noisy.roll(1))
    with pytest.raises(UserError, match=r"clean_label of labels.pt differs from the labels .* of 1,400 samples"):
        digits("labels.pt", given="worse_label", truth="clean_label")


WRONG = {
    "lacks": (lambda clean: publish("l.pt", other=clean), "l.pt has no column given_label: its columns are other"),
    "short": (lambda clean: publish("l.pt", given_label=clean[:-1]), "are 1399, and the stored training samples 1400"),
    "class": (
        lambda clean: publish("l.pt", given_label=clean + 1),
        r"'10' as given_label of sample \d+, which is no class: give numbers from 0 to 9",
    ),
    "unknown": (lambda clean: publish("l.pt", given_label=clean - 1), "'-1' as given_label"),
    "float": (lambda clean: publish("l.pt", given_label=clean / 2), "type float32: give one whole number"),
    "right": (lambda clean: publish("l.pt", given_label=clean), "no label of l.pt is wrong"),
    "object": (lambda clean: torch.save({"given_label": Path("x")}, "l.pt"), "holds more than tensors and arrays"),
    "damaged": (lambda clean: Path("l.pt").write_bytes(b"nothing"), "l.pt cannot be read"),
    "missing": (lambda clean: None, "l.pt cannot be read"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_does_not_fit(what, clean):
    make, message = WRONG[what]
    make(clean)
    with pytest.raises(UserError, match=message):
        digits("l.pt")


OF_CSV = {
    "empty": ("", "are empty"),
    "cells": ("given_label,index\n1,0\n1\n", "row 2 of the labels l.csv has 1 cells, and the header 2"),
    "index": ("given_label,index\n1,1400\n", "'1400' as index in row 1, which is no training sample"),
    "again": ("given_label,index\n1,0\n2,0\n", "'0' as index in rows 1 and 2"),
    "lacking": ("given_label,index\n1,0\n2,1\n", "of 2 of 1400 stored training samples, and lack index 2"),
    "word": ("given_label\n" + "cat\n" * STORED, "'cat' as given_label of sample 0"),
}


@pytest.mark.parametrize("what", OF_CSV)
def test_a_csv_file_that_does_not_fit(what):
    text, message = OF_CSV[what]
    Path("l.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        digits("l.csv")


@pytest.mark.parametrize(("given", "truth"), [(None, None), ("a", "a")])
def test_columns_that_say_nothing(given, truth):
    with pytest.raises(UserError, match="are both"):
        LabelsFromFile("l.csv", given=given, truth=truth)


def test_one_array_cannot_be_two_columns(noisy):
    np.save("l.npy", noisy)
    with pytest.raises(UserError, match="are one array, not the columns a and b"):
        digits("l.npy", given="a", truth="b")


class Harm:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("ending", ["pt", "npy"])
def test_nothing_in_a_file_is_run(ending, clean):
    if ending == "pt":
        torch.save({"given_label": Harm()}, "l.pt")
    else:
        np.save("l.npy", np.array([Harm()], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=f"the labels l.{ending} cannot be read"):
        digits(f"l.{ending}")
    assert not Path("harmed").exists()


def test_a_file_that_was_written_before_numpy_2(clean, noisy):
    """The published files name what makes an array by its module of that time."""
    publish("new.pt", given_label=noisy)
    with zipfile.ZipFile("new.pt") as new, zipfile.ZipFile("old.pt", "w") as old:
        for name in new.namelist():
            content = new.read(name)
            if name.endswith("data.pkl"):
                assert b"cnumpy._core.multiarray\n" in content
                content = content.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
            old.writestr(name, content)
    assert torch.equal(digits("old.pt").manipulation.given_labels, noisy)


def test_the_content_of_the_file_is_part_of_a_runs_identity(fit, noisy):
    def run(path: str) -> set[str]:
        noise = ("--data.manipulation", "LabelsFromFile", "--data.manipulation.path", path)
        assert fit(*noise, "--procedure.steps", "2", "--runs_dir", "runs") == 0
        return {path.parent.name for path in Path("runs").rglob("metrics.json")}

    np.save("labels.npy", noisy)
    expected = int(digits("labels.npy").samples.manipulated.sum())
    first = run("labels.npy")
    Path("moved").mkdir()
    Path("labels.npy").rename("moved/labels.npy")
    assert run("moved/labels.npy") == first
    np.save("moved/labels.npy", noisy.roll(1))
    assert len(run("moved/labels.npy")) == 2
    (path,) = Path("runs").rglob(f"{min(first)}/metrics.json")
    stored = json.loads(path.read_text())
    assert stored["manipulation"] == "LabelsFromFile"
    assert stored["manipulated"] == expected
    assert {"acc_corr", "acc_retain", "acc_manipulated"} <= stored.keys()


@pytest.mark.parametrize("classes", ["10", "100"])
def test_the_settings_of_the_published_files(classes, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["fit", "--config", f"labels_cifar{classes}.yaml", "--print_config"])
    assert not ended.value.code
    (noise,) = [yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["manipulation"]]
    given = {"10": "worse_label", "100": "noisy_label"}[classes]
    expected = {"path": f"data/CIFAR-{classes}_human.pt", "given": given, "truth": "clean_label", "seed": None}
    assert noise == {"class_path": "cmu_lightning.data.LabelsFromFile", "init_args": expected}
