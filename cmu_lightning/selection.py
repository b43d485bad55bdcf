"""Selection rules: which run of a point counts when hyperparameters were searched.

A rule takes the `metrics.json` of the point's runs, in grid order, and returns one of them, or None where nothing that
it needs was measured. Except for `oracle`, no rule reads the test split. Labels of validation samples are clean by
default, and as given with `data.val_labels=given`. To add a rule, write a function and list it in `RULES`.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

Metrics = dict[str, Any]
"""The content of a `metrics.json`."""

UTILITY_WEIGHT = 5.0
"""Weight of accuracy in `balanced_score`, against the labels of S_f that are no longer given; 4 to 7 choose alike."""


def paper(runs: Sequence[Metrics]) -> Metrics | None:
    """Return the run with the largest (val_acc + changed) / 2 (paper, section 3.2).

    Args:
        runs: Runs of a point, in grid order.
    """
    return _largest(runs, ["selection_score"], lambda run: run["selection_score"])


def ptn(runs: Sequence[Metrics], rho: float = 0.2) -> Metrics | None:
    """Return the mildest run whose fit of S_f is at most `rho` times the original's (PTN: arXiv 2406.09173).

    The original's own fit of S_f is not stored. A run that changed no prediction on S_f tells it exactly. Without
    such a run the original's fit counts as 1, which is nearly true after training on S_f. If no run forgets enough, the
    strongest one is returned.

    Args:
        runs: Runs of a point, in grid order.
        rho: Largest share of the original's fit that may be left.
    """
    ordered = sorted(_with(runs, ["fit_identified"]), key=_strength)
    unchanged = [run["fit_identified"] for run in ordered if run.get("changed") == 0]
    bound = rho * (unchanged[0] if unchanged else 1.0)
    return next((run for run in ordered if run["fit_identified"] <= bound), ordered[-1] if ordered else None)


def rem(runs: Sequence[Metrics], gamma: float = 0.2) -> Metrics | None:
    """Return the run with the largest fit_retain x (1 - max(fit_identified, gamma)) (arXiv 2505.17730).

    Args:
        runs: Runs of a point, in grid order.
        gamma: Fit of S_f below which runs count as equal.
    """
    needed = ["fit_retain", "fit_identified"]
    return _largest(runs, needed, lambda run: run["fit_retain"] * (1 - max(run["fit_identified"], gamma)))


def scrub_r(runs: Sequence[Metrics]) -> Metrics | None:
    """Return the run whose error on S_f is closest to that on validation samples of S_f's class mix.

    This is the rule of SCRUB+R (Kurmanji et al., 2023).

    Args:
        runs: Runs of a point, in grid order.
    """
    needed = ["fit_identified", "val_acc_matched"]
    return _largest(runs, needed, lambda run: -abs(run["fit_identified"] - run["val_acc_matched"]))


def balanced(runs: Sequence[Metrics]) -> Metrics | None:
    """Return the run with the largest `balanced_score`.

    If no run has validation samples, fit_retain replaces val_acc in all of them.

    Args:
        runs: Runs of a point, in grid order.
    """
    utility = "val_acc" if any("val_acc" in run for run in runs) else "fit_retain"
    return _largest(runs, [utility, "fit_identified"], balanced_score)


def balanced_score(run: Metrics) -> float:
    """Return 5 val_acc + (1 - f); without validation samples 5 fit_retain + (1 - f).

    f = (k + 1) / (n + 2), where the model still gives the labels of k of the n samples of S_f: `fit_identified` = k /
    n, shrunk towards 1/2 where n is small.

    A model can gain at most 1 by no longer predicting the labels of S_f. A model that never predicts one of ten classes
    loses about 0.1 of val_acc, so a weight of 1 would reward it. 1 - f counts only given labels that are no longer
    predicted, while the paper's `changed` also counts predictions that were right and no longer are.

    Args:
        run: Results with `fit_identified` and `val_acc` or `fit_retain`; without `deleted`, n counts as infinite.

    >>> round(balanced_score({"val_acc": 0.9, "fit_identified": 0.0, "deleted": 1}), 4)
    5.1667
    """
    utility = run["val_acc"] if "val_acc" in run else run["fit_retain"]
    flagged, size = run["fit_identified"], run.get("deleted")
    fit = flagged if size is None else (flagged * size + 1) / (size + 2)
    return float(UTILITY_WEIGHT * utility + (1 - fit))


def oracle(runs: Sequence[Metrics]) -> Metrics | None:
    """Return the run with the largest acc_corr: an upper bound, because it reads clean labels of the test split.

    Args:
        runs: Runs of a point, in grid order.
    """
    return _largest(runs, ["acc_corr"], lambda run: run["acc_corr"])


RULES: dict[str, Callable[[Sequence[Metrics]], Metrics | None]] = {
    rule.__name__: rule for rule in (paper, balanced, ptn, rem, scrub_r, oracle)
}
"""Every rule by its name on the command line."""


def regret(runs: Sequence[Metrics], chosen: Metrics) -> float | None:
    """Return how much more acc_corr the best run of a point has; None if acc_corr was not measured.

    Args:
        runs: Runs of the point.
        chosen: The run that a rule chose.
    """
    best = oracle(runs)
    return best["acc_corr"] - chosen["acc_corr"] if best and "acc_corr" in chosen else None


def destroyed(chosen: Metrics, original: Metrics | None) -> bool | None:
    """Return whether less than half of the original's validation accuracy is left; None if that is unknown.

    Args:
        chosen: Results of an unlearner.
        original: Results of the original it started from, if they are known.
    """
    if original is None or "val_acc" not in original or "val_acc" not in chosen:
        return None
    return bool(chosen["val_acc"] < original["val_acc"] / 2)


def lost_margin(utility: float, of_original: float, guessing: float) -> bool:
    """Return whether less than half is left of the original's accuracy over guessing; what `repair` calls destroyed.

    Guessing always gives the most frequent label. With two classes it is right half of the time.

    Args:
        utility: Accuracy of a run.
        of_original: That of its original; if it is no better than guessing, half of it decides.
        guessing: Accuracy of guessing, 0 where it is unknown.
    """
    floor = guessing if of_original > guessing else 0.0
    return utility - floor < (of_original - floor) / 2


def in_grid_order(runs: Iterable[Metrics]) -> list[Metrics]:
    """Return runs in the order of a grid search, without duplicates.

    Names of hyperparameters are sorted and the last one varies fastest. Of runs with equal results the first is kept.

    Args:
        runs: Runs of a point, in any order.
    """
    distinct: dict[str, Metrics] = {}
    for run in sorted(runs, key=grid_position):
        distinct.setdefault(_effective_point(run["hyperparameters"]), run)
    return list(distinct.values())


def grid_position(run: Metrics) -> list[tuple[int, float, str]]:
    """Return the sort key of grid order; numbers come before names.

    Args:
        run: Results of a run.
    """
    return [_sortable(value) for _, value in sorted(run["hyperparameters"].items())]


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _effective_point(hyperparameters: Metrics) -> str:
    """Return what a result depends on.

    For SSD with a dampening ratio of at least 1 that is only the product with the threshold: a parameter whose ratio of
    importances is below the product keeps its value, selected or not.
    """
    values = dict(hyperparameters)
    dampening = _dampening(values)
    if dampening is not None and values["dampening_ratio"] >= 1:
        values |= {"selection": None, "dampening_ratio": f"{dampening:.9g}"}
    return str(sorted(values.items()))


def _dampening(hyperparameters: Metrics) -> float | None:
    """Return SSD's constant gamma (lambda in Foster et al., 2024); None for another method."""
    factors = [hyperparameters.get(name) for name in ("selection", "dampening_ratio")]
    numbers = [float(factor) for factor in factors if isinstance(factor, int | float)]
    return numbers[0] * numbers[1] if len(numbers) == 2 else None


def _strength(run: Metrics) -> tuple[float, float]:
    """Return a sort key from the mildest run to the strongest: by dampening if it dampens, else by its fit of S_f."""
    dampening = _dampening(run["hyperparameters"])
    if dampening is None:
        return -run["fit_identified"], 0.0
    return -float(f"{dampening:.9g}"), -run["hyperparameters"]["selection"]


def _with(runs: Sequence[Metrics], needed: list[str]) -> list[Metrics]:
    return [run for run in runs if all(name in run for name in needed)]


def _largest(runs: Sequence[Metrics], needed: list[str], score: Callable[[Metrics], float]) -> Metrics | None:
    """Return the first run of the largest score among those that have everything needed."""
    return max(_with(runs, needed), key=score, default=None)
