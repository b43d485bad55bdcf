"""What is shown of a sweep's progress."""

import pytest

from cmu_lightning.sweep.progress import SweepProgress


def test_the_time_left_is_shown_for_long_runs_too() -> None:
    now = 0.0
    progress = SweepProgress(10, done=0)
    progress.get_time = lambda: now
    progress.reset(progress.sweep, total=10, running=0, failed=0)
    for _ in range(4):
        now += 600
        progress.show(running=1, done=1)
    left = progress.tasks[0].time_remaining
    assert left is not None
    assert 3000 < left < 4000


def test_a_log_file_has_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    progress = SweepProgress(100, done=10)
    progress.get_time = lambda: now
    progress.last_line = 0.0
    progress.reset(progress.sweep, total=100, completed=10, running=0, failed=0)
    for second in range(1, 151):
        now = float(second)
        progress.show(running=2, done=int(second % 5 == 0), failed=int(second == 70))
    said = capsys.readouterr().err.splitlines()
    assert [line.partition(",")[0] for line in said] == ["22 of 100 done", "34 of 100 done"]
    assert "2 running, 1 failed, 0:0" in said[1]
