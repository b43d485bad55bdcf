"""Grids in W&B's order; random and Bayesian searches by Optuna."""

import json
import math
import sys
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from scipy import stats

from cmu_lightning.__main__ import main
from cmu_lightning.sweep.file import read_file
from cmu_lightning.sweep.points import Point, Values
from cmu_lightning.sweep.queue import record_failure
from cmu_lightning.sweep.search import BayesSearch, Space, find_result, read_curve
from tests.sweep.studies import COMMAND, ROOT, SHIPPED, note_run, read_values, write_sweep

METRIC = {"name": "selection_score", "goal": "maximize"}
SSD = [*COMMAND, "--config", "poison_digits.yaml", "--config", "unlearn/ssd.yaml", "${args}"]
SELECTION = {
    "model.selection": {"distribution": "log_uniform_values", "min": 0.1, "max": 100.0},
    "model.dampening_ratio": {"values": [0.1, 1.0]},
}

GRIDS: dict[str, tuple[dict[str, Any], list[Values]]] = {
    "names are sorted": (
        {"b": {"values": [2, 1]}, "a": {"values": ["y", "x"]}, "B": {"values": [0.1, 0.2]}},
        [{"B": B, "a": a, "b": b} for B in (0.1, 0.2) for a in ("y", "x") for b in (2, 1)],
    ),
    "each value once": (
        {"a": {"values": [1, 2, 1]}, "b": {"values": [True, False]}},
        [{"a": 1, "b": True}, {"a": 1, "b": False}, {"a": 2, "b": True}, {"a": 2, "b": False}],
    ),
    "integers": ({"a": {"min": 1, "max": 4}, "b": {"value": "c"}}, [{"a": a, "b": "c"} for a in (1, 2, 3, 4)]),
    "steps": (
        {"a": {"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"}},
        [{"a": 0.0}, {"a": 0.25}, {"a": 0.5}, {"a": 0.75}],
    ),
    "nested": (
        {"m": {"parameters": {"z": {"values": [1, 2]}, "k": {"parameters": {"i": {"values": [3, 4]}}}}}},
        [{"m": {"k": {"i": i}, "z": z}} for i in (3, 4) for z in (1, 2)],
    ),
    "lists and mappings": ({"a": {"values": [[1, 2], {"x": 1}]}}, [{"a": [1, 2]}, {"a": {"x": 1}}]),
}
"""Parameters, and the points that W&B's own engine (the package `sweeps` 0.3) made of them."""

CONTINUOUS: dict[str, tuple[dict[str, Any], Any]] = {
    "uniform": ({"min": 0.5, "max": 2.0}, stats.uniform(0.5, 1.5)),
    "uniform of integers": ({"min": 1, "max": 2, "distribution": "uniform"}, stats.uniform(1, 1)),
    "log_uniform": (
        {"min": -5, "max": 2, "distribution": "log_uniform"},
        stats.loguniform(math.exp(-5), math.exp(2)),
    ),
    "log_uniform_values": ({"min": 1e-5, "max": 2, "distribution": "log_uniform_values"}, stats.loguniform(1e-5, 2)),
    "inv_log_uniform": (
        {"min": -5, "max": 2, "distribution": "inv_log_uniform"},
        stats.loguniform(math.exp(-2), math.exp(5)),
    ),
    "inv_log_uniform_values": (
        {"min": 1e-5, "max": 2, "distribution": "inv_log_uniform_values"},
        stats.loguniform(1e-5, 2),
    ),
    "normal": ({"distribution": "normal"}, stats.norm()),
    "another normal": ({"distribution": "normal", "mu": 3, "sigma": 0.5}, stats.norm(3, 0.5)),
    "log_normal": ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.e)),
    "beta": ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5)),
}
"""Parameters, and scipy's distribution of their values."""

ROUNDED: dict[str, tuple[dict[str, Any], Any]] = {
    "q_uniform": ({"min": 0.0, "max": 2.0, "q": 0.1, "distribution": "q_uniform"}, stats.uniform(0, 2)),
    "q_uniform of integers": ({"min": 0, "max": 100, "q": 5, "distribution": "q_uniform"}, stats.uniform(0, 100)),
    "q_log_uniform": (
        {"min": 1, "max": 4, "q": 0.5, "distribution": "q_log_uniform"},
        stats.loguniform(math.e, math.exp(4)),
    ),
    "q_log_uniform_values": ({"min": 1, "max": 400, "distribution": "q_log_uniform_values"}, stats.loguniform(1, 400)),
    "q_normal": ({"distribution": "q_normal", "mu": 3, "sigma": 5, "q": 0.25}, stats.norm(3, 5)),
    "q_log_normal": (
        {"distribution": "q_log_normal", "mu": 1, "sigma": 0.5, "q": 0.1},
        stats.lognorm(0.5, scale=math.e),
    ),
    "q_beta": ({"distribution": "q_beta", "a": 2, "b": 5, "q": 0.05}, stats.beta(2, 5)),
}
"""Parameters, and scipy's distribution of their values before they are rounded to multiples of q."""


def draw_values(parameter: dict[str, Any], count: int = 400) -> list[Any]:
    """Return random values of one parameter."""
    path = write_sweep({"a": parameter}, method="random", run_cap=count)
    return [values["a"] for values in read_values(path)]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_shipped_grids_are_in_wandbs_order(path: Path) -> None:
    """Parameters sorted by name, the last one varies fastest."""
    parameters = read_file(path).content["parameters"]
    axes = [given.get("values", [given.get("value")]) for _, given in sorted(parameters.items())]
    assert read_values(path) == [dict(zip(sorted(parameters), values, strict=True)) for values in product(*axes)]


@pytest.mark.parametrize("name", GRIDS)
def test_other_grids_are_those_of_wandbs_engine(name: str) -> None:
    parameters, points = GRIDS[name]
    assert read_values(write_sweep(parameters)) == points


@pytest.mark.parametrize("name", CONTINUOUS)
def test_random_values_have_the_distribution_that_is_asked_for(name: str) -> None:
    parameter, distribution = CONTINUOUS[name]
    values = draw_values(parameter)
    assert all(type(value) is float for value in values)
    assert stats.kstest(values, distribution.cdf).pvalue > 0.01


@pytest.mark.parametrize("name", ROUNDED)
def test_random_values_are_multiples_of_q(name: str) -> None:
    """Their distribution function, half a step to the right of each multiple, is that of the values before rounding."""
    parameter, distribution = ROUNDED[name]
    values, step = draw_values(parameter), parameter.get("q", 1.0)
    assert all(type(value) is type(step) for value in values)
    assert all(math.isclose(value / step, round(value / step), abs_tol=1e-9) for value in values)
    for multiple in set(values):
        share = sum(value <= multiple for value in values) / len(values)
        assert share == pytest.approx(distribution.cdf(multiple + step / 2), abs=0.08)


def test_random_choices_have_the_probabilities_that_are_asked_for() -> None:
    integers = draw_values({"min": 3, "max": 11})
    assert set(integers) == set(range(3, 12))
    assert stats.chisquare([integers.count(value) for value in range(3, 12)]).pvalue > 0.01
    alike = draw_values({"values": ["x", [1], {"y": 2}]})
    assert stats.chisquare([alike.count(value) for value in ("x", [1], {"y": 2})]).pvalue > 0.01
    weighted = draw_values({"values": ["x", "y", "z"], "probabilities": [0.1, 0.6, 0.3]})
    assert stats.chisquare([weighted.count(value) for value in "xyz"], [40, 240, 120]).pvalue > 0.01


def test_a_random_search_draws_the_same_points_every_time() -> None:
    """A larger `run_cap` adds points; nested names, dotted ones and constants are drawn side by side."""
    parameters = {
        "b": {"value": 1},
        "a": {"parameters": {"y": {"min": 0.0, "max": 1.0}, "x": {"values": [1, 2]}}},
        "a.y": {"min": 2.0, "max": 3.0},
    }
    ten = read_values(write_sweep(parameters, method="random", run_cap=10))
    twenty = read_values(write_sweep(parameters, method="random", run_cap=20))
    assert twenty[:10] == ten
    assert len({json.dumps(values) for values in twenty}) == 20
    for values in twenty:
        assert values["b"] == 1
        assert set(values["a"]) == {"x", "y"}
        assert 0 < values["a"]["y"] < 1 < values["a.y"]


def test_optuna_reports_nothing_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    draw_values({"min": 0.0, "max": 1.0}, 3)
    assert optuna.logging.get_verbosity() == before
    assert capsys.readouterr() == ("", "")


def bayes_search(runs_dir: Path = Path("runs"), run_cap: int = 8, **keys: Any) -> BayesSearch:
    """Return a Bayesian search of SSD's hyperparameters."""
    given = {"command": SSD, "method": "bayes", "metric": METRIC, "run_cap": run_cap} | keys
    path = write_sweep(SELECTION, **given)
    return BayesSearch(read_file(path), runs_dir)


def propose(search: BayesSearch) -> Point:
    """Return the next proposal, of which there must be one."""
    point = search.propose()
    assert point is not None
    return point


def test_bayes_proposes_what_optuna_does() -> None:
    """From finished and failed runs, from one without the metric, and from one that is under way."""
    search = bayes_search(run_cap=24)
    distributions = Space(search.sweep).distributions
    told = []
    for at in range(24):
        study = optuna.create_study(
            sampler=optuna.samplers.TPESampler(seed=at, constant_liar=True), direction="maximize"
        )
        study.add_trials(told)
        draws = study.ask(distributions).params
        point = propose(search)
        assert point.values == {
            "model.selection": draws["model.selection"],
            "model.dampening_ratio": [0.1, 1.0][draws["model.dampening_ratio"]],
        }
        kind = ["finished", "running", "failed", "unmeasured", "finished"][at % 5]
        state, score = optuna.trial.TrialState.FAIL, None
        if kind == "finished":
            state, score = optuna.trial.TrialState.COMPLETE, 0.3 + at / 50
            note_run(point, {"selection_score": score})
        elif kind == "running":
            state = optuna.trial.TrialState.RUNNING
            note_run(point, None)
        elif kind == "failed":
            record_failure(point, 1)
        else:
            note_run(point, {"val_acc": 1.0})
        told.append(optuna.trial.create_trial(state=state, value=score, params=draws, distributions=distributions))
    assert search.propose() is None


@pytest.mark.parametrize(("goal", "sign"), [("maximize", -1), ("minimize", 1)])
def test_bayes_approaches_the_optimum(goal: str, sign: int) -> None:
    search = bayes_search(run_cap=40, metric={"name": "selection_score", "goal": goal})
    distances = []
    for _ in range(40):
        point = propose(search)
        distances.append(abs(math.log10(point.values["model.selection"])))  # the optimum is at 1
        note_run(point, {"selection_score": sign * distances[-1] ** 2})
    at_random = (0.5 + 2) / 3  # the mean distance of a uniform exponent from -1 to 2
    assert sum(distances[20:]) / 20 < 0.6 * at_random


def test_a_bayes_search_that_is_killed_continues_with_its_own_points() -> None:
    first = [propose(bayes_search()).values for _ in range(3)]
    assert [point.values for point in bayes_search().points()] == first
    fourth = propose(bayes_search())
    undisturbed = bayes_search(Path("elsewhere"))
    assert [propose(undisturbed).values for _ in range(4)] == [*first, fourth.values]
    assert bayes_search(command=[*SSD, "--threads", "1"]).points() == [], "another search"


def test_damaged_proposals_are_reported(capsys: pytest.CaptureFixture[str]) -> None:
    search = bayes_search()
    propose(search)
    whole = search.path.read_text()
    digit = next(at for at in range(len(whole)) if whole[at - 1] == "." and whole[at].isdigit())
    other_value = whole[:digit] + ("1" if whole[digit] != "1" else "2") + whole[digit + 1 :]
    for damaged in ("[", "{}", "[" * 100_000, other_value):
        search.path.write_text(damaged)
        assert main(["sweep", str(search.sweep.path), "--dry_run"]) == 2
        assert f"error: {search.path} is damaged: delete it" in capsys.readouterr().err


def test_a_metric_that_is_no_result_is_read_from_the_log() -> None:
    search = bayes_search(metric={"name": "train_loss", "goal": "minimize"})
    point = propose(search)
    assert find_result(point) is None
    run = note_run(point, None)
    for version, rows in enumerate((["0.9,", ",0.1"], ["0.7,", "0.5,", ",0.2"])):
        path = run / "csv" / f"version_{version}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(["train_loss,val_acc", *rows]) + "\n")
    assert find_result(point) is None, "it has not finished"
    note_run(point, {"val_acc": 0.2})
    assert read_curve(run, "train_loss") == [0.9, 0.7, 0.5]
    assert find_result(point) == 0.5
    (run / "metrics.json").write_text("{")
    assert find_result(point) is None, "its results are damaged"


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_without_optuna_a_sentence_says_what_to_install(
    method: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    path = write_sweep(SELECTION, command=SSD, method=method, metric=METRIC, run_cap=2)
    assert main(["sweep", str(path), "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"method {method} needs Optuna, which is not installed" in error
    assert "pip install '.[search]'" in error
