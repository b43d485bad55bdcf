"""The workers' side of a sweep, without a process."""

import multiprocessing
import os
import signal
import threading
from queue import SimpleQueue

import pytest

from cmu_lightning.sweep import worker


@pytest.mark.parametrize("answers", [0, 1])
def test_a_worker_ends_with_its_sweep_even_if_that_had_not_read_an_answer(
    answers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[tuple[int, ...]] = []
    monkeypatch.setattr(os, "killpg", lambda *given: ended.append(given))
    sweeps, own = multiprocessing.Pipe()
    for _ in range(answers):
        own.send(0)
    sweeps.close()
    worker._listen(own, SimpleQueue())
    assert ended == [(0, signal.SIGKILL)]


def test_ctrl_c_waits_while_processes_are_started() -> None:
    """It reaches none of them, and the sweep as soon as they have started."""
    started = []

    def start() -> None:
        with worker._blocked_interrupts():
            # To this thread: another one of a test runner would take a signal to the process.
            signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            started.append(True)

    with pytest.raises(KeyboardInterrupt):
        start()
    assert started == [True]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@pytest.mark.parametrize(("visible", "expected"), [("3,5", ["3", "5", "3"]), ("", [None, None, None])])
def test_gpus_are_shared_out(visible: str, expected: list[str | None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(worker, "Worker", lambda gpu, variables: gpu)
    assert worker.start_workers(3, {}) == expected


def test_an_exception_in_ones_own_class_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(arguments: list[str]) -> str | None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("cmu_lightning.sweep.parse.find_mistake", fail)
    assert worker._parse(worker.Parse(["fit"])) == "ZeroDivisionError: division by zero"
