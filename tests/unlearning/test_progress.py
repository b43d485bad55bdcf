"""How far a stage is, in a terminal and in a log file."""

import re
from types import SimpleNamespace

import pytest
import rich
import torch

from cmu_lightning.console import bar
from cmu_lightning.unlearning import SSD, Original, Potion, TunedSSD
from cmu_lightning.unlearning.progress import StageLines, StageProgress, progress
from tests.helpers.short_stages import LINEAR, SHORT, CheckpointAfter, digits, trainer


def run(tmp_path, bar, stage, *callbacks, **more):
    made = trainer(tmp_path, bar, *callbacks, enable_progress_bar=True, log_every_n_steps=5)
    made.fit(stage, datamodule=digits(identified=0.5), **more)
    made.test(stage, datamodule=made.datamodule, verbose=False)


@pytest.mark.parametrize(("terminal", "kind"), [(True, StageProgress), (False, StageLines)])
def test_a_terminal_has_a_bar_and_a_log_file_has_lines(terminal, kind):
    rich.reconfigure(force_terminal=terminal)
    try:
        assert type(progress()) is kind
    finally:
        rich.reconfigure()


def test_a_line_tells_the_step_the_curves_and_the_time_left(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("cmu_lightning.unlearning.progress.time", SimpleNamespace(monotonic=lambda: 0.0))
    run(tmp_path, StageLines(seconds=0), Original(LINEAR, SHORT))
    lines = capsys.readouterr().out.splitlines()
    steps = [line for line in lines if line.startswith("Original")]
    assert steps[0] == "Original: 1 of 24, 0:00:00 left"
    assert re.fullmatch(r"Original: 24 of 24, train_loss \d+\.\d{3}, 0:00:00 left", steps[-1])
    assert len(steps) == 24
    assert lines[24:] == 3 * ["Testing: 1 of 1, 0:00:00 left"]  # test, training and validation images


@pytest.fixture
def original(tmp_path):
    path = tmp_path / "original.ckpt"
    torch.save({"state_dict": Original(LINEAR, SHORT).state_dict()}, path)
    return str(path)


def test_a_pass_within_a_step_has_lines_of_its_own(tmp_path, capsys, original):
    run(tmp_path, StageLines(seconds=0), SSD(LINEAR, SHORT, original=original))
    passes = [line.rpartition(",")[0] for line in capsys.readouterr().out.splitlines() if "importances" in line]
    retain = [f"importances over the retain data: {batch} of 4" for batch in (1, 2, 3, 4)]
    assert passes == ["importances over S_f: 1 of 1", *retain]


@pytest.mark.parametrize(
    ("method", "what", "total"), [(TunedSSD, "SSD's grid", 39), (Potion, "dampening, at most", 500)]
)
def test_a_search_within_a_step_has_lines_of_its_own(tmp_path, capsys, original, method, what, total):
    run(tmp_path, StageLines(seconds=0), method(LINEAR, SHORT, original=original))
    lines = [line.rpartition(",")[0] for line in capsys.readouterr().out.splitlines() if line.startswith(what)]
    assert lines == [f"{what}: {done} of {total}" for done in range(1, len(lines) + 1)]
    assert len(lines) == total if method is TunedSSD else 0 < len(lines) < total


def test_the_bar_of_a_search_moves_and_does_not_stay_when_it_ends_early(tmp_path, original):
    bar = StageProgress()
    seen = []

    class Watched(Potion):
        def dampen(self, factor):
            seen.append({task.description: task.completed for task in bar.progress.tasks if task.visible})
            super().dampen(factor)

    run(tmp_path, bar, Watched(LINEAR, SHORT, original=original))
    *search, last = seen
    assert len(search) > 2
    assert [found["dampening, at most"] for found in search] == [*range(len(search))]
    assert all(len(found) == 2 for found in search), "the bars of both importances are gone"
    assert len(last) == 1, "the last dampening is after the search"


def test_short_work_says_nothing(tmp_path, capsys):
    run(tmp_path, StageLines(), Original(LINEAR, SHORT))
    assert capsys.readouterr().out == ""


def test_the_time_left_after_a_resume_is_of_its_own_steps(tmp_path, capsys, monkeypatch):
    """20 of 24 steps were another process's; at two seconds a step the 21st leaves six, not a fraction of one."""
    checkpoint = tmp_path / "last.ckpt"
    run(tmp_path, StageLines(), Original(LINEAR, SHORT), CheckpointAfter(checkpoint, 20))
    looks = iter(range(100))  # two at the clock for a line
    monkeypatch.setattr("cmu_lightning.unlearning.progress.time", SimpleNamespace(monotonic=lambda: next(looks)))
    run(tmp_path, StageLines(seconds=0), Original(LINEAR, SHORT), ckpt_path=str(checkpoint), weights_only=True)
    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Original")]
    told = [(line.partition(",")[0], line[-6:-5]) for line in steps]
    assert told == [(f"Original: {step} of 24", str(2 * (24 - step))) for step in (21, 22, 23, 24)]


@pytest.mark.parametrize(
    ("environment", "shown"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "LOCAL_RANK": "1"}, False)],
    ids=["a log file", "a terminal", "another process"],
)
def test_work_outside_of_a_stage_has_a_bar_in_a_terminal(capsys, monkeypatch, environment, shown):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert list(bar(iter("abc"), "reading", 3)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert out == ""
    assert ("reading" in err) is shown
    assert shown or err == ""


@pytest.mark.parametrize(("rank", "lines"), [("0", 2), ("1", 0)])
def test_work_outside_of_a_stage_has_lines_in_a_log_file(capsys, monkeypatch, rank, lines):
    looks = iter([0.0, 10.0, 40.0, 50.0, 80.0])
    monkeypatch.setattr("cmu_lightning.console.time", SimpleNamespace(monotonic=lambda: next(looks)))
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert list(bar("abcd", "reading", 4)) == [*"abcd"]
    told = ["reading: 2 of 4, 0:00:40 left\n", "reading: 4 of 4, 0:00:00 left\n"]
    assert capsys.readouterr().err == "".join(told[:lines])
