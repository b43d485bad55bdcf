"""Two processes that live as long as the session of tests and run functions together, joined by gloo.

A `torchrun` per test imports torch twice and forms a process group each time, which takes seconds before the first line
of the test runs. Most tests only ask whether two processes give the numbers of one: they send a function to this pool.
"""

import os
import pickle
import socket
import sys
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from tests.helpers.forked_commands import fork_context, redirect_output

Result = TypeVar("Result")

WORLD_SIZE = 2
SECONDS_OF_A_JOB = 300.0
"""A job that takes longer has failed."""
SECONDS_BEHIND = 5.0
"""How long a rank may run on after the other one has failed: it may wait for it in a collective operation."""


class RankError(AssertionError):
    """A function that raised an exception, or did not end, on one of the ranks."""


class RankPool:
    """Two processes in one process group, as `torchrun --nproc-per-node 2` starts them.

    The processes start with the first job. After a failed job, whose ranks may be out of step, the next one starts new
    processes.

    Args:
        folder: Folder for the store of the process group and for what the ranks print.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.starts = 0
        self.processes: list[Any] = []
        self.connections: list[Connection] = []

    def run(self, function: Callable[..., Result], *arguments: object) -> list[Result]:
        """Call a function on both ranks, in the folder and the environment of the caller.

        Args:
            function: Function of a module, found by its name on the ranks.
            arguments: Its arguments, which are pickled.

        Returns:
            What it returned on rank 0 and on rank 1.

        Raises:
            RankError: It raised an exception or did not end; the message holds the traceback and what was printed.
        """
        if not self.processes:
            self._start()
        job = pickle.dumps((function, arguments, str(Path.cwd()), os.environ | _launch_variables()))
        for connection in self.connections:
            connection.send_bytes(job)
        answers = self._receive(time.monotonic() + SECONDS_OF_A_JOB)
        failures = [f"rank {rank}: {answer}" for rank, (succeeded, answer) in answers.items() if not succeeded]
        failures += [f"rank {rank} did not end" for rank in range(WORLD_SIZE) if rank not in answers]
        if failures:
            self.close()
            printed = [self._printed(rank).read_text()[-4000:] for rank in range(WORLD_SIZE)]
            raise RankError("\n".join([*failures, *printed]))
        return [answers[rank][1] for rank in range(WORLD_SIZE)]

    def close(self) -> None:
        """End the processes."""
        for connection in self.connections:
            connection.close()
        for process in self.processes:
            process.kill()
            process.join()
        self.processes, self.connections = [], []

    def _start(self) -> None:
        self.starts += 1
        context = fork_context()
        for rank in range(WORLD_SIZE):
            ours, theirs = context.Pipe()
            store = self.folder / f"store{self.starts}"
            process = context.Process(target=_serve, args=(rank, store, self._printed(rank), theirs), daemon=True)
            process.start()
            theirs.close()
            self.processes.append(process)
            self.connections.append(ours)

    def _receive(self, end: float) -> dict[int, tuple[bool, Any]]:
        """Collect the answers by rank until all are there, or too little time is left for the others."""
        answers: dict[int, tuple[bool, Any]] = {}
        while len(answers) < WORLD_SIZE and (left := end - time.monotonic()) > 0:
            waiting = [self.connections[rank] for rank in range(WORLD_SIZE) if rank not in answers]
            for ready in wait(waiting, left):
                try:
                    answer = pickle.loads(ready.recv_bytes())  # type: ignore[union-attr]
                except EOFError:
                    answer = (False, "the process died")
                answers[self.connections.index(ready)] = answer  # type: ignore[arg-type]
                if not answer[0]:
                    end = min(end, time.monotonic() + SECONDS_BEHIND)
        return answers

    def _printed(self, rank: int) -> Path:
        return self.folder / f"rank{rank}.txt"


def _launch_variables() -> dict[str, str]:
    """Return what `torchrun` tells its processes, apart from their ranks, with a port that is free for this job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return {
        "WORLD_SIZE": str(WORLD_SIZE),
        "LOCAL_WORLD_SIZE": str(WORLD_SIZE),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": f"job{port}",
    }


def _serve(rank: int, store: Path, printed: Path, connection: Connection) -> None:
    """Run job after job on a rank, until the other end of the connection is closed."""
    redirect_output(printed, printed)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{store}",
        rank=rank,
        world_size=WORLD_SIZE,
        timeout=timedelta(seconds=SECONDS_OF_A_JOB),
    )
    while True:
        try:
            job = connection.recv_bytes()
        except EOFError:
            return
        try:
            function, arguments, folder, environment = pickle.loads(job)
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            sys.argv = ["cmu_lightning"]
            answer = pickle.dumps((True, function(*arguments)))
        except BaseException as error:
            answer = pickle.dumps((False, "".join(traceback.format_exception(error))))
        connection.send_bytes(answer)
