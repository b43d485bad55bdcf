"""Histograms of importance ratios that runs of SSD and its family leave behind."""

import json
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite
from pathlib import Path

from cmu_lightning.report.reading.collect import Skipped


@dataclass(frozen=True)
class Ratios:
    """Content of `importance_ratios.json`.

    Args:
        log10_edges: Of the bins, ascending.
        counts: Counts of parameters, one fewer than edges.
        left_alone: Parameters whose importances tell nothing.
        selected: Parameters that were.
    """

    log10_edges: list[float]
    counts: list[int]
    left_alone: int
    selected: int


def read_ratios(runs_dir: Path, folder: str) -> Ratios | Skipped | None:
    """Read a run's histogram; None if it has left none."""
    name = f"{folder}/importance_ratios.json"
    try:
        content = json.loads((runs_dir / name).read_bytes())
        ratios = Ratios(**{key: content[key] for key in Ratios.__annotations__})
        whole = _is_histogram(ratios)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        whole = False
    return ratios if whole else Skipped(name, "damaged: no histogram")


def _is_histogram(ratios: Ratios) -> bool:
    edges, counts = ratios.log10_edges, [*ratios.counts, ratios.left_alone, ratios.selected]
    return (
        len(edges) == len(ratios.counts) + 1 > 1
        and all(isfinite(edge) and abs(edge) < 300 for edge in edges)
        and all(a < b for a, b in pairwise(edges))
        and all(isinstance(count, int) and count >= 0 for count in counts)
    )
