"""How far a sweep is."""

from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn

QUIET = 60.0
"""Seconds between two lines where there is no terminal to draw a bar in, such as in a cluster's log."""
PERIOD = 7 * 24 * 3600.0
"""Seconds over which the time left is estimated: runs take minutes or hours."""


class SweepProgress(Progress):
    """A bar with the numbers of running and failed runs, and the time left.

    Args:
        total: Number of runs.
        done: How many of them were finished before.
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
            console=Console(stderr=True),
            speed_estimate_period=PERIOD,
        )
        self.failed = 0
        self.said = self.get_time()
        self.sweep: TaskID = self.add_task("sweep", total=total, completed=done, running=0, failed=0)

    def show(self, running: int, done: int = 0, failed: int = 0) -> None:
        """Count."""
        self.failed += failed
        self.update(self.sweep, advance=done, running=running, failed=self.failed)
        if (done or failed) and not self.console.is_terminal and self.get_time() - self.said >= QUIET:
            self.said = self.get_time()
            task = self.tasks[0]
            left = "" if task.time_remaining is None else f", {timedelta(seconds=int(task.time_remaining))} left"
            self.say(f"{int(task.completed)} of {task.total} done, {running} running, {self.failed} failed{left}")

    def say(self, what: str) -> None:
        """A line above the bar."""
        self.console.print(what, markup=False)
