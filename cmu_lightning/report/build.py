"""From runs to a report's files."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.report import tables
from cmu_lightning.report.aggregate import Comparison
from cmu_lightning.report.drawing import draw, file_name, is_figure, remove_stale
from cmu_lightning.report.field import field_table, published_tables
from cmu_lightning.report.figures import Figure, figures, regime_map
from cmu_lightning.report.load import Runs
from cmu_lightning.report.page import Maps, Section, page
from cmu_lightning.report.regimes import families, regimes
from cmu_lightning.report.table import ENDINGS, Table, write
from cmu_lightning.report.variants import compare


@dataclass(frozen=True)
class Drawing:
    """A figure with its specification, its subject, and the path of its files within a report, without suffix."""

    figure: Figure
    spec: dict[str, Any]
    setting: str
    path: Path


@dataclass(frozen=True)
class Report:
    """The content of a report.

    Args:
        comparisons: One per variant.
        drawings: All figures.
        tables: All tables.
        text: The page.
    """

    comparisons: list[Comparison]
    drawings: list[Drawing]
    tables: list[Table]
    text: str


def build(runs: Runs, rule: str) -> Report:
    """Return the report on runs.

    Args:
        runs: The runs, at least one; figures may add to what was skipped.
        rule: The rule by which hyperparameters are chosen.
    """
    comparisons = compare(runs.table, rule)
    sections = []
    for comparison in comparisons:
        own = figures(comparison, runs)
        sections.append(Section(comparison, own, [_spec(figure) for figure in own], tables.tables(comparison)))
    found = regimes(comparisons)
    drawn = [regime_map(each) for each in found]
    across = [tables.regime_table(found), *tables.discovery_tables(found)] if found else []
    if everywhere := families(comparisons):
        across += [field_table(everywhere), *published_tables(everywhere)]
    maps = Maps(drawn, [_spec(figure) for figure in drawn], [each.data for each in found], across)
    everything = tables.together((section.comparison.name, section.tables) for section in sections)
    everything += [*across, tables.skipped_table(runs.skipped)]
    text = page(sections, maps, runs.skipped, runs.source)
    return Report(comparisons, _drawings(sections, maps), everything, text)


def _spec(figure: Figure) -> dict[str, Any]:
    """Return a figure's specification; it is Vega-Lite by construction, and validating it would take too long."""
    spec: dict[str, Any] = figure.chart.to_dict(validate=False)
    return spec


def _drawings(sections: list[Section], maps: Maps) -> list[Drawing]:
    """Return all figures, in a folder for each variant and one for the maps of each data set and network."""
    groups = [(section.comparison.name, list(zip(section.figures, section.specs, strict=True))) for section in sections]
    for data in dict.fromkeys(maps.data):
        of_all = zip(maps.figures, maps.specs, maps.data, strict=True)
        groups.append((data, [(figure, spec) for figure, spec, each in of_all if each == data]))
    folders = distinct_names([name for name, _ in groups])
    made = []
    for folder, (setting, own) in zip(folders, groups, strict=True):
        names = distinct_names([figure.name for figure, _ in own])
        made += [
            Drawing(figure, spec, setting, Path("figures") / folder / name)
            for name, (figure, spec) in zip(names, own, strict=True)
        ]
    return made


def distinct_names(said: list[str]) -> list[str]:
    """Return a file name for each text, numbered if two are equal.

    Args:
        said: Any texts.
    """
    taken: list[str] = []
    for each in said:
        name = file_name(each)
        numbered = (name if at == 1 else f"{name}_{at}" for at in count(1))
        taken.append(next(candidate for candidate in numbered if candidate not in taken))
    return taken


Track = Callable[[list[Drawing]], Iterable[Drawing]]
"""Yields figures one by one and shows how many are done; `list` shows nothing."""


def refuse_foreign(out: Path) -> None:
    """Make sure that a report replaces nothing but an earlier one.

    Args:
        out: Where the report is to be.

    Raises:
        UserError: The folder holds something else.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file: give a folder")
    for file in sorted(out.rglob("*")) if out.exists() else ():
        within = file.relative_to(out)
        # W&B's client keeps its own files there.
        if file.is_dir() or within.parts[0] == "wandb" or _is_of_a_report(file, within):
            continue
        raise UserError(
            f"--out {out} holds {within}, which no earlier report has written: give a new or an empty folder"
        )


def _is_of_a_report(file: Path, within: Path) -> bool:
    if file.name.startswith(".") and file.name.endswith(".part"):
        return True  # of a report that was interrupted
    if within.parts[0] == "tables":
        return len(within.parts) == 2 and file.stem in tables.NAMES and file.suffix[1:] in ENDINGS
    if within == Path("index.html"):
        return b"cmu_lightning" in file.read_bytes()
    return within.parts[0] == "figures" and is_figure(file)


def write_report(report: Report, out: Path, paper: bool = False, track: Track = list) -> int:
    """Write page, tables and figures, and return how many figures were drawn.

    Args:
        report: The report.
        out: Where it goes.
        paper: Whether figures are for a paper: serif, and without titles and notes.
        track: Shows progress while figures are drawn.

    Raises:
        UserError: The folder cannot be written.
    """
    try:
        write_page_and_tables(report, out)
        return write_figures(report, out, paper, track)
    except OSError as error:
        raise UserError(f"the report cannot be written to {out} ({error}): give another --out") from error


def write_page_and_tables(report: Report, out: Path) -> None:
    """Write everything except the figures, and delete tables of an earlier report that this one does not have.

    Args:
        report: The report.
        out: Where it goes.
    """
    for made in report.tables:
        write(made, out / "tables")
    for name in set(tables.NAMES) - {made.name for made in report.tables}:
        for ending in ENDINGS:
            (out / "tables" / f"{name}.{ending}").unlink(missing_ok=True)
    write_atomically(out / "index.html", report.text)


def write_figures(report: Report, out: Path, paper: bool = False, track: Track = list) -> int:
    """Draw the changed figures, delete those without runs, and return how many were drawn.

    Args:
        report: The report.
        out: Where it goes.
        paper: Whether figures are for a paper: serif, and without titles and notes.
        track: Shows progress.
    """
    drawn = sum(draw(each.figure, each.spec, each.setting, out / each.path, paper) for each in track(report.drawings))
    remove_stale(out / "figures", {out / each.path for each in report.drawings})
    return drawn
