"""Whose weights a sweep drops, by results alone."""

from pathlib import Path
from types import SimpleNamespace

import yaml

from cmu_lightning.experiment.ledger import MAY_CHANGE
from cmu_lightning.files import write_json
from cmu_lightning.sweep import failures, stopped
from cmu_lightning.sweep.file import read
from cmu_lightning.sweep.hyperband import Hyperband
from cmu_lightning.sweep.points import listed, of_files
from cmu_lightning.sweep.queue import Queue
from cmu_lightning.sweep.runner import Runner
from cmu_lightning.sweep.weights import MARKS, Choice

RUNS = Path("runs")
COMMAND = ["-m", "cmu_lightning", "fit", "--config", "poison_digits.yaml", "--config", "unlearn/ssd.yaml", "${args}"]


def points(name, *selections):
    """Of a sweep file over SSD's thresholds."""
    content = {"program": "cmu_lightning", "method": "grid", "command": COMMAND}
    content["parameters"] = {"model.selection": {"values": list(selections)}}
    Path(name).write_text(yaml.safe_dump(content))
    return of_files([read(Path(name))], RUNS)


def finish(point, score, run=None, note="", **more):
    """What a run of the point leaves."""
    run = RUNS / "poison_digits" / "SSD" / f"0-{run or point.key[:10]}"
    of = {"hash": run.name[2:], "original": "abc", "hyperparameters": dict(point.values)}
    write_json(run / "metrics.json", of | {"selection_score": score} | more)
    (run / "config.yaml").write_text(f"{MARKS[0]}\n")
    (run / "last.ckpt").write_text("")
    path = RUNS / ".sweep" / "asked" / point.key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(str(run.relative_to(RUNS)) + note)
    return run


def kept():
    return {path.parent.name for path in RUNS.glob("*/*/*/last.ckpt")}


def test_the_best_keeps_its_weights_once_all_have_finished():
    grid = points("a.yaml", 1, 10, 100)
    choice, runs = Choice(grid), []
    for point, score in zip(grid, (0.5, 0.7, 0.7), strict=True):
        runs.append(finish(point, score).name)
        choice.settle(point)
        assert kept() == ({*runs} if len(runs) < 3 else {runs[1]}), "of equal ones the first"


def test_of_equal_ones_the_first_is_the_reports_and_not_the_files():
    grid = points("a.yaml", 100, 10)
    for point in grid:
        finish(point, 0.5)
    Choice(grid).settle(grid[0])
    (kept_values,) = [dict(point.values) for point in grid if f"0-{point.key[:10]}" in kept()]
    assert kept_values == {"model.selection": 10}


def test_what_a_killed_sweep_has_not_dropped_the_next_one_drops():
    grid, progress = points("a.yaml", 1, 10), SimpleNamespace(show=lambda **_: None)
    for point, score in zip(grid, (0.5, 0.7), strict=True):
        finish(point, score)
    Runner(Queue([]), Choice(grid), 1, [], progress, Hyperband()).run()
    assert kept() == {f"0-{grid[1].key[:10]}"}


def test_a_point_of_two_files_keeps_its_weights_if_either_chooses_it():
    one, two = points("a.yaml", 1, 10, 100), points("b.yaml", 10, 1000)
    assert len(listed([*one, *two])) == 4
    choice = Choice([*one, *two])
    scores = {one[0]: 0.1, one[1]: 0.8, one[2]: 0.9, two[1]: 0.2}
    for point, score in scores.items():
        finish(point, score)
        choice.settle(point)
    assert kept() == {f"0-{point.key[:10]}" for point in (one[1], one[2])}


def test_rivals_that_another_process_has_settled_are_known_too():
    """As after an interruption, or where two sweeps share the work."""
    one, two = points("a.yaml", 1, 10), points("b.yaml", 10, 1000)
    for point, score in {one[0]: 0.9, one[1]: 0.1, two[1]: 0.8}.items():
        finish(point, score)
    Choice([*one, *two]).settle(two[1])
    assert kept() == {f"0-{point.key[:10]}" for point in (one[0], two[1])}


def test_runs_of_files_as_they_were_are_compared_with_no_others():
    """A note of what may have changed leads to the last run until there is another one."""
    grid = points("a.yaml", 1, 10, 100)
    for point, score in zip(grid, (0.5, 0.9, 0.6), strict=True):
        finish(point, score, f"old{point.key[:7]}", MAY_CHANGE, content="old")
    Choice(grid).settle(grid[0])
    old = {f"0-old{grid[1].key[:7]}"}
    assert kept() == old
    choice, runs = Choice(grid), []
    for point, score in zip(grid, (0.7, 0.6, 0.5), strict=True):
        runs.append(finish(point, score, None, MAY_CHANGE, content="new").name)
        choice.settle(point)
        assert kept() == old | ({*runs} if len(runs) < 3 else {runs[0]})


def test_rivals_that_were_all_stopped_early_settle_nothing():
    grid = points("a.yaml", 1, 10)
    for point in grid:
        stopped.mark(point)
    Choice(grid).settle(grid[0])
    assert kept() == set()


def test_what_another_sweep_has_stopped_is_not_begun():
    grid, begun = points("a.yaml", 1, 10, 100), []
    for point in grid[1:]:
        failures.record(point, 1)
    progress = SimpleNamespace(show=lambda **_: None)
    runner = Runner(Queue(grid), None, 0, [], progress, Hyperband())
    runner.workers = [SimpleNamespace(point=None, begin=lambda point, *_: begun.append(point))]
    stopped.mark(grid[0])
    runner._hand_out()
    assert begun == grid[1:]
    assert not any(failures.has_failed(point) for point in grid), "while they run they are no failures"
