"""`repair.html`: what `repair` chose and why, as one page that opens offline, with images to look at.

Importing torch and altair takes seconds, so functions import them once there is something to show.
"""

import base64
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cmu_lightning import __version__
from cmu_lightning.deploy.candidate_charts import candidate_charts
from cmu_lightning.deploy.choice import Outcome
from cmu_lightning.deploy.findings import SUSPECTS_FILE, SUSPICIOUS, ClassCounts, Findings, gather, wilson
from cmu_lightning.deploy.repair_story import facts, percent, share, story, warnings
from cmu_lightning.deploy.thumbnails import Thumbnail, thumbnails
from cmu_lightning.files import write_atomically

if TYPE_CHECKING:
    from cmu_lightning.deploy.classifier import Classifier

PAGE = "repair.html"
"""Name of the page's file."""
SHOWN = 24
"""Images that a section shows at most."""
CLASSES = 40
"""Classes that the table shows at most, those that changed most."""
LISTED = 10_000
"""Samples up to which a list is small enough to lie in the page."""
NEXT_LIST = "next_round.csv"
"""Name under which a browser saves the list for the next round."""
MEASURED = {
    "val_acc": "validation accuracy",
    "fit_identified": "flagged labels given",
    "changed": "flagged changed",
    "fit_retain": "other labels given",
}
"""Numbers in the table of candidates, and their headings."""


def write_page(outcome: Outcome, place: Path, classifier: "Classifier | None" = None) -> Path:
    """Write the page on a repair, and return its path.

    Args:
        outcome: What was tried and chosen.
        place: Folder of the page, such as that of the chosen run.
        classifier: The networks before and after with their data; default those of the two runs, from their folders.

    Raises:
        UserError: A part of the two runs is missing, or the suspects cannot be read.
    """
    classifier = classifier or _restore(outcome)
    # The suspects of the chosen run, else of any other candidate.
    found = (run.folder / SUSPECTS_FILE for run in (outcome.chosen, *outcome.candidates))
    findings = gather(classifier, next((path for path in found if path.exists()), None))
    path = place / PAGE
    write_atomically(path, page(outcome, findings))
    return path


def _restore(outcome: Outcome) -> "Classifier":
    """Return the networks of the original and of the chosen run, with their data."""
    from cmu_lightning.deploy.classifier import Classifier
    from cmu_lightning.experiment.restore import restore_data, restore_network

    networks = [restore_network(run.folder) for run in (outcome.original, outcome.chosen)]
    return Classifier(networks, restore_data(outcome.chosen.folder))


def page(outcome: Outcome, findings: Findings) -> str:
    """Return the page's text.

    Args:
        outcome: What was tried and chosen.
        findings: The samples and the predictions for them.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    from cmu_lightning.report.embedded import embed

    here, charts = Path(__file__).parent, candidate_charts(outcome, sum(each.total for each in findings.classes))
    carried = embed([chart.spec for chart in charts], here / "repair_page.css")
    # Whatever comes from files, classes or configs is escaped; what is Markup here is ours.
    templates = Environment(
        loader=FileSystemLoader(here),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("repair_page.html.jinja").render(
        version=__version__,
        setting=outcome.original.metrics["setting"],
        chosen=outcome.chosen,
        folder=shlex.quote(str(outcome.chosen.folder)),
        is_kept=outcome.chosen is outcome.original,
        reason=outcome.reason,
        facts=facts(outcome, findings),
        story=story(outcome, findings),
        warnings=warnings(outcome, findings),
        charts=charts,
        rows=list(_candidate_rows(outcome)),
        headings=_headings(outcome),
        failures=outcome.failures,
        classes=_class_table(findings.classes),
        galleries=_galleries(outcome, findings),
        suspects=len(findings.suspects),
        suspects_file=findings.suspects_file,
        suspicious=SUSPICIOUS,
        list_uri=_list_uri(findings),
        next_list=NEXT_LIST,
        **{name: Markup(text) for name, text in carried._asdict().items()},
    )


def _headings(outcome: Outcome) -> list[str]:
    """Return the headings of the numbers in the table of candidates."""
    return [*MEASURED.values(), *["trusted images right"] * (outcome.original.trusted is not None)]


def _candidate_rows(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield the rows of the table of candidates; the original comes first."""
    told = {each["run"]: each for each in outcome.as_json()["candidates"]}
    for run in (outcome.original, *outcome.candidates):
        of_run = told.get(str(run.folder), {})
        notes = ["chosen"] * (run is outcome.chosen) + ["destroyed"] * of_run.get("destroyed", False)
        yield {
            "name": run.name,
            "numbers": [
                *(percent(run.metrics[name]) if name in run.metrics else "" for name in MEASURED),
                *[share(*run.trusted) if run.trusted else ""] * (outcome.original.trusted is not None),
            ],
            "seconds": f"{run.metrics['seconds']:.1f}",
            "is_chosen": run is outcome.chosen,
            "note": ", ".join([*notes, *filter(None, [of_run.get("refused")])]),
        }


# ---- Classes ----


class ClassRow(NamedTuple):
    """A row of the table of classes.

    Args:
        counts: What was counted.
        before: Recall of the original with its interval, as text; empty where there are no validation samples.
        after: That of the repaired model.
        ends: Recalls and ends of their intervals: before, its low and high end, after, its low and high end.
    """

    counts: ClassCounts
    before: str
    after: str
    ends: tuple[float, ...]

    @property
    def change(self) -> str:
        """The change in points of percent, with its sign."""
        return f"{100 * self.counts.change:+.1f}" if self.counts.change else "0.0"


class ClassTable(NamedTuple):
    """The classes that changed most, and how many others there are."""

    rows: list[ClassRow]
    left_out: int


def _class_table(classes: list[ClassCounts]) -> ClassTable:
    """Return the table of classes, sorted by how much they changed; classes without validation samples come last."""
    ordered = sorted(classes, key=lambda each: (not each.total, -abs(each.change)))
    return ClassTable([_class_row(each) for each in ordered[:CLASSES]], len(ordered[CLASSES:]))


def _class_row(counts: ClassCounts) -> ClassRow:
    """Return the row of a class."""
    if not counts.total:
        return ClassRow(counts, "", "", ())
    ends = [(right / counts.total, *wilson(right, counts.total)) for right in (counts.before, counts.after)]
    return ClassRow(counts, share(counts.before, counts.total), share(counts.after, counts.total), (*ends[0], *ends[1]))


# ---- Images ----


class Picture(NamedTuple):
    """An image of a gallery, with its description.

    Args:
        thumbnail: The picture.
        name: Name of its file, or its index.
        label: Class that was given.
        before: Class that the original predicts.
        after: Class that the chosen model predicts.
        suspicion: What PURE says about an image that is not flagged; empty if nothing.
    """

    thumbnail: Thumbnail
    name: str
    label: str
    before: str
    after: str
    suspicion: str


class Gallery(NamedTuple):
    """A section of images.

    Args:
        key: Identifies the section on the page.
        title: What the images have in common.
        note: Why they are shown.
        total: How many such images there are.
        pictures: Those that are shown.
    """

    key: str
    title: str
    note: str
    total: int
    pictures: list[Picture]


def _galleries(outcome: Outcome, findings: Findings) -> list[Gallery]:
    """Return the sections of images."""
    is_kept = outcome.chosen is outcome.original
    flagged = findings.flagged.nonzero().flatten().tolist()
    # Evenly over all flagged images, because they are often sorted by class.
    spread = [flagged[len(flagged) * number // SHOWN] for number in range(SHOWN)] if len(flagged) > SHOWN else flagged
    model = "original" if is_kept else "repaired model"
    galleries = [
        ("flagged", "Flagged images", "What the list or the detector flagged.", len(flagged), spread),
        (
            "suspects",
            "Further suspects",
            f"Not flagged, but manipulated with a probability of at least {SUSPICIOUS:.0%} according to PURE, the most "
            "likely first. Check them before the next round.",
            len(findings.suspects),
            findings.suspects,
        ),
        (
            "changed",
            "Other training images whose prediction changed",
            "Not flagged; those about which both models are most certain come first. A change is good where the given "
            "label is wrong, and damage where it is right.",
            len(findings.changed),
            findings.changed.tolist(),
        ),
        (
            "kept",
            "Flagged images that keep their flagged label",
            f"The {model} still believes these labels, the most certain first: either the label is right, or the "
            "manipulation is still in the model.",
            len(findings.kept),
            findings.kept.tolist(),
        ),
    ]
    absent = {"suspects"} if findings.suspicions is None else set()
    absent |= {"changed"} if is_kept else set()
    return [
        Gallery(key, title, note, total, _pictures(findings, rows[:SHOWN]))
        for key, title, note, total, rows in galleries
        if key not in absent
    ]


def _pictures(findings: Findings, rows: list[int]) -> list[Picture]:
    """Return images with their descriptions."""
    return [_picture(findings, *each) for each in zip(rows, thumbnails(findings.data, rows), strict=True)]


def _picture(findings: Findings, row: int, thumbnail: Thumbnail) -> Picture:
    """Return an image with its description."""
    classes = findings.labels[row], findings.before.classes[row], findings.after.classes[row]
    label, before, after = (findings.class_name(int(each)) for each in classes)
    said = (findings.suspicions or {}).get(row)
    suspicion = ""
    if said is not None and said.suggested is not None and not findings.flagged[row]:
        suggested = findings.class_name(said.suggested)
        suspicion = f"suspect {said.probability:.0%}" + f": {suggested}?" * (suggested != after)
    name = findings.name(row)
    return Picture(thumbnail, name if isinstance(name, str) else f"#{name}", label, before, after, suspicion)


def _list_uri(findings: Findings) -> str | None:
    """Return the list for the next round as a data URI; None if there are no suspects, or too many for a page."""
    if not findings.suspects or int(findings.flagged.sum()) + len(findings.suspects) > LISTED:
        return None
    return f"data:text/csv;charset=utf-8;base64,{base64.b64encode(findings.next_list().encode()).decode()}"
