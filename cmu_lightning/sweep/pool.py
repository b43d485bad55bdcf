"""Worker processes, as the sweep sees them."""

import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path

from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.worker import Order, work

GRACE = 15.0
"""Seconds that a run has to end by itself when the sweep is stopped."""


class Worker:
    """One process; it is started again with the next point if it was killed.

    All fork from one server that has imported torch, so a further one costs nothing.

    Args:
        gpu: Which one is this worker's; None for all or none.
    """

    def __init__(self, gpu: str | None) -> None:
        self.gpu = gpu
        self.point: Point | None = None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["cmu_lightning.sweep.preload"])
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs, dict(os.environ), gpu), daemon=True)
        self.process.start()
        theirs.close()

    def begin(self, point: Point, arguments: list[str], log: Path) -> None:
        """Hand over a point; a process that died meanwhile is noticed by `ended`."""
        self.point = point
        with suppress(OSError):
            self.connection.send(Order(arguments, log, point.processes))

    def ended(self) -> int | None:
        """The exit code of the point's command, or of the process if that died; None if it goes on."""
        with suppress(EOFError, OSError):
            if self.connection.poll():
                code: int = self.connection.recv()
                return code
        if self.process.is_alive():
            return None
        self._signal(signal.SIGKILL)  # what it had started
        return self.process.exitcode or 1

    @property
    def is_dead(self) -> bool:
        """Whether it takes no further point."""
        return not self.process.is_alive()

    def interrupt(self) -> None:
        """Ask the process and all that it started to stop."""
        self._signal(signal.SIGINT)

    def end(self, seconds: float) -> None:
        """End the process, by force if it does not within some seconds."""
        with suppress(OSError):
            self.connection.send(None)
        self.process.join(seconds)
        self._signal(signal.SIGKILL)
        self.process.join()
        self.connection.close()

    def _signal(self, number: int) -> None:
        with suppress(OSError):
            os.killpg(self.process.pid or 0, number)


def wait_for(workers: list[Worker], seconds: float) -> None:
    """Until one of them has something to say, but no longer than some seconds."""
    wait([end for worker in workers for end in (worker.connection, worker.process.sentinel)], seconds)
