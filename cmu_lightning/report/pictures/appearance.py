"""How a method looks, in every picture the same: colour, marker and line, so that it is told apart in grey too."""

from collections.abc import Iterable
from typing import NamedTuple


class Style(NamedTuple):
    """Colour, shape of the marker, and lengths of dashes and gaps in multiples of the line's width."""

    colour: str
    shape: str
    dashes: tuple[float, ...] = ()


FIXED = {
    "RewoD": Style("#0072B2", "circle"),
    "CF": Style("#E69F00", "square", (6, 2)),
    "BadT": Style("#CC79A7", "diamond", (2, 2)),
    "Scrub": Style("#009E73", "triangle", (8, 2, 2, 2)),
    "SSD": Style("#D55E00", "triangle-down"),
    "LFSSD": Style("#56B4E9", "plus", (6, 2)),
    "ASSD": Style("#8C6D31", "cross", (2, 2)),
    "Potion": Style("#7B4EA3", "star", (8, 2, 2, 2)),
}
"""Colours that the colour-blind tell apart (after Okabe and Ito)."""

COLOURS = ("#4D4D4D", "#117733", "#882255", "#999933", "#44AA99", "#AA4499")
SHAPES = ("star", "circle", "cross", "square", "plus", "triangle", "diamond", "triangle-down")
DASHES: tuple[tuple[float, ...], ...] = ((4, 2), (), (1, 2), (8, 2, 2, 2), (6, 2))

LEVELS = {"None (the original)": Style("#777777", "none", (5, 3)), "oracle": Style("#777777", "none", (1.5, 2))}
"""Reference lines."""

CHOSEN = Style("#D00000", "ring")

SEQUENCE = (
    "#440154", "#472B7A", "#3B518B", "#2C718E", "#21908D", "#27AD81", "#5CC863", "#85D44A", "#AADC32", "#D2E21B",
)  # fmt: skip
"""Viridis, for the values of a hyperparameter, from small to large."""


def styles(methods: Iterable[str]) -> dict[str, Style]:
    """The style of each method; those without a fixed one get the next free one, in alphabetical order."""
    others = sorted(set(methods) - set(FIXED))
    further = {
        name: Style(COLOURS[at % len(COLOURS)], SHAPES[at % len(SHAPES)], DASHES[at % len(DASHES)])
        for at, name in enumerate(others)
    }
    return FIXED | further


def along(count: int) -> list[str]:
    """Colours for `count` ordered values."""
    last = len(SEQUENCE) - 1
    return [SEQUENCE[round(at * last / max(count - 1, 1))] for at in range(count)]
