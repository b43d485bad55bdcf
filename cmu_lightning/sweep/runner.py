"""Runs the points of a queue on workers until nothing is left."""

from collections import Counter

from cmu_lightning.devices import gpus
from cmu_lightning.sweep import failures, stopped
from cmu_lightning.sweep.failures import Failure, log_of
from cmu_lightning.sweep.hyperband import Hyperband
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.pool import GRACE, Worker, wait_for
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.queue import Queue
from cmu_lightning.sweep.weights import Choice

LOOK = 0.5
"""Seconds between two looks at what other processes on the same runs folder have done."""


class Runner:
    """Hands points to workers, and sees to those that fail or die.

    Args:
        queue: What is to be done.
        choice: Drops weights, if they are to be dropped.
        workers: Number of processes.
        more: Arguments for every run.
        progress: Is told what happens.
        hyperband: Says which runs to stop.
    """

    def __init__(
        self,
        queue: Queue,
        choice: Choice | None,
        workers: int,
        more: list[str],
        progress: SweepProgress,
        hyperband: Hyperband,
    ) -> None:
        self.queue, self.choice, self.more, self.progress = queue, choice, more, progress
        self.hyperband = hyperband
        self.searches = list(queue.searches)
        available = gpus()
        count = min(workers, len(queue.waiting) + sum(search.run_cap for search in queue.searches))
        self.workers = [Worker(available[i % len(available)] if available else None) for i in range(count)]
        self.deaths: Counter[str] = Counter()
        self.failures: list[Failure] = []

    @property
    def busy(self) -> list[Worker]:
        """Workers that have a point."""
        return [worker for worker in self.workers if worker.point is not None]

    def run(self) -> list[Failure]:
        """Until nothing is left; what failed."""
        try:
            while self.queue.open or self.busy:
                self._hand_out()
                wait_for(self.busy, LOOK)
                self._stop_early()
                for at, worker in enumerate(self.workers):
                    if worker.point is not None and (code := worker.ended()) is not None:
                        self._take_back(at, worker.point, code)
        finally:
            self._stop()
        if self.choice is not None:
            self.choice.settle_searches(self.searches)
            self.choice.settle_rest()
        return self.failures

    def _hand_out(self) -> None:
        """Give each idle worker a point."""
        for worker in self.workers:
            while worker.point is None and (point := self.queue.next()) is not None:
                if point.is_finished:  # by another process, meanwhile
                    self._finish(point)
                elif stopped.is_stopped(point):
                    self._leave(point)
                else:
                    failures.forget(point)
                    self.hyperband.add([point])
                    worker.begin(point, [*point.arguments, *self.more], log_of(point))
            self.progress.show(running=len(self.busy))

    def _take_back(self, at: int, point: Point, code: int) -> None:
        """A point has ended, or its worker has."""
        self.workers[at].point = None
        died = code < 0 or self.workers[at].is_dead
        if died:
            self.workers[at].end(0)
            self.workers[at] = Worker(self.workers[at].gpu)
            self.deaths[point.key] += 1
        if code == 0:
            self._finish(point)
        elif stopped.is_stopped(point):
            self._leave(point)
            self.progress.console.print(f"stopped early: {point}", markup=False)
        elif died and self.deaths[point.key] < 2:
            self.queue.give_back(point, finished=False)
            self.queue.add(point)
        else:
            self.failures.append(failures.record(point, code))
            self.queue.give_back(point, finished=False)
            self.progress.show(running=len(self.busy), failed=1)
            self.progress.say(f"failed: {point}: {self.failures[-1].reason}")

    def _stop_early(self) -> None:
        """Interrupt the runs that fall behind; each is left as an interrupted `fit` leaves it."""
        behind = self.hyperband.behind([worker.point for worker in self.busy if worker.point is not None])
        for worker in self.busy:
            if worker.point in behind and not stopped.is_stopped(worker.point):
                stopped.mark(worker.point)
                worker.interrupt()

    def _finish(self, point: Point) -> None:
        failures.forget(point)
        stopped.unmark(point)
        if self.choice is not None and point.sweep.method != "bayes":  # whose rivals are not known before its end
            self.choice.settle(point)
        self.queue.give_back(point, finished=True)
        self.progress.show(running=len(self.busy), done=1)

    def _leave(self, point: Point) -> None:
        """It was stopped early, by this sweep or by another one."""
        self.queue.give_back(point, finished=True)
        self.progress.show(running=len(self.busy), done=1)

    def _stop(self) -> None:
        """End all workers; one that is in the midst of a run leaves it as an interrupted `fit` does."""
        busy = self.busy
        for worker in busy:
            worker.interrupt()
        for worker in self.workers:
            worker.end(GRACE)
        for worker in busy:
            if worker.point is not None:
                self.queue.give_back(worker.point, finished=False)
