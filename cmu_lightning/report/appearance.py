"""The appearance of methods, equal in all figures, and the themes of the figures."""

import hashlib
from typing import Any, NamedTuple

Symbol = str
"""A marker: an SVG path within about -1 and 1."""

CIRCLE: Symbol = "M-0.95,0a0.95,0.95 0 1,0 1.9,0a0.95,0.95 0 1,0 -1.9,0z"
SQUARE: Symbol = "M-0.85,-0.85h1.7v1.7h-1.7z"
DIAMOND: Symbol = "M0,-1.15L1.15,0L0,1.15L-1.15,0z"
UP: Symbol = "M0,-1.1L1.05,0.75H-1.05z"
DOWN: Symbol = "M0,1.1L1.05,-0.75H-1.05z"
LEFT: Symbol = "M-1.1,0L0.75,1.05V-1.05z"
RIGHT: Symbol = "M1.1,0L-0.75,1.05V-1.05z"
PLUS: Symbol = "M-0.35,-1.05h0.7v0.7h0.7v0.7h-0.7v0.7h-0.7v-0.7h-0.7v-0.7h0.7z"
CROSS: Symbol = (
    "M-0.95,-0.45L-0.45,-0.95L0,-0.5L0.45,-0.95L0.95,-0.45L0.5,0"
    "L0.95,0.45L0.45,0.95L0,0.5L-0.45,0.95L-0.95,0.45L-0.5,0z"
)
STAR: Symbol = "M0,-1.2L0.3,-0.4L1.14,-0.38L0.48,0.16L0.7,0.98L0,0.5L-0.7,0.98L-0.48,0.16L-1.14,-0.38L-0.3,-0.4z"
HEXAGON: Symbol = "M-1.05,0L-0.52,-0.91H0.52L1.05,0L0.52,0.91H-0.52z"
PENTAGON: Symbol = "M0,-1.05L1,-0.32L0.62,0.85H-0.62L-1,-0.32z"
HOURGLASS: Symbol = "M-0.9,-0.9H0.9L-0.9,0.9H0.9z"
BAR: Symbol = "M-1.3,-0.35h2.6v0.7h-2.6z"
LINE: Symbol = "M-1.1,0H1.1"
DASHED: Symbol = "M-1.7,-0.1h1.4v0.25h-1.4zM0.3,-0.1h1.4v0.25h-1.4z"
DOTTED: Symbol = "M-1.7,-0.1h0.4v0.25h-0.4zM-0.7,-0.1h0.4v0.25h-0.4zM0.3,-0.1h0.4v0.25h-0.4zM1.3,-0.1h0.4v0.25h-0.4z"


SHAPES_OF_VALUES = (CIRCLE, SQUARE, UP, DIAMOND, CROSS, DOWN, RIGHT)
"""For the values of a hyperparameter."""


class Style(NamedTuple):
    """Colour, shape of the marker, and lengths of dashes and gaps in pixels."""

    colour: str
    shape: Symbol
    dash: tuple[int, ...] = (1, 0)


SOLID = (1, 0)
FIXED = {
    "RewoD": Style("#0072B2", CIRCLE, SOLID),
    "CF": Style("#E69F00", SQUARE, (8, 3)),
    "BadT": Style("#CC79A7", DIAMOND, (3, 3)),
    "Scrub": Style("#009E73", UP, (10, 3, 3, 3)),
    "SSD": Style("#D55E00", DOWN, SOLID),
    "LFSSD": Style("#56B4E9", PLUS, (8, 3)),
    "ASSD": Style("#8C6D31", CROSS, (3, 3)),
    "Potion": Style("#7B4EA3", STAR, (10, 3, 3, 3)),
    "TunedSSD": Style("#A23B2A", HEXAGON, (14, 3)),
    "PURE": Style("#D6006E", PENTAGON, SOLID),
    "Keep": Style("#5F6B73", BAR, (1, 3)),
}
"""Known methods, in colours that colour-blind readers can distinguish (after Okabe and Ito)."""

COLOURS = ("#117733", "#882255", "#999933", "#44AA99", "#AA4499", "#332288", "#B0604B", "#3D5A80", "#6A4C1F", "#1B7F9C")
SHAPES: tuple[Symbol, ...] = (PENTAGON, HOURGLASS, LEFT, RIGHT, HEXAGON, SQUARE, DIAMOND)
DASHES = ((5, 2), (2, 4), (12, 2, 2, 2), (6, 6), (16, 4))

LEVELS = {"None (the original)": Style("#777777", DASHED, (6, 3)), "oracle": Style("#777777", DOTTED, (2, 2))}
"""Levels to compare with."""

LEVELS_AS_MARKS = {
    "None (the original)": Style("#777777", HOURGLASS),
    "oracle": Style("#777777", PENTAGON),
}
"""The same levels if they are not lines."""

CHOSEN = "#D00000"
"""The ring around chosen runs."""

SEQUENCE = (
    *("#440154", "#472B7A", "#3B518B", "#2C718E", "#21908D", "#27AD81", "#5CC863", "#85D44A", "#AADC32", "#D2E21B"),
)
"""Viridis, from small to large; it also works in greyscale."""


def style(method: str) -> Style:
    """Return the appearance of a method, which depends only on its name.

    Args:
        method: Name within a variant. Those in `FIXED` have a style of their own. For others a digest of the name draws
            colour, shape and dashes, the colours and dashes not being those of `FIXED`.
    """
    if method in FIXED:
        return FIXED[method]
    drawn = hashlib.sha256(method.encode()).digest()
    return Style(COLOURS[drawn[0] % len(COLOURS)], SHAPES[drawn[1] % len(SHAPES)], DASHES[drawn[2] % len(DASHES)])


def along(count: int) -> list[str]:
    """Return colours for ordered values.

    Args:
        count: How many.
    """
    last = len(SEQUENCE) - 1
    return [SEQUENCE[round(at * last / max(count - 1, 1))] for at in range(count)]


def _theme(ink: str, soft: str, grid: str, paper: str | None, font: str, size: float) -> dict[str, Any]:
    """Return a configuration of Vega-Lite."""
    axis = {
        "labelColor": ink,
        "titleColor": ink,
        "domainColor": soft,
        "tickColor": soft,
        "gridColor": grid,
        "labelFontSize": size,
        "titleFontSize": size + 1,
        "titleFontWeight": "normal",
        "titlePadding": 8,
    }
    base = {"symbolBaseFillColor": soft, "symbolBaseStrokeColor": soft}
    words = {
        "labelColor": ink,
        "titleColor": ink,
        "labelFontSize": size,
        "titleFontSize": size,
        "labelLimit": 0,
        "titleLimit": 0,
    }
    return {
        "background": paper,
        "font": font,
        "axis": axis,
        "legend": {
            **words,
            "titleFontWeight": "bold",
            "symbolSize": 80,
            "symbolStrokeWidth": 0,
            "symbolOpacity": 1,
            **base,
        },
        "header": {**words, "labelFontWeight": "bold", "labelAnchor": "start"},
        "title": {
            "color": ink,
            "subtitleColor": soft,
            "anchor": "start",
            "frame": "bounds",
            "fontSize": size + 2,
            "subtitleFontSize": size - 1,
            "subtitlePadding": 5,
            "offset": 12,
        },
        "view": {"stroke": None},
        "text": {"color": ink},
    }


SANS = 'system-ui, "DejaVu Sans", sans-serif'
SERIF = '"Times New Roman", Times, "Liberation Serif", "DejaVu Serif", serif'

THEMES = {
    "light": _theme("#1b1b1b", "#666666", "#ececec", "#ffffff", SANS, 12),
    "dark": _theme("#e8e8e8", "#a0a6ad", "#2a2e34", "#15181c", SANS, 12),
    "paper": _theme("#000000", "#444444", "#e4e4e4", "#ffffff", SERIF, 10),
}
"""Configurations of Vega-Lite: two for the page, of which `light` is that of the files too, and `paper`."""
