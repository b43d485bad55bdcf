"""What a picture shows, as plain data: matplotlib draws it into files, and the page's script draws the same."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from cmu_lightning.report.comparing.summarise import Spread
from cmu_lightning.report.pictures.appearance import Style


@dataclass(frozen=True)
class Axis:
    """An axis from `low` to `high`."""

    label: str
    low: float = -0.02
    high: float = 1.03
    log: bool = False


class Mark(NamedTuple):
    """A point of a chart, how far its value spreads, and what is said of it."""

    x: float
    y: float
    spread: float | None
    text: str


@dataclass(frozen=True)
class Series:
    """Marks that look alike.

    Args:
        name: In the legend.
        method: With which it is shown and hidden.
        style: Style of its marks.
        points: In the order in which a line joins them.
    """

    name: str
    method: str
    style: Style
    points: list[Mark]


@dataclass(frozen=True)
class Reference:
    """A level to compare with, over the whole width."""

    name: str
    style: Style
    level: Spread


@dataclass(frozen=True)
class Chart:
    """A picture.

    Args:
        name: Name of its file, without ending.
        setting: What it is of.
        kind: Joined points with bands, points alone, or steps.
        title: Above it.
        note: Below it.
        x: Horizontal axis.
        y: Vertical axis.
        series: Drawn in this order.
        references: Levels.
        legend: Names and looks of what the series' names do not say.
    """

    name: str
    setting: str
    kind: Literal["lines", "scatter", "histogram"]
    title: str
    note: str
    x: Axis
    y: Axis
    series: list[Series]
    references: list[Reference] = field(default_factory=list)
    legend: list[tuple[str, Style]] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """A cell of a map: its left upper corner, its colour or None for a gap, and what is said in it and of it."""

    x: int
    y: int
    method: str
    colour: str | None
    ink: str
    text: str
    tip: str


@dataclass(frozen=True)
class Words:
    """Text in a map; `side` is which of its ends is at x."""

    x: int
    y: int
    side: Literal["left", "middle"]
    text: str
    bold: bool = False


@dataclass(frozen=True)
class Map:
    """A picture of coloured cells, laid out in pixels from the left upper corner.

    Args:
        name: Name of its file, without ending.
        setting: What it is of.
        title: Above it.
        note: Below it.
        width: Width of the whole.
        height: Height of the whole.
        tile: Width and height of a cell.
        tiles: The cells.
        words: All that is written beside them.
    """

    name: str
    setting: str
    title: str
    note: str
    width: int
    height: int
    tile: tuple[int, int]
    tiles: list[Tile]
    words: list[Words]
