"""Charts as PNG and SVG files, drawn by matplotlib, and only when what they show has changed."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmu_lightning.files import part_of, write_atomically
from cmu_lightning.report.pictures import draw_chart, draw_map
from cmu_lightning.report.pictures.chart import Chart, Map

LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#E5E5E5",
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "cmu_lightning",
}
ENDINGS = ("png", "svg")
MARK = "cmu_lightning picture of "
"""Begins the description inside each file, which goes on with the digest of what is shown."""


def draw(chart: Chart | Map, path: Path) -> bool:
    """Write a chart's PNG and SVG files.

    Args:
        chart: What to show.
        path: Path of the files, without ending.

    Returns:
        Whether they had to be drawn.
    """
    description = MARK + digest(chart)
    files = [path.with_name(f"{path.name}.{ending}") for ending in ENDINGS]
    if all(description.encode() in file.read_bytes() if file.exists() else False for file in files):
        return False
    import matplotlib as mpl

    path.parent.mkdir(parents=True, exist_ok=True)
    with mpl.rc_context(LOOK):
        figure = draw_map.figure_of(chart) if isinstance(chart, Map) else draw_chart.figure_of(chart)
        for file in files:
            part = part_of(file)
            if isinstance(chart, Map) and file.suffix == ".svg":
                write_atomically(file, draw_map.svg_of(chart, description))
                continue
            undated = {"Date": None} if file.suffix == ".svg" else {}
            figure.savefig(part, format=file.suffix[1:], dpi=150, metadata={"Description": description, **undated})
            part.replace(file)
    return True


def digest(chart: Chart | Map) -> str:
    """Of what a chart shows, and of how it is drawn here."""
    shown = json.dumps(asdict(chart), sort_keys=True).encode()
    by = draw_map if isinstance(chart, Map) else draw_chart
    how = [Path(__file__), Path(str(by.__file__))]
    return hashlib.sha256(shown + b"".join(file.read_bytes() for file in how)).hexdigest()[:16]


def remove_stale(folder: Path, current: set[Path]) -> None:
    """Delete pictures of earlier reports whose runs are no more; files of others stay.

    Args:
        folder: With all pictures.
        current: Those that are wanted, without endings.
    """
    for ending in ENDINGS:
        for file in folder.rglob(f"*.{ending}"):
            if file.with_suffix("") not in current and MARK.encode() in file.read_bytes():
                file.unlink()
