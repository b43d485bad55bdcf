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
from cmu_lightning.sweep import check, parse, runner
from cmu_lightning.sweep.points import Point


class InlineWorker:
    """A worker without a process: it carries an order out as soon as it has it.

    Args:
        variables: Environment variables of its runs.
    """

    is_dead = False

    def __init__(self, variables: dict[str, str]) -> None:
        self.variables = variables
        self.point: Point | None = None
        self.answered: int | str | None = None

    def fit(self, point: Point, options: list[str], log: Path) -> None:
        """Run a point, its output in a file and its changes of the environment undone."""
        self.point = point
        environment, argv = dict(os.environ), list(sys.argv)
        log.parent.mkdir(parents=True, exist_ok=True)
        os.environ.update(self.variables)
        try:
            with log.open("w") as file, redirect_stdout(file), redirect_stderr(file), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # in a worker they are no errors
                self.answered = _exit_code([*point.arguments, *options])
        finally:
            os.environ.clear()
            os.environ.update(environment)
            sys.argv[:] = argv

    def parse(self, point: Point) -> None:
        """Parse a point."""
        self.point = point
        self.answered = parse.find_mistake(list(point.arguments)) or ""

    def answer(self) -> int | str | None:
        """Return the answer to the last order."""
        return self.answered

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

    def start(count: int, variables: dict[str, str]) -> list[InlineWorker]:
        return [InlineWorker(variables) for _ in range(count)]

    with pytest.MonkeyPatch.context() as patch:
        for module in (check, runner):
            patch.setattr(module, "start_workers", start)
            patch.setattr(module, "wait_for_answer", lambda *_: None)
        patch.setattr(CorruptedDataModule, "kept", {})
        yield
