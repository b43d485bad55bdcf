"""Whose weights a sweep drops, by results alone. Nothing runs."""

import json
from pathlib import Path

import pytest

from cmu_lightning.experiment.ledger import MAY_CHANGE
from cmu_lightning.experiment.run import read_metrics
from cmu_lightning.sweep.file import read_file
from cmu_lightning.sweep.points import Point, order_points
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.queue import Queue
from cmu_lightning.sweep.runner import Runner
from cmu_lightning.sweep.search import list_points
from cmu_lightning.sweep.weights import CHOSEN, WeightChoice, drop_weights, keep_weights
from tests.sweep.studies import COMMAND, note_run, write_sweep

RUNS = Path("runs")
SSD = [*COMMAND, "--config", "poison_digits.yaml", "--config", "unlearn/ssd.yaml", "${args}"]


def selection_points(name: str, *selections: float) -> list[Point]:
    """Return the points of a new sweep file over SSD's thresholds."""
    path = write_sweep({"model.selection": {"values": list(selections)}}, name=name, command=SSD)
    return list_points(read_file(path), RUNS)


def finish(point: Point, score: float, name: str | None = None, ending: str = "", content: str | None = None) -> Path:
    """Leave what a run of the point leaves, and return its folder."""
    metrics = {"original": "abc", "hyperparameters": dict(point.values), "selection_score": score, "content": content}
    run = note_run(point, metrics, ending, name)
    (run / "config.yaml").write_text(f"seed_everything: 0\n{CHOSEN}")
    (run / "last.ckpt").write_text("")
    return run


def kept_runs() -> set[str]:
    """Return the names of the runs that have weights."""
    return {path.parent.name for path in RUNS.glob("*/*/*/last.ckpt")}


def test_the_best_keeps_its_weights_once_all_have_finished() -> None:
    grid = selection_points("a.yaml", 1, 10, 100)
    choice, runs = WeightChoice(grid), []
    for point, score in zip(grid, (0.5, 0.7, 0.7), strict=True):
        runs.append(finish(point, score).name)
        choice.settle(point)
        assert kept_runs() == ({*runs} if len(runs) < 3 else {runs[1]}), "of equal ones the first"


def test_of_equal_ones_the_first_is_the_reports_and_not_the_files() -> None:
    grid = selection_points("a.yaml", 100, 10)
    for point in grid:
        finish(point, 0.5)
    WeightChoice(grid).settle(grid[0])
    (values,) = [dict(point.values) for point in grid if f"0-{point.key[:10]}" in kept_runs()]
    assert values == {"model.selection": 10}


def test_what_a_killed_sweep_has_not_dropped_the_next_one_drops() -> None:
    grid = selection_points("a.yaml", 1, 10)
    for point, score in zip(grid, (0.5, 0.7), strict=True):
        finish(point, score)
    Runner(Queue([]), SweepProgress(2, 2), [], choice=WeightChoice(grid)).run()
    assert kept_runs() == {f"0-{grid[1].key[:10]}"}


def test_a_point_of_two_files_keeps_its_weights_if_either_chooses_it() -> None:
    one, two = selection_points("a.yaml", 1, 10, 100), selection_points("b.yaml", 10, 1000)
    assert len(order_points([*one, *two])) == 4
    choice = WeightChoice([*one, *two])
    scores = {one[0]: 0.1, one[1]: 0.8, one[2]: 0.9, two[1]: 0.2}
    for point, score in scores.items():
        finish(point, score)
        choice.settle(point)
    assert kept_runs() == {f"0-{point.key[:10]}" for point in (one[1], one[2])}


def test_groups_that_another_process_has_settled_count_too() -> None:
    """As after an interruption, or where two sweeps share the work."""
    one, two = selection_points("a.yaml", 1, 10), selection_points("b.yaml", 10, 1000)
    for point, score in {one[0]: 0.9, one[1]: 0.1, two[1]: 0.8}.items():
        finish(point, score)
    WeightChoice([*one, *two]).settle(two[1])
    assert kept_runs() == {f"0-{point.key[:10]}" for point in (one[0], two[1])}


def test_runs_of_files_as_they_were_are_compared_with_no_others() -> None:
    """A note of what may have changed leads to the last run until there is another one."""
    grid = selection_points("a.yaml", 1, 10, 100)
    for point, score in zip(grid, (0.5, 0.9, 0.6), strict=True):
        finish(point, score, f"old{point.key[:7]}", MAY_CHANGE, "old")
    WeightChoice(grid).settle(grid[0])
    old = {f"0-old{grid[1].key[:7]}"}
    assert kept_runs() == old
    choice, runs = WeightChoice(grid), []
    for point, score in zip(grid, (0.7, 0.6, 0.5), strict=True):
        runs.append(finish(point, score, None, MAY_CHANGE, "new").name)
        choice.settle(point)
        assert kept_runs() == old | ({*runs} if len(runs) < 3 else {runs[0]})


def test_damaged_results_settle_nothing() -> None:
    grid = selection_points("a.yaml", 1, 10)
    runs = [finish(point, 0.5) for point in grid]
    (runs[0] / "metrics.json").write_text("{")
    WeightChoice(grid).settle_all([])
    assert len(kept_runs()) == 2


@pytest.mark.parametrize("config", ["checkpoints: all\n", "checkpoints: none\n", None])
def test_weights_that_a_user_asked_for_stay(config: str | None) -> None:
    (point,) = selection_points("a.yaml", 1)
    run = finish(point, 0.5)
    (run / "config.yaml").unlink()
    if config is not None:
        (run / "config.yaml").write_text(config)
    drop_weights(run)
    assert (run / "last.ckpt").exists()


def test_dropped_weights_are_named_in_the_results_before_they_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed in between leaves weights that the next one deletes."""
    (point,) = selection_points("a.yaml", 1)
    run = finish(point, 0.5)
    stored = json.loads((run / "metrics.json").read_text())
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            drop_weights(run)
    assert read_metrics(run) == stored | {"dropped_checkpoint": "last.ckpt", "environment": {}}
    assert (run / "last.ckpt").exists()
    drop_weights(run)
    assert not (run / "last.ckpt").exists()


def test_weights_that_are_kept_are_never_dropped() -> None:
    (point,) = selection_points("a.yaml", 1)
    run = finish(point, 0.5)
    keep_weights(run)
    assert (run / "config.yaml").read_text() == "seed_everything: 0\ncheckpoints: all\n"
    drop_weights(run)
    assert (run / "last.ckpt").exists()
