"""Which run counts for a point (variant, method, identified, seeds) when hyperparameters were searched.

A rule takes the `metrics.json` of the point's runs, in grid order, and returns one of them; None if what it needs was
not measured. No rule but `oracle` looks at clean labels of anything affected.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cmu_lightning.report.reading.collect import Result

Metrics = dict[str, Any]


def paper(runs: Sequence[Metrics]) -> Metrics | None:
    """The largest mean of validation accuracy and changed predictions on S_f (paper, section 3.2)."""
    return _largest(runs, ["selection_score"], lambda run: run["selection_score"])


def ptn(runs: Sequence[Metrics], rho: float = 0.2) -> Metrics | None:
    """The mildest that fits S_f, as labelled, at most `rho` times as well as the original does (PTN: arXiv 2406.09173).

    The original's own fit of S_f is not stored. A run that changed no prediction on S_f tells it exactly; without one
    it counts as 1, which it nearly is after training on S_f. If no run forgets as much, the strongest one is taken.
    """
    runs = sorted(_with(runs, ["fit_identified"]), key=_strength)
    unchanged = [run["fit_identified"] for run in runs if run.get("changed") == 0]
    bound = rho * (unchanged[0] if unchanged else 1.0)
    return next((run for run in runs if run["fit_identified"] <= bound), runs[-1] if runs else None)


def rem(runs: Sequence[Metrics], gamma: float = 0.2) -> Metrics | None:
    """The best fit of retain times misfit of S_f, as labelled; under `gamma` all are alike (arXiv 2505.17730)."""
    needed = ["fit_retain", "fit_identified"]
    return _largest(runs, needed, lambda run: run["fit_retain"] * (1 - max(run["fit_identified"], gamma)))


def scrub_r(runs: Sequence[Metrics]) -> Metrics | None:
    """The error on S_f closest to that on validation samples of S_f's class mix (SCRUB+R, Kurmanji et al., 2023)."""
    needed = ["fit_identified", "val_acc_matched"]
    return _largest(runs, needed, lambda run: -abs(run["fit_identified"] - run["val_acc_matched"]))


def oracle(runs: Sequence[Metrics]) -> Metrics | None:
    """The largest acc_corr: an upper bound, for it needs clean labels of the test split."""
    return _largest(runs, ["acc_corr"], lambda run: run["acc_corr"])


RULES: dict[str, Callable[[Sequence[Metrics]], Metrics | None]] = {
    "paper": paper,
    "ptn": ptn,
    "rem": rem,
    "scrub_r": scrub_r,
    "oracle": oracle,
}


def regret(runs: Sequence[Metrics], chosen: Metrics) -> float | None:
    """How much more acc_corr the best of the runs has; None if acc_corr was not measured."""
    best = oracle(runs)
    return best["acc_corr"] - chosen["acc_corr"] if best and "acc_corr" in chosen else None


def destroyed(chosen: Metrics, original: Metrics | None) -> bool | None:
    """Whether less than half of the original's validation accuracy is left; None if nobody can tell."""
    if original is None or "val_acc" not in original or "val_acc" not in chosen:
        return None
    return bool(chosen["val_acc"] < original["val_acc"] / 2)


def in_grid_order(results: Iterable[Result]) -> list[Result]:
    """As a grid search goes: names sorted, the last one varies fastest; of equal points the first alone."""
    ordered = sorted(results, key=lambda result: grid_position(result.metrics))
    distinct: dict[str, Result] = {}
    for result in ordered:
        distinct.setdefault(_point(result.metrics["hyperparameters"]), result)
    return list(distinct.values())


def grid_position(run: Metrics) -> list[tuple[int, float, str]]:
    """By which runs are in grid order; numbers come before names."""
    return [_sortable(value) for _, value in sorted(run["hyperparameters"].items())]


def _sortable(value: Any) -> tuple[int, float, str]:
    number = isinstance(value, int | float)
    return (0, float(value), "") if number else (1, 0.0, str(value))


def _point(hyperparameters: Metrics) -> str:
    """What the result depends on: for SSD with a dampening ratio from 1, its product with the threshold alone.

    There a parameter whose ratio of importances is under the product keeps its value, selected or not.
    """
    values = dict(hyperparameters)
    dampening = _dampening(values)
    if dampening is not None and values["dampening_ratio"] >= 1:
        values |= {"selection": None, "dampening_ratio": f"{dampening:.9g}"}
    return str(sorted(values.items()))


def _dampening(hyperparameters: Metrics) -> float | None:
    """SSD's constant gamma (lambda in Foster et al., 2024); None for another method."""
    factors = [hyperparameters.get(name) for name in ("selection", "dampening_ratio")]
    numbers = [float(factor) for factor in factors if isinstance(factor, int | float)]
    return numbers[0] * numbers[1] if len(numbers) == 2 else None


def _strength(run: Metrics) -> tuple[float, float]:
    """Orders runs from the mildest to the strongest: by dampening if they dampen, else by what they forget of S_f."""
    dampening = _dampening(run["hyperparameters"])
    if dampening is None:
        return -run["fit_identified"], 0.0
    return -float(f"{dampening:.9g}"), -run["hyperparameters"]["selection"]


def _with(runs: Sequence[Metrics], needed: list[str]) -> list[Metrics]:
    return [run for run in runs if all(name in run for name in needed)]


def _largest(runs: Sequence[Metrics], needed: list[str], score: Callable[[Metrics], float]) -> Metrics | None:
    """The first of the largest."""
    return max(_with(runs, needed), key=score, default=None)
