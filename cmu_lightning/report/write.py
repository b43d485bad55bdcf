"""From runs to a report's files."""

from collections.abc import Callable, Iterable
from itertools import count
from pathlib import Path
from typing import NamedTuple

from cmu_lightning.files import write_atomically
from cmu_lightning.report.comparing.measures import missing
from cmu_lightning.report.comparing.regimes import regimes
from cmu_lightning.report.comparing.summarise import Summary
from cmu_lightning.report.comparing.variants import variants
from cmu_lightning.report.file_name import file_name
from cmu_lightning.report.page import page
from cmu_lightning.report.pictures.appearance import styles
from cmu_lightning.report.pictures.chart import Chart, Map
from cmu_lightning.report.pictures.draw import draw, remove_stale
from cmu_lightning.report.pictures.regime_map import regime_map, regime_table
from cmu_lightning.report.pictures.variant import pictures
from cmu_lightning.report.reading.collect import Result, Skipped
from cmu_lightning.report.tables.discoveries import tables as discoveries
from cmu_lightning.report.tables.table import Table, write
from cmu_lightning.report.tables.variant import chosen_runs, tables, together

Charts = dict[str, list[Chart | Map]]
"""By the folder that a variant's figures go to, or the maps of a data set and network."""


class Written(NamedTuple):
    """What a report holds."""

    charts: Charts
    tables: list[Table]


def write_page_and_tables(
    results: list[Result], skipped: list[Skipped], runs_dir: Path, out: Path, rule: str, source: Path | None = None
) -> Written:
    """Write all but the figures.

    Args:
        results: The runs.
        skipped: What no number comes from; more may be added.
        runs_dir: Where the runs lie.
        out: Where the report goes.
        rule: By which hyperparameters are chosen.
        source: What the page says that runs were read from; default `runs_dir`.

    Returns:
        What the figures show and what the tables hold.
    """
    summaries = [Summary(variant, rule) for variant in variants(results)]
    looks = styles(method for summary in summaries for method in summary.methods)
    charts = [pictures(summary, runs_dir, looks, skipped) for summary in summaries]
    found = regimes(summaries)
    maps, across = [regime_map(each) for each in found], [regime_table(found), *discoveries(found)] if found else []
    own = [tables(summary) for summary in summaries]
    named = zip(summaries, own, strict=True)
    made = [(each.variant.name, [*shown, chosen_runs(each), _missing(each)]) for each, shown in named]
    everything = [*together(made), *across, _skipped(skipped)]
    for table in everything:
        write(table, out / "tables")
    write_atomically(out / "index.html", page(summaries, own, charts, maps, across, looks, skipped, source or runs_dir))
    return Written(_by_folder(summaries, charts, maps), everything)


def write_figures(
    charts: Charts,
    out: Path,
    track: Callable[[list[tuple[Chart | Map, Path]]], Iterable[tuple[Chart | Map, Path]]],
) -> int:
    """Draw what has changed, and delete what earlier reports have left.

    Args:
        charts: What the figures show.
        out: Where the report goes.
        track: Shows progress.

    Returns:
        How many had to be drawn.
    """
    figures = [(chart, out / "figures" / folder / chart.name) for folder, each in charts.items() for chart in each]
    drawn = sum(draw(chart, path) for chart, path in track(figures))
    remove_stale(out / "figures", {path for _, path in figures})
    return drawn


def _by_folder(summaries: list[Summary], charts: list[list[Chart]], maps: list[Map]) -> Charts:
    """A folder for each variant, and for each data set and network that has maps."""
    shown: list[tuple[str, list[Chart | Map]]] = [
        (summary.variant.name, [*own]) for summary, own in zip(summaries, charts, strict=True)
    ]
    shown += [(setting, [each for each in maps if each.setting == setting]) for setting in {m.setting: 0 for m in maps}]
    taken: Charts = {}
    for full, own in shown:
        name = file_name(full)
        taken[next(each for at in count(1) if (each := name if at == 1 else f"{name}_{at}") not in taken)] = own
    return taken


def _missing(summary: Summary) -> Table:
    return Table(
        "missing",
        "What is missing or in doubt",
        "Nothing is filled in.",
        ["gap"],
        [[each] for each in missing(summary)],
    )


def _skipped(skipped: list[Skipped]) -> Table:
    return Table(
        "skipped", "Skipped", "No number comes from these.", ["path", "reason"], [list(each) for each in skipped]
    )
