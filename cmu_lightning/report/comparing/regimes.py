"""How much of the harm each method repairs, by how regular a manipulation is and how much of it is identified."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from cmu_lightning.report.comparing.summarise import Choice, Spread, Summary, is_told_a_number, spread
from cmu_lightning.report.reading.collect import Result

REGULARITY = (
    "RandomSwap",
    "SymmetricNoise",
    "AsymmetricNoise",
    "InterclassConfusion",
    "OneWayConfusion",
    "AdapBlend",
    "AdapPatch",
    "TaCT",
    "WaNet",
    "SIG",
    "Blended",
    "AllToAll",
    "Poison",
)
"""Manipulations from the least regular to the most: labels at random, labels by class, triggers."""

HARM = 0.02
"""The least that the oracle's acc_corr must be above that of None for there to be anything to recover."""

FLAGGED = "flagged"
"""The column of discoveries that are told how many samples to take, not which fraction of S_m."""

OF_DISCOVERY = re.compile(r"(, )?data\.discovery[\w.]*=(\[[^\]]*\]|[^,]*)")
"""A part of a method's name within a variant."""


@dataclass(frozen=True)
class Row:
    """A manipulation.

    Args:
        name: What it is called.
        summary: Summary of its variant.
        methods: Names within the variant by those of their classes.
    """

    name: str
    summary: Summary
    methods: dict[str, str]

    @cached_property
    def none(self) -> Spread | None:
        """acc_corr of the originals."""
        return self.summary.original("acc_corr")

    @cached_property
    def oracle(self) -> Spread | None:
        """acc_corr without any of S_m."""
        return self.summary.oracle("acc_corr")

    @cached_property
    def measured(self) -> dict[tuple[str, str], Spread]:
        """acc_corr over seeds, by method and column."""
        return self.of("acc_corr")

    def of(self, name: str) -> dict[tuple[str, str], Spread]:
        """A measurement over seeds, by method and column."""
        values: dict[tuple[str, str], list[float]] = defaultdict(list)
        for method, own in self.methods.items():
            for choice in self.summary.of(own):
                if (value := choice.value(name)) is not None:
                    values[method, _column(choice)].append(value)
        return {key: found for key, each in values.items() if (found := spread(each))}

    def choices(self, column: str) -> list[Choice]:
        """What counts in a column, of all methods."""
        every = [choice for name in self.methods.values() for choice in self.summary.of(name)]
        return [choice for choice in every if _column(choice) == column]

    @property
    def is_hurt(self) -> bool:
        """Whether there is something to recover, as far as anyone can tell."""
        return self.harm is not None and self.harm >= HARM

    @property
    def harm(self) -> float | None:
        """What there is to recover; None if nobody can tell."""
        return self.oracle.mean - self.none.mean if self.oracle and self.none else None

    def recovery(self, acc_corr: Spread) -> float | None:
        """The part of the harm that is repaired: 0 for None, 1 for the oracle; None if there is none, or no oracle."""
        if self.harm is None or self.none is None or not self.is_hurt:
            return None
        return (acc_corr.mean - self.none.mean) / self.harm


@dataclass(frozen=True)
class Regimes:
    """Manipulations of one data set and network, whose runs were made in one way.

    Args:
        data: The data set and the network.
        way: In what the runs differ from the usual ones; empty for those.
        rows: From the least regular manipulation to the most.
    """

    data: str
    way: str
    rows: list[Row]

    @cached_property
    def methods(self) -> list[str]:
        """In alphabetical order."""
        return sorted({method for row in self.rows for method in row.methods})

    @cached_property
    def columns(self) -> list[str]:
        """Identified fractions, ascending."""
        found = {column for row in self.rows for _, column in row.measured}
        return sorted(found, key=lambda column: 2.0 if column == FLAGGED else float(column))

    @cached_property
    def is_recovery(self) -> bool:
        """Whether recovery is shown; acc_corr, unless two manipulations did harm and have an oracle."""
        return sum(row.is_hurt for row in self.rows) > 1

    @property
    def shown(self) -> list[Row]:
        """Those that have something to show."""
        return [row for row in self.rows if row.is_hurt or not self.is_recovery]

    def value(self, row: Row, method: str, column: str) -> float | None:
        """What is shown; None for a gap."""
        acc_corr = row.measured.get((method, column))
        return None if acc_corr is None else row.recovery(acc_corr) if self.is_recovery else acc_corr.mean


def regimes(summaries: Iterable[Summary]) -> list[Regimes]:
    """Of every data set and network that has two manipulations, the usual runs first."""
    grouped: dict[tuple[str, str], list[tuple[Summary, dict[str, str]]]] = defaultdict(list)
    for summary in summaries:
        about = summary.variant.about
        for way, methods in _ways(summary).items():
            grouped[f"{about['dataset']}, {about['model']}", way].append((summary, methods))
    made = []
    for (data, way), members in sorted(grouped.items()):
        if len({summary.variant.about["manipulation"] for summary, _ in members}) > 1:
            made.append(Regimes(data, way, sorted(_rows(members), key=_regularity)))
    return made


def _ways(summary: Summary) -> dict[str, dict[str, str]]:
    """Methods' names within the variant by those of their classes, for each way in which they were run."""
    ways: dict[str, dict[str, str]] = defaultdict(dict)
    for name, results in summary.variant.methods.items():
        method = results[0].metrics["method"]
        differing = OF_DISCOVERY.sub("", name.removeprefix(method).removeprefix(" (").removesuffix(")"))
        found = [f"{key.removeprefix('data.')}={value}" for key, value in _discovery(results[0]).items()]
        ways[", ".join([*found, *filter(None, [differing.removeprefix(", ")])])][method] = name
    return ways


def _discovery(result: Result) -> dict[str, str]:
    """What a run's config says of how S_f came about; nothing for the paper's uniform draw."""
    own = result.configuration.of(result.metrics["method"]) if result.configuration else {}
    return {key: value for key, value in own.items() if key.startswith("data.discovery") and value != "None"}


def _rows(members: list[tuple[Summary, dict[str, str]]]) -> list[Row]:
    """Named by the manipulation alone where that is enough."""
    kinds = [summary.variant.about["manipulation"] for summary, _ in members]
    counts = [summary.variant.about["manipulated"] for summary, _ in members]
    sizes = [f"{kind}, {count:,}" for kind, count in zip(kinds, counts, strict=True)]
    rows = []
    for kind, size, (summary, methods) in zip(kinds, sizes, members, strict=True):
        name = kind if kinds.count(kind) == 1 else size if sizes.count(size) == 1 else summary.variant.name
        rows.append(Row(name, summary, methods))
    return rows


def _regularity(row: Row) -> tuple[int, str, int]:
    """Manipulations of one's own come after all others."""
    kind, size = (row.summary.variant.about[key] for key in ("manipulation", "manipulated"))
    return REGULARITY.index(kind) if kind in REGULARITY else len(REGULARITY), kind, size


def _column(choice: Choice) -> str:
    """The identified fraction, unless that is only known afterwards."""
    return FLAGGED if is_told_a_number(choice.result) else f"{choice.point.identified:g}"
