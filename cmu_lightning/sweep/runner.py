"""The runner gives the points of a queue to workers until nothing is left."""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from cmu_lightning.console import PlainConsole
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import KEEP_WEIGHTS, read_metrics
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.queue import Failure, Queue, forget_failure, log_path, record_failure
from cmu_lightning.sweep.weights import WeightChoice
from cmu_lightning.sweep.worker import GRACE, Worker, start_workers, wait_for_answer

LOOK = 0.5
"""Seconds between two checks of the work of other processes on the same runs folder."""
ATTEMPTS = 2
"""Number of workers that a point may kill before it counts as failed."""
INTERRUPTED = 130
"""Exit code of a command that was interrupted."""


class Runner:
    """Gives points to workers, and handles points that fail or kill their worker.

    Args:
        queue: Points to be run.
        progress: Progress bar to update.
        options: Options of every run, in addition to its own, as `--NAME=VALUE`.
        workers: Largest number of processes.
        choice: Drops weights that are not chosen; None to leave them.
        keeps_weights: Whether unlearners with `--checkpoints chosen` keep their weights, because the caller
            drops them later.
    """

    def __init__(
        self,
        queue: Queue,
        progress: SweepProgress,
        options: Sequence[str],
        workers: int = 1,
        choice: WeightChoice | None = None,
        keeps_weights: bool = False,
    ) -> None:
        self.queue, self.progress, self.options, self.choice = queue, progress, list(options), choice
        self.searches = list(queue.searches)
        count = min(workers, len(queue.waiting) + sum(search.run_cap for search in queue.searches))
        self.workers = start_workers(count, {KEEP_WEIGHTS: "1"} if keeps_weights else {})
        self.deaths: Counter[str] = Counter()
        self.failures: list[Failure] = []

    @property
    def busy(self) -> list[Worker]:
        """Workers that have a point."""
        return [worker for worker in self.workers if worker.point is not None]

    def run(self) -> list[Failure]:
        """Run until nothing is left, and return the failed runs."""
        try:
            while self.queue.is_open or self.busy:
                self._hand_out()
                wait_for_answer(self.busy, LOOK)
                for at, worker in enumerate(self.workers):
                    if worker.point is not None and isinstance(code := worker.answer(), int):
                        self._take_back(at, worker.point, code)
        finally:
            self._stop()
        if self.choice is not None:
            self.choice.settle_all(self.searches)
        return self.failures

    def _hand_out(self) -> None:
        """Give each idle worker a point."""
        for worker in self.workers:
            while worker.point is None and (point := self.queue.take()) is not None:
                if point.is_finished:  # another process has run it meanwhile
                    self._finish(point)
                else:
                    forget_failure(point)
                    worker.fit(point, self._options_of(point), log_path(point))
            self.progress.show(running=len(self.busy))

    def _options_of(self, point: Point) -> list[str]:
        """Return the options that are added to a point's own; which weights a file keeps is its own decision."""
        given = {name for name, _ in point.options}
        return [each for each in self.options if each.partition("=")[0] not in given & {"--checkpoints"}]

    def _take_back(self, at: int, point: Point, code: int) -> None:
        """Handle a point whose command line, or whose worker, has ended."""
        self.workers[at].point = None
        died = code < 0 or self.workers[at].is_dead
        if died:
            self.workers[at] = self.workers[at].replace()
            self.deaths[point.key] += 1
        if code == 0 and not _was_stopped(point):
            self._finish(point)
        elif died and self.deaths[point.key] < ATTEMPTS:
            self.queue.release(point, finished=False)
            self.queue.put_first(point)
        else:
            self.failures.append(record_failure(point, code))
            self.queue.release(point, finished=False)
            self.progress.show(running=len(self.busy), failed=1)
            self.progress.say(f"failed: {point}: {self.failures[-1].reason}")

    def _finish(self, point: Point) -> None:
        """Count a run that has results, and drop the weights that are then no longer needed."""
        forget_failure(point)
        # The points of a Bayesian search are not all known before its end.
        if self.choice is not None and point.sweep.method != "bayes":
            self.choice.settle(point)
        self.queue.release(point, finished=True)
        self.progress.show(running=len(self.busy), done=1)

    def _stop(self) -> None:
        """End all workers; a running run is left as an interrupted `fit` leaves it."""
        busy = self.busy
        for worker in busy:
            worker.interrupt()
        for worker in self.workers:
            worker.end(GRACE)
        for worker in busy:
            if worker.point is not None:
                self.queue.release(worker.point, finished=False)


def _was_stopped(point: Point) -> bool:
    """Return whether a run ended well and without results, as one that somebody stops on W&B's page."""
    try:
        return point.folder is not None and read_metrics(point.folder) is None
    except UserError:  # damaged results, which `fit` names
        return False


def guard(work: Callable[[], int], runs_dir: Path) -> int:
    """Return the exit code of some work, 130 if Ctrl-C or SIGTERM interrupted it.

    Args:
        work: Work of a command, which may be interrupted and continued.
        runs_dir: Folder that it writes to, for the message.

    Raises:
        UserError: The folder cannot be written.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        PlainConsole(stderr=True).print("interrupted: the same command continues where this one stopped")
        return INTERRUPTED
    except OSError as error:
        raise UserError(f"runs cannot be written to {runs_dir} ({error}): give another --runs_dir") from error
