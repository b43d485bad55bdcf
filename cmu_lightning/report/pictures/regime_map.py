"""The regime map: a table, and a picture with a panel for each method, in colours that are also a scale of greys."""

from cmu_lightning.report.comparing.regimes import HARM, REGULARITY, Regimes, Row
from cmu_lightning.report.file_name import file_name
from cmu_lightning.report.pictures.appearance import SEQUENCE
from cmu_lightning.report.pictures.chart import Map, Tile, Words
from cmu_lightning.report.tables.table import Cell, Table

TILE = (46, 24)
GAP = 18
HEADING = 22
WIDEST = 1000
DARK = 4
"""So many colours of the sequence need white ink."""


def regime_table(all_regimes: list[Regimes]) -> Table:
    """Every cell, gaps included."""
    rows: list[list[Cell]] = []
    for each in all_regimes:
        for row in reversed(each.rows):
            levels = [level and level.mean for level in (row.none, row.oracle)]
            for method in each.methods:
                for column in each.columns:
                    found = row.measured.get((method, column))
                    where: list[Cell] = [each.data, each.way or "as usual", row.name, method, column]
                    rows.append([*where, found and row.recovery(found), found, *levels, found.n if found else 0])
    return Table(
        name="regime_map",
        title="Recovery by regularity and identified fraction",
        note="Recovery: (acc_corr - acc_corr of None) / (acc_corr of the oracle - that of None), of means over seeds; "
        f"none where there is no oracle, or where it is less than {HARM} above None. None: the originals. Oracle: "
        "RewoD at identified 1. A row of 0 seeds is a gap: nothing was run.",
        columns=[
            "data", "runs", "manipulation", "method", "identified", "recovery", "acc_corr", "None", "oracle", "seeds",
        ],
        rows=rows,
    )  # fmt: skip


def regime_map(regimes: Regimes) -> Map:
    """The picture."""
    rows, columns = list(reversed(regimes.shown)), regimes.columns
    gutter = 12 + 7 * max(len(row.name) for row in rows)
    across = len(columns) * TILE[0] + GAP
    abreast = max(1, min((WIDEST - gutter) // across, len(regimes.methods)))
    down = HEADING + len(rows) * TILE[1] + HEADING + GAP
    tiles: list[Tile] = []
    words: list[Words] = []
    for at, method in enumerate(regimes.methods):
        left, top = gutter + at % abreast * across, at // abreast * down
        if not at % abreast:
            words += [_word(0, top + HEADING + n * TILE[1], row.name, "left") for n, row in enumerate(rows)]
        words.append(Words(left, top + 15, "left", method, bold=True))
        bottom = top + HEADING + len(rows) * TILE[1]
        words += [_word(left + n * TILE[0] + TILE[0] // 2, bottom, column) for n, column in enumerate(columns)]
        for n, row in enumerate(rows):
            tiles += [
                _tile(left + m * TILE[0], top + HEADING + n * TILE[1], regimes, row, method, column)
                for m, column in enumerate(columns)
            ]
    height = down * -(-len(regimes.methods) // abreast)
    width = max(gutter + abreast * across, gutter + len(SEQUENCE) * TILE[0] // 2 + 120)
    empty = sum(not tile.text for tile in tiles)
    return Map(
        name=file_name(f"regime_map_{regimes.way}"),
        setting=regimes.data,
        title=_title(regimes),
        note=f"{_note(regimes)} {empty} of {len(tiles)} cells are empty.",
        width=width,
        height=height + TILE[1] + HEADING,
        tile=TILE,
        tiles=[*tiles, *_scale(gutter, height)],
        words=[*words, *_scale_words(regimes, gutter, height)],
    )


def _word(x: int, y: int, text: str, side: str = "middle") -> Words:
    """Beside a tile whose upper edge is at y."""
    return Words(x, y + 16, "left" if side == "left" else "middle", text)


def _tile(x: int, y: int, regimes: Regimes, row: Row, method: str, column: str) -> Tile:
    value, measured = regimes.value(row, method, column), row.measured.get((method, column))
    where = f"{method}, {row.name}, identified {column}"
    if measured is None or value is None:
        return Tile(x, y, method, None, "", "", f"{where}: nothing was run")
    levels = [f"{name} {level.mean:.3f}" for name, level in (("None", row.none), ("oracle", row.oracle)) if level]
    said = "; ".join([f"acc_corr {measured.said}", *levels])
    step = min(max(int(value * len(SEQUENCE)), 0), len(SEQUENCE) - 1)
    shown = f"recovery {value:.3f}; " if regimes.is_recovery else ""
    return Tile(x, y, method, SEQUENCE[step], _ink(step), f"{value:.2f}", f"{where}: {shown}{said}")


def _ink(step: int) -> str:
    return "#FFFFFF" if step < DARK else "#000000"


def _scale(left: int, top: int) -> list[Tile]:
    """All colours, each with where it begins."""
    return [
        Tile(left + at * TILE[0], top, "", colour, _ink(at), f"{at / len(SEQUENCE):g}", f"from {at / len(SEQUENCE):g}")
        for at, colour in enumerate(SEQUENCE)
    ]


def _scale_words(regimes: Regimes, left: int, top: int) -> list[Words]:
    what = "recovery" if regimes.is_recovery else "acc_corr"
    return [
        _word(0, top, f"{what}, from", "left"),
        _word(left, top + TILE[1], "identified fraction along each panel; the more regular, the higher", "left"),
    ]


def _title(regimes: Regimes) -> str:
    what = "Recovery" if regimes.is_recovery else "acc_corr"
    return f"{what} by regularity of the manipulation and identified fraction" + (regimes.way and f" ({regimes.way})")


def _note(regimes: Regimes) -> str:
    """How numbers come about, and why some are not there."""
    if not regimes.is_recovery:
        return (
            "acc_corr, mean over seeds; no recovery, for not even two manipulations that do harm have an oracle "
            "(RewoD at identified 1)."
        )
    said = [
        "Recovery: (acc_corr - that of None) / (that of the oracle - that of None), of means over seeds; "
        "colours end at 0 and 1, numbers do not. Oracle: RewoD at identified 1."
    ]
    if lacking := [row.name for row in regimes.rows if row.harm is None]:
        said.append(f"Left out, for there is no oracle or no original: {', '.join(lacking)}.")
    if unhurt := [row.name for row in regimes.rows if row.harm is not None and not row.is_hurt]:
        said.append(f"Left out, for the oracle is less than {HARM} above None: {', '.join(unhurt)}.")
    if own := [row.name for row in regimes.shown if row.summary.variant.about["manipulation"] not in REGULARITY]:
        said.append(f"Of unknown regularity: {', '.join(own)}.")
    return " ".join(said)
