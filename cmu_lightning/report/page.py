"""One HTML page that contains everything and needs no other file and no network."""

from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from cmu_lightning import __version__
from cmu_lightning.report.aggregate import Comparison, missing
from cmu_lightning.report.appearance import LEVELS, Style, style
from cmu_lightning.report.embedded import embed
from cmu_lightning.report.figures import Figure
from cmu_lightning.report.load import Skipped
from cmu_lightning.report.table import Table

LONG = 20
"""Tables with more rows are folded."""

FOLDED = ("chosen_runs", "missing")
"""Tables of a variant that the page shows in another form."""


class Section(NamedTuple):
    """A variant with its figures, the specifications of these, and its tables."""

    comparison: Comparison
    figures: list[Figure]
    specs: list[dict[str, Any]]
    tables: list[Table]


class Maps(NamedTuple):
    """The regime maps of all variants together, whose data set and network each, and their tables."""

    figures: list[Figure]
    specs: list[dict[str, Any]]
    data: list[str]
    tables: list[Table]


def page(sections: list[Section], maps: Maps, skipped: list[Skipped], source: Path) -> str:
    """Return the page's text.

    Args:
        sections: One per variant.
        maps: Regime maps.
        skipped: Everything that contributes no numbers.
        source: Where the runs were read from.
    """
    carried = embed([spec for section in sections for spec in section.specs] + maps.specs)
    methods = list(dict.fromkeys(method for section in sections for method in section.comparison.methods))
    count, body = 0, []
    for number, section in enumerate(sections, 1):
        body.append(_section(section, number, count))
        count += len(section.specs)
    links = [(f"variant-{number}", section.comparison.name) for number, section in enumerate(sections, 1)]
    links += [("regimes", _title(maps))] * bool(maps.tables)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="cmu_lightning {__version__}">
<link rel="icon" href="data:,">
<title>Corrective unlearning: {escape(str(source))}</title>
<style>
{carried.style}</style>
</head>
<body>
<header>
<h1>Corrective unlearning</h1>
<p>{_introduction(sections[0].comparison.rule, skipped, source)}</p>
<nav>{"".join(f'<a href="#{name}">{escape(said)}</a>' for name, said in links)}</nav>
</header>
<div id="bar"><span id="legend" role="group" aria-label="Methods, shown or hidden">{_legend(methods)}</span>\
<button id="theme" type="button">dark or light</button></div>
<main>
{"".join(body)}{_maps(maps, count)}{_skipped(skipped)}</main>
<script id="data" type="application/json">{carried.data}</script>
<script id="vega">
{carried.vega}
</script>
<script>
{carried.script}</script>
</body>
</html>
"""


def _introduction(rule: str, skipped: list[Skipped], source: Path) -> str:
    warning = ", which uses clean labels of the test split: a bound, not a result" if rule == "oracle" else ""
    things = "thing was" if len(skipped) == 1 else "things were"
    link = f'\n<a href="#skipped">{len(skipped)} {things} skipped.</a>' if skipped else ""
    return (
        f"Runs in <code>{escape(str(source))}</code>; hyperparameters chosen by the rule <b>{rule}</b>{warning}; made "
        f"by cmu_lightning {__version__}.{link}"
    )


def _legend(methods: list[str]) -> str:
    buttons = [
        f'<button type="button" data-method="{escape(method)}" aria-pressed="true">{swatch(style(method))}'
        f"{escape(method)}</button>"
        for method in methods
    ]
    levels = [f'<span class="level">{swatch(look, mark=False)}{escape(name)}</span>' for name, look in LEVELS.items()]
    return "".join(buttons + levels)


def swatch(look: Style, mark: bool = True) -> str:
    """Return a small picture of a line, with its marker in the middle.

    Args:
        look: Colour, marker and dashes.
        mark: Whether the marker is shown.
    """
    dash = " ".join(map(str, look.dash))
    line = f'<path d="M1,8H33" stroke="{look.colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
    marker = f'<path d="{look.shape}" transform="translate(17,8) scale(4.6)" fill="{look.colour}"/>' if mark else ""
    return f'<svg class="swatch" width="34" height="16" aria-hidden="true">{line}{marker}</svg>'


def _section(section: Section, number: int, first: int) -> str:
    """Return the part of the page on a variant, whose figures are numbered from `first`."""
    comparison, about = section.comparison, section.comparison.about
    found = ""
    if comparison.found:
        kinds = escape(", ".join(comparison.found))
        found = (
            f"; S_f is not the paper's uniform draw but found by {kinds}, in all runs or in those whose names say so"
        )
    gaps = "".join(f"<li>{escape(sentence)}</li>" for sentence in missing(comparison))
    warned = f'<div class="missing"><b>What is missing or in doubt</b><ul>{gaps}</ul></div>\n' if gaps else ""
    shown = [made for made in section.tables if made.name not in FOLDED and len(made.frame)]
    chosen = next(made for made in section.tables if made.name == "chosen_runs")
    facts = "".join(f"<dt>{escape(key)}</dt><dd>{escape(str(value))}</dd>" for key, value in about.items())
    return f"""<section id="variant-{number}">
<h2>{escape(comparison.name)}</h2>
<p>{escape(f"{about['dataset']}, {about['model']}, {about['manipulation']}")}:
{about["manipulated"]:,} manipulated samples{found}.</p>
{warned}<div class="charts">
{"".join(_figure(figure, first + at) for at, figure in enumerate(section.figures))}</div>
{"".join(_folded(made) if len(made.frame) > LONG else _table(made) for made in shown)}\
{_folded(chosen, f"All {len(chosen.frame)} chosen runs")}\
<details><summary>How the originals were made</summary>
<dl>{facts}</dl>
</details>
</section>
"""


def _figure(figure: Figure, number: int, kind: str = "", setting: str = "") -> str:
    title, note = escape(f"{setting}{figure.title}"), escape(figure.note)
    opened = f'<figure{kind} data-figure="{number}" data-name="{escape(figure.name)}">'
    return f'{opened}<figcaption>{title}</figcaption><div class="plot"></div><p class="note">{note}</p></figure>\n'


def _maps(maps: Maps, first: int) -> str:
    """Return the part on regime maps, whose figures are numbered from `first`."""
    if not maps.tables:
        return ""
    shown = "".join(
        _figure(figure, first + at, ' class="map"', f"{data}: ")
        for at, (figure, data) in enumerate(zip(maps.figures, maps.data, strict=True))
    )
    return f'<section id="regimes"><h2>{_title(maps)}</h2>\n{shown}{"".join(map(_folded, maps.tables))}</section>\n'


def _title(maps: Maps) -> str:
    """Return the heading of the part on all manipulations, which has a map where there are several."""
    return "Regime map" if maps.figures else "The field's tables"


def _skipped(skipped: list[Skipped]) -> str:
    if not skipped:
        return ""
    rows = "".join(
        f"<tr><td><code>{escape(path)}</code></td><td>{escape(reason)}</td></tr>\n" for path, reason in skipped
    )
    head = "<thead><tr><th>path</th><th>reason</th></tr></thead>"
    table = f'<div class="wide"><table>{head}<tbody>\n{rows}</tbody></table></div>'
    return f'<section id="skipped"><h2>Skipped</h2>\n<p>These contribute no numbers.</p>\n{table}</section>\n'


def _folded(made: Table, title: str | None = None) -> str:
    summary = title or f"{made.title}, {len(made.frame)} rows"
    return f"<details><summary>{escape(summary)}</summary>\n{_table(made)}</details>\n"


def _table(made: Table) -> str:
    frame, numbers = made.shown()
    kinds = [' class="number"' if number else "" for number in numbers]
    head = _row("th", kinds, frame.columns)
    rows = "\n".join(_row("td", kinds, line) for line in frame.to_numpy().tolist())
    return f"""<h3>{escape(made.title)}</h3>
<div class="wide"><table><thead>{head}</thead>
<tbody>
{rows}
</tbody></table></div>
<p class="note">{escape(made.caption)}</p>
"""


def _row(tag: str, kinds: list[str], cells: Iterable[str]) -> str:
    inner = "".join(f"<{tag}{kind}>{escape(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
    return f"<tr>{inner}</tr>"
