"""The queue, and the record of failed runs."""

import json

from cmu_lightning.sweep.queue import Failure, Queue, forget_failure, has_failed, log_path, record_failure
from tests.sweep.studies import read_points, write_sweep


def test_workers_do_not_wait_for_one_original() -> None:
    """Originals first; then one point of each original, before a second one of any."""
    unlearners = write_sweep(
        {"model.class_path": {"values": ["CF", "RewoD"]}, "seed_everything": {"values": [0, 1]}}, name="unlearners.yaml"
    )
    originals = write_sweep({"seed_everything": {"values": [0, 1]}}, name="z_originals.yaml")
    points = read_points(unlearners, originals)
    assert [point.is_original for point in points] == [True, True, False, False, False, False]
    queue = Queue(points[2:])
    first, second, third = queue.take(), queue.take(), queue.take()
    assert first is not None
    assert second is not None
    assert first.origin != second.origin
    assert third is not None, "nothing else is left to do"
    queue.release(second, finished=True)
    fourth = queue.take()
    assert fourth is not None
    assert fourth.origin == second.origin or len(queue.waiting) == 0
    assert Queue(points[2:3]).take() is None, "another process works on it"


def test_a_failure_is_kept_until_the_run_is_tried_again() -> None:
    (point,) = read_points(write_sweep({"seed_everything": {"value": 0}}))
    log_path(point).parent.mkdir(parents=True)
    log_path(point).write_text("\n".join([*(f"line {at}" for at in range(30)), "ValueError: no", "", "the end"]))
    failure = record_failure(point, 1)
    assert has_failed(point)
    assert failure.reason == "ValueError: no"
    stored = json.loads(point.record("failed").read_text())
    assert stored == {"arguments": list(point.arguments), "code": 1, "lines": failure.lines}
    assert len(failure.lines) == 20
    forget_failure(point)
    assert not has_failed(point)
    assert not log_path(point).exists()
    forget_failure(point)


def test_the_reason_of_a_failure_is_one_line() -> None:
    (point,) = read_points(write_sweep({"seed_everything": {"value": 0}}))
    assert Failure(point, 1, []).reason == "exit code 1"
    assert Failure(point, 1, ["one", "two"]).reason == "two"
    assert Failure(point, -9, ["one"]).reason == "its process was ended by SIGKILL, twice"
