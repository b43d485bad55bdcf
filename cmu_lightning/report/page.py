"""One HTML page that holds everything and needs nothing else."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from cmu_lightning import __version__
from cmu_lightning.report.comparing.measures import missing
from cmu_lightning.report.comparing.summarise import Summary
from cmu_lightning.report.pictures.appearance import LEVELS, Style
from cmu_lightning.report.pictures.chart import Chart, Map
from cmu_lightning.report.reading.collect import Skipped
from cmu_lightning.report.tables.table import Table
from cmu_lightning.report.tables.variant import chosen_runs


def page(
    summaries: list[Summary],
    tables: list[list[Table]],
    charts: list[list[Chart]],
    maps: list[Map],
    across: list[Table],
    styles: Mapping[str, Style],
    skipped: list[Skipped],
    runs_dir: Path,
) -> str:
    """The page's text.

    Args:
        summaries: One a variant.
        tables: Tables of each variant.
        charts: Charts of each variant.
        maps: Maps of all of them together.
        across: Tables of all of them together.
        styles: Styles of the methods.
        skipped: What no number comes from.
        runs_dir: Where the runs lie.
    """
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    data = {
        "styles": {method: styles[method] for summary in summaries for method in summary.methods},
        "levels": LEVELS,
        "charts": [[asdict(chart) for chart in of_variant] for of_variant in charts],
        "maps": [asdict(each) for each in maps],
    }
    return templates.get_template("page.html").render(
        variants=[_variant(*each) for each in zip(summaries, tables, charts, strict=True)],
        maps=maps,
        across=across,
        skipped=skipped,
        rule=summaries[0].rule,
        runs_dir=runs_dir,
        version=__version__,
        data=json.dumps(data, separators=(",", ":")).replace("<", "\\u003c"),
        style=Path(__file__).with_name("page.css").read_text(),
        script=Path(__file__).with_name("page.js").read_text(),
    )


def _variant(summary: Summary, tables: list[Table], charts: list[Chart]) -> dict[str, Any]:
    """What its section shows."""
    return {
        "summary": summary,
        "charts": charts,
        "tables": tables,
        "chosen": chosen_runs(summary),
        "missing": missing(summary),
    }
