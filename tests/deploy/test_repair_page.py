"""The page of a repair, on images whose predictions are written into their pixels."""

import base64
import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cmu_lightning.data import DigitsDataModule, Flagged, FolderDataModule, Poison, TensorDataModule, Unknown
from cmu_lightning.deploy.candidate_charts import candidate_charts
from cmu_lightning.deploy.choice import Candidate, Outcome
from cmu_lightning.deploy.classifier import Classifier
from cmu_lightning.deploy.findings import ClassCounts, Findings, gather, wilson
from cmu_lightning.deploy.finished import FinishedRun
from cmu_lightning.deploy.repair_page import CLASSES, SHOWN, _class_table, write_page
from cmu_lightning.deploy.repair_story import facts, story, warnings
from cmu_lightning.deploy.thumbnails import LARGEST, thumbnails
from cmu_lightning.errors import UserError
from tests.helpers.finished import run_folder

STEP = 10
"""Grey levels between two classes, and between two steps of certainty."""
BEFORE, AFTER, CERTAINTY = 0, 1, 2
"""Pixels of the first row that say what the original and the repaired model predict, and how surely."""


class ReadsPixel(torch.nn.Module):
    """A network that predicts the class which a pixel of the first row says."""

    def __init__(self, column: int, num_classes: int) -> None:
        super().__init__()
        self.column, self.num_classes = column, num_classes

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = ((images[:, 0, 0] * 0.5 + 0.5) * 255 / STEP).round()
        logits = torch.nn.functional.one_hot(pixels[:, self.column].long(), self.num_classes)
        return logits * (1 + pixels[:, CERTAINTY : CERTAINTY + 1])


def write_arrays(path: Path, train: list[tuple[int, ...]], validation: list[tuple[int, ...]] = ()) -> None:
    """Write images whose samples are given as (label, class before, class after, certainty)."""
    arrays = {}
    for split, rows in {"train": train, "val": validation}.items():
        if rows:
            said = np.array(rows)
            images = np.zeros((len(said), 8, 8), np.uint8)
            images[:, 0, :3] = said[:, 1:] * STEP
            arrays |= {f"{split}_images": images, f"{split}_labels": said[:, 0]}
    np.savez(path, **arrays)


TRAIN = [
    *[(0, 0, 0, 5)] * 3,  # 0 to 2: nothing happens
    (0, 0, 1, 9),  # 3: flagged, and repaired
    (0, 0, 0, 4),  # 4: flagged, and keeps its label
    (0, 0, 0, 8),  # 5: the same, more certain
    (1, 1, 2, 3),  # 6: lost
    (1, 2, 1, 7),  # 7: gained
    (2, 2, 2, 5),
    (0, 0, 2, 6),  # 9: a suspect, lost
]
FLAGGED = [3, 4, 5]
VALIDATION = [*[(0, 0, 0, 5)] * 4, (1, 1, 2, 5), (1, 1, 1, 5), (2, 2, 2, 5), (2, 1, 2, 5)]
SUSPECTS = """index,given_label,probability,suggested_label
3,0,1.0000,1
4,0,1.0000,2
5,0,1.0000,2
9,0,0.9000,1
2,0,0.5000,1
1,0,0.4999,1
0,0,0.0000,
6,1,0.0000,
7,1,0.0000,
8,2,0.0000,
"""


def make(num_classes: int = 3, flagged: list[int] = FLAGGED, **more: Any) -> Classifier:
    """Return the networks before and after, with the data of `arrays.npz`."""
    Path("list.csv").write_text("\n".join(["index", *map(str, flagged)]))
    data = TensorDataModule(Unknown(), "arrays.npz", num_classes=num_classes, discovery=Flagged("list.csv"), **more)
    data.setup()
    return Classifier([ReadsPixel(BEFORE, num_classes), ReadsPixel(AFTER, num_classes)], data)


def run(name: str, method: str, **metrics: Any) -> Candidate:
    """Return a candidate without files."""
    numbers = {"val_acc": 0.8, "changed": 0.5, "selection_score": 0.7, "fit_identified": 0.5, "fit_retain": 0.9}
    about = {"setting": "mine", "method": method, "hyperparameters": {}, "hash": name, "deleted": 3, "seconds": 1.5}
    return Candidate(name, Path("runs/mine") / method / name, about | numbers | metrics)


def outcome_of(kept: bool = False, **more: Any) -> Outcome:
    original, others = run("the original", "Keep"), [run("PURE", "PURE"), run("CF", "CF", val_acc=0.1, changed=1.0)]
    return Outcome(original, others, original if kept else others[0], "It has the best score.", more)


def find(classifier: Classifier, suspects: str | None = SUSPECTS) -> Findings:
    if suspects is None:
        return gather(classifier, None)
    Path("suspects.csv").write_text(suspects)
    return gather(classifier, Path("suspects.csv"))


@pytest.fixture
def classifier() -> Classifier:
    write_arrays(Path("arrays.npz"), TRAIN, VALIDATION)
    return make()


APART = ("script", "style", "title")
"""Tags whose content is no text of the page's body."""


class Reader(HTMLParser):
    """The text of a page's sections, its links, its pictures, and all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: dict[str, str] = {"": ""}
        self.links: dict[str, dict[str, str]] = {}
        self.pictures: list[str] = []
        self.attributes: set[str] = set()
        self.inside = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.attributes |= given.keys()
        self.inside = given["id"] if tag == "section" else tag if tag in APART else self.inside
        self.sections[self.inside] = self.sections.get(self.inside, "") + " "
        if tag == "a":
            self.links[given["href"]] = given
        if tag == "img":
            self.pictures.append(given["src"])

    def handle_endtag(self, tag):
        self.inside = "" if tag in ("section", *APART) else self.inside

    def handle_data(self, data):
        self.sections[self.inside] += data

    def words(self, section: str) -> str:
        return " ".join(self.sections[section].split())


def read(outcome: Outcome, classifier: Classifier) -> Reader:
    path = write_page(outcome, Path("out"), classifier)
    assert path == Path("out/repair.html")
    return Reader(path.read_text())


# ---- What is found ----


def test_wilsons_interval_solves_its_equation():
    """Its ends are the fractions p at which the observed one is 1.96 standard errors of p away."""
    for right, total in ((0, 7), (1, 7), (50, 60), (7, 7), (300, 1000)):
        low, high = wilson(right, total)
        assert 0 <= low <= right / total <= high <= 1
        for end in (low, high):
            if 0 < end < 1:
                assert abs(right / total - end) == pytest.approx(1.959964 * (end * (1 - end) / total) ** 0.5, rel=1e-9)
    assert wilson(0, 7)[0] == 0
    assert wilson(7, 7)[1] == 1
    assert wilson(0, 0) == (0, 1)


def test_which_images_changed_kept_their_label_or_are_suspects(classifier):
    found = find(classifier)
    assert found.kept.tolist() == [5, 4], "the most certain first"
    assert found.changed.tolist() == [7, 9, 6]
    assert found.suspects == [9, 2], "neither flagged nor under a half"
    assert find(classifier, None).suspects == []


def test_counts_of_each_class(classifier):
    assert find(classifier).classes == [
        ClassCounts("0", flagged=3, total=4, before=4, after=4),
        ClassCounts("1", flagged=0, total=2, before=2, after=1),
        ClassCounts("2", flagged=0, total=2, before=1, after=2),
    ]


def test_a_class_is_worse_where_the_intervals_do_not_meet():
    assert ClassCounts("", 0, 100, 90, 70).is_worse
    assert not ClassCounts("", 0, 10, 9, 7).is_worse
    assert not ClassCounts("", 0, 100, 70, 90).is_worse


@pytest.mark.parametrize(
    "text",
    ["", "index,given_label\n3,0\n", "index,probability,suggested_label\n77,0.5,1\n", SUSPECTS.replace("0.9000", "x")],
)
def test_suspects_that_cannot_be_read(classifier, text):
    if not text:
        assert find(classifier, text).suspicions == {}
        return
    with pytest.raises(UserError, match=r"suspects.csv is damaged \(.*\): delete the metrics.json"):
        find(classifier, text)


def test_the_list_for_the_next_round_flags_what_was_flagged_and_the_suspects(classifier):
    Path("next.csv").write_text(find(classifier).next_list())
    assert torch.nonzero(Flagged("next.csv").flagged(10, None)).flatten().tolist() == [2, 3, 4, 5, 9]
    rows = list(csv.DictReader(Path("next.csv").read_text().splitlines()))
    assert [row["status"] for row in rows] == ["flagged"] * 3 + ["suspected"] * 2
    assert rows[3] == {
        **{"index": "9", "is_label_issue": "true", "status": "suspected", "probability": "0.9000"},
        **{"given_label": "0", "suggested_label": "1"},
    }
    corrected = Path("next.csv").read_text().replace("2,true", "2,false")
    Path("next.csv").write_text(corrected)
    assert torch.nonzero(Flagged("next.csv").flagged(10, None)).flatten().tolist() == [3, 4, 5, 9]


def test_indices_count_stored_samples_where_some_are_held_out():
    write_arrays(Path("arrays.npz"), TRAIN * 2)
    classifier = make(val_size=5)
    data = classifier.data
    text = "index,given_label,probability,suggested_label\n"
    rows = [row for row in (~data.held).nonzero().flatten().tolist() if row not in FLAGGED]
    found = find(classifier, text + f"{rows[-1]},0,0.9,1\n")
    Path("next.csv").write_text(found.next_list())
    assert torch.nonzero(Flagged("next.csv").flagged(20, None)).flatten().tolist() == [*FLAGGED, rows[-1]]
    assert sum(each.total for each in found.classes) == len(data.validated) > 0


# ---- Sentences ----


def test_what_is_told(classifier):
    found = find(classifier)
    assert story(outcome_of(), found) == [
        "The original classifies 87.5% (52.9 to 97.8) of 8 validation images correctly, the repaired model 87.5% "
        "(52.9 to 97.8).",
        "The original predicts the flagged label for 3 of 3 flagged images, the repaired model for 2.",
        "The repaired model changes the prediction for 3 of 7 other training images (PURE suspects 1 of them): 1 "
        "now get their given label and 2 no longer do, which is right where that label is wrong.",
    ]
    assert facts(outcome_of(), found)[1:] == [
        ("3 → 2", "of 3 flagged images get the flagged label"),
        ("3", "of 7 other training images have another prediction"),
        ("2", "further suspects, found by PURE"),
    ]
    assert warnings(outcome_of(), found) == []


def test_of_an_original_that_is_kept_nothing_changed_is_told(classifier):
    classifier.networks[1] = classifier.networks[0]
    found = find(classifier)
    assert story(outcome_of(kept=True), found) == [
        "The original classifies 87.5% (52.9 to 97.8) of 8 validation images correctly.",
        "The original predicts the flagged label for 3 of 3 flagged images.",
    ]
    assert [number for number, _ in facts(outcome_of(kept=True), found)] == ["87.5%", "3", "2"]


def test_what_to_know_before_it_is_used(monkeypatch):
    losses = [(0, 0, 1, 5)] * 30 + [(1, 1, 1, 5)] * 30
    write_arrays(Path("arrays.npz"), TRAIN, losses)
    told = {"notes": ["warning: it is doubtful"], "not_tried": ["BadT"]}
    as_json = Outcome.as_json
    monkeypatch.setattr(Outcome, "as_json", lambda outcome: as_json(outcome) | told)
    assert warnings(outcome_of(Scrub="killed"), find(make(), None)) == [
        "It is doubtful.",
        "1 class is worse by more than noise explains: 0 (100.0% to 0.0%).",
        "1 class has no validation samples: 2.",
        "1 candidate failed: the table says why.",
        "Not tried for lack of time: BadT.",
        "No candidate wrote suspects.csv, as PURE does: no search for further bad samples was made.",
    ]


# ---- The page ----


@pytest.fixture
def suspects() -> Path:
    """Write what PURE leaves in its run's folder."""
    path = Path("runs/mine/PURE/PURE/suspects.csv")
    path.parent.mkdir(parents=True)
    path.write_text(SUSPECTS)
    return path


@pytest.mark.usefixtures("suspects")
def test_sections_and_their_images(classifier):
    page = read(outcome_of(Scrub="it was <killed>"), classifier)
    assert page.words("title") == "mine: repaired by PURE"
    sections = [name for name in page.sections if name and name not in APART]
    assert sections == ["candidates", "classes", "flagged", "suspects", "changed", "kept", "next"]
    assert "#5 labelled 0 predicted 0 #4 labelled 0 predicted 0" in page.words("kept")
    assert "#9 labelled 0 0 → 2 suspect 90%: 1? #2 labelled 0 predicted 0 suspect 50%: 1?" in page.words("suspects")
    assert "#7 labelled 1 2 → 1 #9 labelled 0" in page.words("changed")
    assert "PURE 80.0% 50.0% 50.0% 90.0% 1.5 chosen" in page.words("candidates")
    assert "CF 10.0% 50.0% 100.0% 90.0% 1.5 destroyed" in page.words("candidates")
    assert "Scrub failed: it was <killed>" in page.words("candidates")
    rows = page.words("classes")
    assert "1 100.0% (34.2 to 100.0) 50.0% (9.5 to 90.5) -50.0 2 0" in rows
    assert rows.index(" 1 100.0%") < rows.index(" 2 50.0%") < rows.index(" 0 100.0%"), "the largest change first"
    assert len(page.pictures) == 3 + 2 + 3 + 2
    assert not {name for name in page.attributes if name.startswith("on")}
    assert "python -m cmu_lightning predict runs/mine/PURE/PURE --out" in page.words("next")


@pytest.mark.usefixtures("suspects")
def test_the_button_holds_the_list(classifier):
    (link,) = (link for href, link in read(outcome_of(), classifier).links.items() if href.startswith("data:"))
    assert link["download"] == "next_round.csv"
    kind, _, content = link["href"].partition(",")
    assert kind == "data:text/csv;charset=utf-8;base64"
    assert base64.b64decode(content).decode() == find(classifier).next_list()


def test_a_list_that_is_too_long_for_a_page(classifier, suspects, monkeypatch):
    monkeypatch.setattr("cmu_lightning.deploy.repair_page.LISTED", 4)
    page = read(outcome_of(), classifier)
    assert not [href for href in page.links if href.startswith("data:")]
    said = f"--data.discovery Flagged --data.discovery.path {suspects} --data.discovery.threshold 0.5"
    assert said in page.words("next")


def test_without_suspects_and_with_the_original_kept(classifier):
    page = read(outcome_of(kept=True), classifier)
    assert page.words("title") == "mine: the original is kept"
    assert {"flagged", "kept"} < page.sections.keys()
    assert not {"suspects", "changed"} & page.sections.keys()
    assert "after" not in page.words("classes")
    assert not [href for href in page.links if href.startswith("data:")]


def test_without_validation_samples():
    write_arrays(Path("arrays.npz"), TRAIN)
    outcome = outcome_of()
    for each in (outcome.original, *outcome.candidates):
        each.metrics["val_majority"] = 0.5
    page = read(outcome, make(val_size=0))
    assert "There are no validation samples, so no accuracy is known" in page.words("")
    assert page.words("classes").count("no validation samples") == 3
    assert len(candidate_charts(outcome, validation=0)) == 1


def test_of_many_images_some_are_shown_and_all_are_counted():
    write_arrays(Path("arrays.npz"), [(0, 0, 1, at % 20) for at in range(100)] + [(1, 1, 1, 5)])
    page = read(outcome_of(), make(2, [*range(50)], val_size=0))
    assert f"{SHOWN} of 50 are shown" in page.words("flagged")
    assert f"{SHOWN} of 50 are shown" in page.words("changed")
    assert "There are none" in page.words("kept")
    numbers = [int(each) for each in re.findall(r"(\d+) labelled", page.words("flagged"))]
    assert numbers == [50 * at // SHOWN for at in range(SHOWN)], "evenly over all"


def test_of_many_classes_those_that_changed_most_are_shown():
    classes = [ClassCounts(str(at), 0, 100, 50, 50 + (at - 30)) for at in range(60)] + [ClassCounts("none", 1, 0, 0, 0)]
    table = _class_table(classes)
    assert [row.counts.name for row in table.rows][:3] == ["0", "1", "59"]
    assert (len(table.rows), table.left_out) == (CLASSES, 21)
    assert _class_table(classes[-2:]).rows[-1].counts.name == "none"


EVIL, FORMULA = "<script>problems.push('ran')<", '=1+"<b>'


def named_images() -> Classifier:
    """Return networks that call each of two classes the other one, and images with evil names, one of them flagged."""
    for split in ("train", "val"):
        for level, name in enumerate((EVIL, FORMULA)):
            for at in range(4):
                pixels = np.full((8, 8), 120, np.uint8)
                pixels[0, :3] = np.array([level, 1 - level, 5]) * STEP
                path = Path("images", split, name, f"{FORMULA} & {at}.png")
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    Path("list.csv").write_text(csv_text(["name"], [f"{EVIL}/{FORMULA} & 0.png"]))
    data = FolderDataModule(Unknown(), "images", grey=True, discovery=Flagged("list.csv"))
    data.setup()
    return Classifier([ReadsPixel(BEFORE, 2), ReadsPixel(AFTER, 2)], data)


def csv_text(*rows: list[Any]) -> str:
    """Return rows as a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def test_names_of_files_and_classes_are_text():
    """A name that begins like a formula is no formula in the list, and is still read back."""
    classifier = named_images()
    data, flagged, suspect = classifier.data, f"{EVIL}/{FORMULA} & 0.png", f"{FORMULA}/{FORMULA} & 2.png"
    assert data.classes == [EVIL, FORMULA]
    header = ["name", "given_label", "probability", "suggested_label"]
    found = find(classifier, csv_text(header, [f"./{suspect}", 1, "0.8", 0]))
    assert [found.name(row) for row in found.suspects] == [suspect]
    Path("next.csv").write_text(found.next_list())
    listed = torch.nonzero(Flagged("next.csv").flagged(8, data.names)).flatten()
    assert [data.names[row] for row in listed] == [flagged, suspect]
    cells = [cell for row in csv.reader(found.next_list().splitlines()) for cell in row]
    assert f"'{FORMULA}" in cells
    assert not [cell for cell in cells if cell.startswith("=")]
    written = write_page(outcome_of(**{EVIL: EVIL}), Path("out"), classifier).read_text()
    page = Reader(written)
    assert f"{flagged} labelled {EVIL} {EVIL} → {FORMULA}" in page.words("flagged")
    assert EVIL in page.words("classes")
    assert EVIL not in written.partition('<script id="vega">')[0]


def test_the_page_of_runs_on_disk(unlearned):
    """Its numbers are those of metrics.json."""
    original, own = (FinishedRun.open(run_folder(unlearned, method)) for method in ("Original", "CF"))
    before = own.metrics | original.metrics | {"changed": 0.0}
    kept, chosen = Candidate("the original", original.folder, before), Candidate("CF", own.folder, own.metrics)
    page = Reader(write_page(Outcome(kept, [chosen], chosen, "why", {}), Path("out")).read_text())
    told = page.words("")
    for metrics in (before, own.metrics):
        assert f"{metrics['val_acc']:.1%} (" in told
    fit = round(own.metrics["fit_identified"] * own.metrics["deleted"])
    assert f"the repaired model for {fit}." in told
    assert "no search for further bad samples was made" in told
    assert (
        page.words("flagged").count("labelled 0")
        == own.metrics["deleted"]
        == len(re.findall("labelled", page.words("flagged")))
    )


# ---- Pictures ----


def decoded(source: str) -> Image.Image:
    kind, _, content = source.partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(content)))
    assert kind == f"data:image/{image.format.lower()}"
    return image


@pytest.mark.parametrize(
    ("shape", "kind", "size", "shown"),
    [
        ((8, 8, 1), "PNG", (8, 8), (96, 96)),
        ((32, 32, 3), "PNG", (32, 32), (96, 96)),
        ((28, 20, 1), "PNG", (20, 28), (60, 84)),
        ((64, 64, 3), "JPEG", (64, 64), (64, 64)),
        ((224, 112, 3), "JPEG", (48, 96), (48, 96)),
        ((16, 16, 2), "PNG", (16, 16), (96, 96)),
    ],
)
def test_sizes_of_pictures(shape, kind, size, shown):
    pixels = np.random.default_rng(0).integers(0, 256, (20, *shape), dtype=np.uint8)
    np.savez("arrays.npz", train_images=pixels, train_labels=np.arange(20) % 2)
    half = [0.5] * shape[-1]
    Path("list.csv").write_text("index\n1\n")
    data = TensorDataModule(Unknown(), "arrays.npz", mean=half, std=half, discovery=Flagged("list.csv"))
    data.setup()
    (made,) = thumbnails(data, [3])
    image = decoded(made.source)
    assert (image.format, image.size, (made.width, made.height)) == (kind, size, shown)
    assert made.is_enlarged == (kind == "PNG")
    assert max(made.width, made.height) <= LARGEST
    if kind == "PNG":  # without loss
        stored = data.samples.images[3].numpy()
        expected = stored if shape[-1] == 3 else stored.mean(-1).round()
        assert np.array_equal(np.asarray(image), expected.squeeze())


def test_a_picture_shows_the_trigger_that_was_trained_on():
    data = DigitsDataModule(Poison(size=36))
    data.setup()
    manipulated = int(torch.nonzero(data.samples.manipulated)[0])
    clean = int(torch.nonzero(~data.samples.manipulated)[0])
    with_trigger, without = (np.asarray(decoded(each.source)) for each in thumbnails(data, [manipulated, clean]))
    assert (with_trigger[-3:, -3:] == 255).all()
    assert np.array_equal(without, data.samples.images[clean, ..., 0].numpy())
    assert list(thumbnails(data, [])) == []


def test_a_page_of_large_noise_stays_small():
    """Noise is what JPEG makes the largest files of."""
    pixels = np.random.default_rng(0).integers(0, 256, (60, 224, 224, 3), dtype=np.uint8)
    pixels[:, 0, :3] = np.array([0, 1, 5])[:, None] * STEP
    np.savez("arrays.npz", train_images=pixels, train_labels=np.repeat([0, 1], 30))
    data_of = {"mean": [0.5] * 3, "std": [0.5] * 3, "val_size": 0}
    page = write_page(outcome_of(), Path("out"), make(2, [*range(25)], **data_of))
    assert page.stat().st_size < 2_000_000
