"""Sweep workers without processes."""

import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from cmu_lightning.cli.fit import main
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.sweep.points import Point


class InProcessWorker:
    """A stand-in for a worker process: a point has ended as soon as it has begun.

    Args:
        gpu: Ignored; the tests run on the CPU.
    """

    is_dead = False

    def __init__(self, gpu: str | None) -> None:
        self.point: Point | None = None
        self.code = 0

    def begin(self, point: Point, arguments: list[str], log: Path) -> None:
        """Run a point, its output in a file and its changes of the environment undone."""
        self.point = point
        environment, argv = dict(os.environ), list(sys.argv)
        log.parent.mkdir(parents=True, exist_ok=True)
        try:
            with log.open("w") as file, redirect_stdout(file), redirect_stderr(file), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # in a worker they are no errors
                self.code = _exit_code(arguments)
        finally:
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[:] = argv

    def ended(self) -> int:
        """Return the exit code of the point."""
        return self.code

    def interrupt(self) -> None:
        """Do nothing: no point runs while this can be called."""

    def end(self, seconds: float) -> None:
        """Do nothing: there is no process to end."""


def _exit_code(arguments: list[str]) -> int:
    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1


@contextmanager
def in_process_workers() -> Iterator[None]:
    """Run the points of sweeps and repairs in this process, which reads a data set once, as a worker does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cmu_lightning.sweep.runner.Worker", InProcessWorker)
        patch.setattr("cmu_lightning.sweep.runner.wait_for", lambda workers, seconds: None)
        patch.setattr(CorruptedDataModule, "kept", {})
        yield
