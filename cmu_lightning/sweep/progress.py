"""The progress of a sweep: a bar in a terminal, lines in a log file, and a table of the runs that failed."""

from collections.abc import Sequence
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.table import Table

from cmu_lightning.console import PlainConsole
from cmu_lightning.sweep.queue import FAILED, Failure

PERIOD_OF_LINES = 60.0
"""Seconds between two lines if no terminal can show a bar, such as in a cluster's log."""
PERIOD_OF_ESTIMATE = 7 * 24 * 3600.0
"""Period over which the remaining time is estimated, in seconds; long because runs take minutes or hours."""


class SweepProgress(Progress):
    """A bar with the numbers of running and failed runs and the time left.

    Args:
        total: Number of runs.
        done: Number of runs that were finished before.
    """

    def __init__(self, total: int, done: int) -> None:
        super().__init__(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("done, {task.fields[running]} running, {task.fields[failed]} failed,"),
            TimeElapsedColumn(),
            TextColumn("passed,"),
            TimeLeftColumn(),
            TextColumn("left"),
            console=PlainConsole(stderr=True),
            speed_estimate_period=PERIOD_OF_ESTIMATE,
        )
        self.failed = 0
        self.last_line = self.get_time()
        self.sweep: TaskID = self.add_task("sweep", total=total, completed=done, running=0, failed=0)

    def show(self, running: int, done: int = 0, failed: int = 0) -> None:
        """Count runs, and show the numbers.

        Args:
            running: Number of runs under way.
            done: Number of runs that have finished since the last call.
            failed: Number of runs that have failed since the last call.
        """
        self.failed += failed
        self.update(self.sweep, advance=done, running=running, failed=self.failed)
        is_due = self.get_time() - self.last_line >= PERIOD_OF_LINES
        if (done or failed) and is_due and not self.console.is_terminal:
            self.last_line = self.get_time()
            task = self.tasks[0]
            left = "" if task.time_remaining is None else f", {timedelta(seconds=int(task.time_remaining))} left"
            self.say(f"{int(task.completed)} of {task.total} done, {running} running, {self.failed} failed{left}")

    def say(self, line: str) -> None:
        """Print a line above the bar.

        Args:
            line: Text without markup.
        """
        self.console.print(line, markup=False)


def show_failures(failures: Sequence[Failure]) -> None:
    """Print a table of the runs that failed.

    Args:
        failures: At least one.
    """
    folder = failures[0].point.record(FAILED).parent
    table = Table(title=f"{len(failures)} failed; their last lines are in {folder}", show_lines=True)
    table.add_column("run", overflow="fold")
    table.add_column("why", overflow="fold")
    for failure in failures:
        table.add_row(str(failure.point), failure.reason)
    PlainConsole(stderr=True).print(table)
