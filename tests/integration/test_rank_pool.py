"""The two processes that other tests hand functions to."""

import os
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from tests.helpers import rank_pool
from tests.helpers.rank_pool import RankError, RankPool

pytestmark = pytest.mark.slow


def rank_and_sum(number: int) -> tuple[int, float, str, str]:
    """Return the rank, a sum over both, the folder and a variable."""
    total = torch.tensor(float(number * (dist.get_rank() + 1)))
    dist.all_reduce(total)
    return dist.get_rank(), total.item(), str(Path.cwd()), os.environ["MARK"]


def fail_on_rank_1() -> None:
    """Let rank 0 wait for rank 1 in vain."""
    if dist.get_rank() == 1:
        print("some words before", flush=True)
        raise ArithmeticError("too large")
    dist.barrier()


def die() -> None:
    """End without an answer."""
    os._exit(3)


@pytest.fixture
def pool(tmp_path):
    made = RankPool(tmp_path)
    yield made
    made.close()


def test_jobs_run_in_the_callers_place_on_the_same_processes(pool, tmp_path, monkeypatch):
    for mark, number in (("one", 2), ("two", 5)):
        monkeypatch.setenv("MARK", mark)
        expected = [(rank, 3.0 * number, str(tmp_path), mark) for rank in range(2)]
        assert pool.run(rank_and_sum, number) == expected
    assert pool.starts == 1


def test_a_failure_is_told_without_waiting_for_the_other_rank_and_the_next_job_runs(pool, monkeypatch):
    monkeypatch.setattr(rank_pool, "SECONDS_BEHIND", 0.5)
    monkeypatch.setenv("MARK", "after")
    with pytest.raises(RankError, match="too large") as raised:
        pool.run(fail_on_rank_1)
    for part in ("rank 1: Traceback", "rank 0 did not end", "some words before"):
        assert part in str(raised.value)
    assert [answer[1] for answer in pool.run(rank_and_sum, 1)] == [3.0, 3.0]


def test_a_death_and_a_job_that_does_not_end_are_failures(pool, monkeypatch):
    with pytest.raises(RankError, match=r"rank 0: the process died"):
        pool.run(die)
    monkeypatch.setattr(rank_pool, "SECONDS_OF_A_JOB", 0.5)
    with pytest.raises(RankError, match=r"rank 0 did not end\nrank 1 did not end"):
        pool.run(time.sleep, 600)
