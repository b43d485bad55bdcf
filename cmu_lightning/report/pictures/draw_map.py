"""Maps as PNG, by matplotlib, and as SVG, by hand: matplotlib takes a millisecond for each text in each file."""

from html import escape
from textwrap import wrap
from typing import TYPE_CHECKING

from cmu_lightning.report.pictures.chart import Map

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOVE, BESIDE, LINE = 16, 12, 14
POINT = 0.75  # a pixel of the layout
SIZE, TITLE, NOTE = 10.5, 12.5, 10  # of letters, in pixels
GREY = "#555555"


def note_lines(shown: Map) -> list[str]:
    """The note as wide as the picture."""
    return wrap(shown.note, max(40, shown.width // 5))


def title_lines(shown: Map) -> list[str]:
    """The title as wide as the picture, in bold letters of its size."""
    return wrap(f"{shown.setting}: {shown.title}", max(30, shown.width // 9))


def figure_of(shown: Map) -> "Figure":
    """All cells and words on one pair of axes, which is much faster than one a panel."""
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    titles, lines = title_lines(shown), note_lines(shown)
    above = ABOVE + LINE * len(titles)
    width, height = shown.width + 2 * BESIDE, shown.height + above + LINE * (len(lines) + 1)
    figure = Figure(figsize=(width * POINT / 72, height * POINT / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(-BESIDE, width - BESIDE), ylim=(height - above, -above))
    axes.set_axis_off()
    for full, edge, dashes in ((True, "white", "-"), (False, "#BBBBBB", ":")):
        own = [tile for tile in shown.tiles if (tile.colour is not None) == full]
        patches = [Rectangle((tile.x, tile.y), *shown.tile) for tile in own]
        colours = [tile.colour or "none" for tile in own]
        cells = PatchCollection(patches, facecolors=colours, edgecolors=edge, linewidths=0.8, linestyles=dashes)
        axes.add_collection(cells)
    for tile in shown.tiles:
        if tile.text:
            middle = tile.x + shown.tile[0] / 2, tile.y + shown.tile[1] / 2 + 4
            axes.text(*middle, tile.text, color=tile.ink, fontsize=SIZE * POINT, ha="center")
    for word in shown.words:
        side = "center" if word.side == "middle" else word.side
        axes.text(word.x, word.y, word.text, fontsize=SIZE * POINT, ha=side, weight="bold" if word.bold else "normal")
    for at, line in enumerate(reversed(titles)):
        axes.text(0, -12 - LINE * at, line, fontsize=TITLE * POINT, weight="bold")
    for at, line in enumerate(lines):
        axes.text(0, shown.height + LINE * (at + 1), line, fontsize=NOTE * POINT, color=GREY)
    return figure


def svg_of(shown: Map, description: str) -> str:
    """The same, in text that can be searched."""
    titles, lines = title_lines(shown), note_lines(shown)
    above = ABOVE + LINE * len(titles)
    width, height = shown.width + 2 * BESIDE, shown.height + above + LINE * (len(lines) + 1)
    parts = [f'<rect x="{-BESIDE}" y="{-above}" width="{width}" height="{height}" fill="white"/>']
    wide, high = shown.tile
    for tile in shown.tiles:
        look = f'fill="{tile.colour}"' if tile.colour else 'fill="none" stroke="#BBBBBB" stroke-dasharray="2 2"'
        corner = f'x="{tile.x + 0.5}" y="{tile.y + 0.5}"'
        told = f"<title>{escape(tile.tip)}</title>"
        parts.append(f'<rect {corner} width="{wide - 1}" height="{high - 1}" {look}>{told}</rect>')
        if tile.text:
            parts.append(_text(tile.x + wide / 2, tile.y + high / 2 + 4, tile.text, "middle", tile.ink))
    parts += [_text(word.x, word.y, word.text, word.side, bold=word.bold) for word in shown.words]
    parts += [_text(0, -12 - LINE * at, line, bold=True, size=TITLE) for at, line in enumerate(reversed(titles))]
    parts += [_text(0, shown.height + LINE * (at + 1), line, ink=GREY, size=NOTE) for at, line in enumerate(lines)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="{-BESIDE} {-above} {width} {height}" font-family="DejaVu Sans, sans-serif">\n'
        f"<desc>{escape(description)}</desc>\n" + "\n".join(parts) + "\n</svg>\n"
    )


def _text(
    x: float, y: float, text: str, side: str = "left", ink: str = "#000000", bold: bool = False, size: float = SIZE
) -> str:
    anchor = {"left": "start", "middle": "middle"}[side]
    weight = ' font-weight="bold"' if bold else ""
    where = f'x="{x:g}" y="{y:g}" text-anchor="{anchor}"'
    return f'<text {where} font-size="{size:g}" fill="{ink}"{weight}>{escape(text)}</text>'
