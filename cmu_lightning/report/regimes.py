"""The share of the harm that each method repairs, by a manipulation's regularity and identified fraction."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from cmu_lightning.report.aggregate import DISCOVERY, Comparison, Spread, spread
from cmu_lightning.report.load import rows_of, settings_of

REGULARITY = (
    "RandomSwap",
    "SymmetricNoise",
    "LabelsFromFile",
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
"""Least difference between the oracle's acc_corr and None's for which recovery is defined."""

FLAGGED = "flagged"
"""The column of discoveries that take a number of samples, not a fraction of S_m."""

OF_DISCOVERY = re.compile(r"(, )?data\.discovery[\w.]*=(\[[^\]]*\]|[^,]*)")
"""The part of a method's name within a variant that names its discovery."""


@dataclass
class Row:
    """A manipulation.

    Args:
        name: Its name among the others.
        comparison: Its variant.
        methods: Names within the variant by those of their classes.
    """

    name: str
    comparison: Comparison
    methods: dict[str, str]

    @cached_property
    def chosen(self) -> pd.DataFrame:
        """The chosen runs, with `kind` (the method's class) and `column` (the identified fraction, or `FLAGGED`)."""
        kinds = {label: kind for kind, label in self.methods.items()}
        own = self.comparison.chosen
        own = own[own["method"].isin(kinds)].assign(kind=own["method"].map(kinds))
        takes = own["takes_number"].astype(bool)
        columns = [FLAGGED if number else f"{at:g}" for number, at in zip(takes, own["identified"], strict=True)]
        return own.assign(column=columns)

    def measured(self, name: str) -> dict[tuple[str, str], Spread]:
        """Return a measurement over seeds, by method and column.

        Args:
            name: Name of the measurement.
        """
        cells = self.chosen.dropna(subset=name).groupby(["kind", "column"])[name]
        return {(str(kind), str(column)): found for (kind, column), own in cells if (found := spread(own))}

    @cached_property
    def acc_corr(self) -> dict[tuple[str, str], Spread]:
        """acc_corr over seeds, by method and column."""
        return self.measured("acc_corr")

    @cached_property
    def none(self) -> Spread | None:
        """acc_corr of the originals."""
        return self.comparison.original("acc_corr")

    @cached_property
    def oracle(self) -> Spread | None:
        """acc_corr without any of S_m."""
        return self.comparison.oracle("acc_corr")

    @property
    def harm(self) -> float | None:
        """The possible recovery; None if unknown."""
        return self.oracle.mean - self.none.mean if self.oracle and self.none else None

    @property
    def is_hurt(self) -> bool:
        """Whether something can be recovered, as far as known."""
        return self.harm is not None and self.harm >= HARM

    def recovery(self, acc_corr: Spread) -> float | None:
        """Return the part of the harm that is repaired: 0 for None, 1 for the oracle; None if it is not defined.

        Args:
            acc_corr: What a method reaches.
        """
        if self.harm is None or self.none is None or not self.is_hurt:
            return None
        return (acc_corr.mean - self.none.mean) / self.harm


@dataclass
class Regimes:
    """Manipulations of one data set and network, whose runs were made in one way.

    Args:
        data: The data set and the network.
        way: How the runs differ from the usual ones; empty for the usual runs.
        rows: From the least regular manipulation to the most.
    """

    data: str
    way: str
    rows: list[Row]

    @cached_property
    def methods(self) -> list[str]:
        """Class names of the methods, sorted."""
        return sorted({method for row in self.rows for method in row.methods})

    @cached_property
    def columns(self) -> list[str]:
        """Identified fractions, ascending."""
        found = {column for row in self.rows for _, column in row.acc_corr}
        return sorted(found, key=lambda column: 2.0 if column == FLAGGED else float(column))

    @cached_property
    def is_recovery(self) -> bool:
        """Whether recovery is shown: two harmful manipulations have an oracle. Otherwise acc_corr is shown."""
        return sum(row.is_hurt for row in self.rows) > 1

    @property
    def shown(self) -> list[Row]:
        """The manipulations that have something to show."""
        return [row for row in self.rows if row.is_hurt or not self.is_recovery]

    def value(self, row: Row, method: str, column: str) -> float | None:
        """Return what a cell shows; None for a gap.

        Args:
            row: The manipulation.
            method: Class name of the method.
            column: Identified fraction, as text.
        """
        acc_corr = row.acc_corr.get((method, column))
        return None if acc_corr is None else row.recovery(acc_corr) if self.is_recovery else acc_corr.mean


def regimes(comparisons: Iterable[Comparison]) -> list[Regimes]:
    """Return one map for every data set and network that has two manipulations; the usual runs come first.

    Args:
        comparisons: All variants.
    """
    several = (({row.comparison.about["manipulation"] for row in each.rows}, each) for each in families(comparisons))
    # Without a test split there is no acc_corr, and nothing to draw.
    return [each for manipulations, each in several if len(manipulations) > 1 and each.columns]


def families(comparisons: Iterable[Comparison]) -> list[Regimes]:
    """Return the manipulations of every data set and network, however many; the usual runs come first.

    Args:
        comparisons: All variants.
    """
    grouped: dict[tuple[str, str], list[tuple[Comparison, dict[str, str]]]] = defaultdict(list)
    for comparison in comparisons:
        about = comparison.about
        for way, methods in _ways(comparison).items():
            grouped[f"{about['dataset']}, {about['model']}", way].append((comparison, methods))
    return [
        Regimes(data, way, sorted(_rows(members), key=_regularity))
        for (data, way), members in sorted(grouped.items(), key=lambda item: item[0])
    ]


def _ways(comparison: Comparison) -> dict[str, dict[str, str]]:
    """Return methods' names within the variant by those of their classes, for each way in which they were run."""
    ways: dict[str, dict[str, str]] = defaultdict(dict)
    for label in comparison.methods:
        run = next(rows_of(comparison.runs[comparison.runs["label"] == label]))
        method = str(run.method)
        differing = OF_DISCOVERY.sub("", label.removeprefix(method).removeprefix(" (").removesuffix(")"))
        found = [f"{key.removeprefix('data.')}={value}" for key, value in _discovery(run).items()]
        ways[", ".join([*found, *filter(None, [differing.removeprefix(", ")])])][method] = label
    return ways


def _discovery(run: Any) -> dict[str, str]:
    """Return the discovery in a run's config; empty for the paper's uniform draw."""
    return {key: value for key, value in settings_of(run).items() if key.startswith(DISCOVERY) and value != "None"}


def _rows(members: list[tuple[Comparison, dict[str, str]]]) -> list[Row]:
    """Return rows that are named only by the manipulation, if that is unique."""
    kinds = [comparison.about["manipulation"] for comparison, _ in members]
    counts = [comparison.about["manipulated"] for comparison, _ in members]
    sizes = [f"{kind}, {count:,}" for kind, count in zip(kinds, counts, strict=True)]
    rows = []
    for kind, size, (comparison, methods) in zip(kinds, sizes, members, strict=True):
        name = kind if kinds.count(kind) == 1 else size if sizes.count(size) == 1 else comparison.name
        rows.append(Row(name, comparison, methods))
    return rows


def _regularity(row: Row) -> tuple[int, str, int]:
    """Return a sort key; custom manipulations come after all others."""
    kind, size = (row.comparison.about[key] for key in ("manipulation", "manipulated"))
    return REGULARITY.index(kind) if kind in REGULARITY else len(REGULARITY), kind, size
