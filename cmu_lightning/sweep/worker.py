"""Warm workers: processes that import torch once and run one command line of `fit` after the other.

`Worker` is the sweep's side, which imports no torch; `work` is the process's side. All workers fork from one server
that has imported everything, so another worker costs nothing.
"""

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from queue import SimpleQueue

from cmu_lightning.devices import gpus
from cmu_lightning.sweep.points import Point

GRACE = 15.0
"""Seconds that a run has to end by itself when the sweep is stopped."""
PRELOADED = ["cmu_lightning.cli.fit"]
"""Modules that the server of the workers imports."""


@dataclass(frozen=True)
class Fit:
    """An order to run a command line, which is answered with its exit code.

    Args:
        arguments: Arguments of `python -m cmu_lightning`.
        log: File for the output.
        own_process: Whether it runs in a separate `fit` process, because it will start further ones.
    """

    arguments: list[str]
    log: Path
    own_process: bool


@dataclass(frozen=True)
class Parse:
    """An order to parse a command line, which is answered with the sentence that refuses it, empty if none does.

    Args:
        arguments: Arguments of `python -m cmu_lightning`.
    """

    arguments: list[str]


Order = Fit | Parse


class Worker:
    """A worker process, as the sweep sees it.

    Args:
        gpu: GPU of this worker, as in CUDA_VISIBLE_DEVICES; None for all or none.
        variables: Environment variables of its runs, in addition to those of the sweep.
    """

    def __init__(self, gpu: str | None, variables: dict[str, str]) -> None:
        self.gpu, self.variables = gpu, variables
        self.point: Point | None = None
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.connection, theirs = context.Pipe()
        environment = dict(os.environ) | variables
        self.process = context.Process(target=work, args=(theirs, environment, gpu), daemon=True)
        # First, because it unblocks interrupts at its end, where the server would be started without the block.
        resource_tracker.ensure_running()
        with _blocked_interrupts():
            forkserver.ensure_running()
        self.process.start()
        theirs.close()

    def fit(self, point: Point, options: list[str], log: Path) -> None:
        """Send a point to run; `answer` notices a process that has died meanwhile.

        Args:
            point: The point.
            options: Options in addition to its own.
            log: File for the output.
        """
        self._order(point, Fit([*point.arguments, *options], log, point.is_distributed))

    def parse(self, point: Point) -> None:
        """Send a point to parse; `answer` notices a process that has died meanwhile.

        Args:
            point: The point.
        """
        self._order(point, Parse(list(point.arguments)))

    def _order(self, point: Point, order: Order) -> None:
        self.point = point
        with suppress(OSError):
            self.connection.send(order)

    def answer(self) -> int | str | None:
        """Return the answer to the last order, or the exit code of a process that died; None while it works."""
        with suppress(EOFError, OSError):
            if self.connection.poll():
                answer: int | str = self.connection.recv()
                return answer
        if self.process.is_alive():
            return None
        self._signal(signal.SIGKILL)  # to the processes that it had started
        return self.process.exitcode or 1

    @property
    def is_dead(self) -> bool:
        """Whether the process takes no further order."""
        return not self.process.is_alive()

    def interrupt(self) -> None:
        """Ask the process and all that it started to stop."""
        self._signal(signal.SIGINT)

    def end(self, seconds: float) -> None:
        """End the process.

        Args:
            seconds: Time that it has before it is killed.
        """
        with suppress(OSError):
            self.connection.send(None)
        self.process.join(seconds)
        self._signal(signal.SIGKILL)
        self.process.join()
        self.connection.close()

    def replace(self) -> "Worker":
        """End this worker's process, and return a new worker that replaces it."""
        self.end(0)
        return Worker(self.gpu, self.variables)

    def _signal(self, number: int) -> None:
        """Send a signal to the process and to all that it started."""
        with suppress(OSError):
            os.killpg(self.process.pid or 0, number)


@contextmanager
def _blocked_interrupts() -> Iterator[None]:
    """Start processes that Ctrl-C does not reach, because the sweep handles it.

    The server of the workers imports torch for seconds before it ignores the signal. A blocked signal stays blocked in
    processes that are started meanwhile; workers unblock it, and here it arrives as soon as the block is left.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_workers(count: int, variables: dict[str, str]) -> list[Worker]:
    """Return workers, each with its own GPU if there are enough.

    Args:
        count: Number of processes.
        variables: Environment variables of their runs, in addition to those of the sweep.
    """
    available = gpus()
    return [Worker(available[at % len(available)] if available else None, variables) for at in range(count)]


def wait_for_answer(workers: Sequence[Worker], seconds: float) -> None:
    """Wait until one of some workers has an answer or has died.

    Args:
        workers: Workers to wait for.
        seconds: Longest time to wait.
    """
    wait([end for worker in workers for end in (worker.connection, worker.process.sentinel)], seconds)


def work(connection: Connection, environment: dict[str, str], gpu: str | None) -> None:
    """Carry out orders and answer each, until None comes.

    Args:
        connection: Connection to the sweep.
        environment: Environment variables of the runs.
        gpu: GPU of this worker, as in CUDA_VISIBLE_DEVICES; None leaves all of them.
    """
    # A separate process group, which the sweep can stop together with everything that a run has started.
    os.setsid()
    # SIGINT may be blocked by the sweep, or ignored where a shell started the sweep with `&`.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    own = environment | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    _set_environment(own)
    orders: SimpleQueue[Order | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    threads = _count_torch_threads()
    _keep_data()
    while (order := orders.get()) is not None:
        # A run leaves neither variables nor threads nor memory to the next one.
        _set_environment(environment if isinstance(order, Fit) and order.own_process else own)
        _set_torch_threads(threads)
        connection.send(_fit(order) if isinstance(order, Fit) else _parse(order))
        gc.collect()


def _listen(connection: Connection, orders: "SimpleQueue[Order | None]") -> None:
    """Pass orders on; if the sweep is gone, end at once, together with all processes that a run has started."""
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, ConnectionError):  # the latter if the sweep had not read an answer
        os.killpg(0, signal.SIGKILL)


def _fit(order: Fit) -> int:
    """Return the exit code of a command line, after it has run."""
    _redirect_output(order.log)
    if order.own_process:
        return subprocess.run([sys.executable, "-m", "cmu_lightning", *order.arguments], check=False).returncode
    from cmu_lightning.cli.fit import main

    try:
        return main(order.arguments)
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else 1
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _parse(order: Parse) -> str:
    """Return the sentence that refuses a command line; empty if it is accepted."""
    from cmu_lightning.sweep.parse import find_mistake

    try:
        return find_mistake(order.arguments) or ""
    except SystemExit:
        return "the command line runs nothing: leave out --help and --print_config"
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _set_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _count_torch_threads() -> int:
    import torch  # not at the top: the sweep itself imports this module

    return torch.get_num_threads()


def _set_torch_threads(threads: int) -> None:
    """Give a run without a number of threads as many threads as the first one had."""
    import torch

    torch.set_num_threads(threads)


def _redirect_output(log: Path) -> None:
    """Send all output to a file, including that of started processes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for output in (1, 2):
        os.dup2(file, output)
    os.close(file)


def _keep_data() -> None:
    """Read a data set once for all consecutive runs."""
    from cmu_lightning.data import CorruptedDataModule

    CorruptedDataModule.kept = {}
