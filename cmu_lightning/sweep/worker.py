"""A process that imports torch once and runs one point after the other."""

import gc
import os
import signal
import subprocess
import sys
import threading
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from queue import SimpleQueue


@dataclass(frozen=True)
class Order:
    """What a worker is told to do."""

    arguments: list[str]
    log: Path
    fresh: bool
    """In a `fit` process of its own, because it will start further ones."""


def work(connection: Connection, environment: dict[str, str], gpu: str | None) -> None:
    """Do what comes in, and answer each with an exit code, until None comes.

    Args:
        connection: To the sweep.
        environment: The sweep's variables.
        gpu: The one that is this worker's, as in CUDA_VISIBLE_DEVICES; None leaves them all.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell started the sweep by `&`
    own = environment | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu})
    _set(own)
    orders: SimpleQueue[Order | None] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, orders), daemon=True).start()
    threads = _torch_threads()
    _keep_data()
    while (order := orders.get()) is not None:
        _write_to(order.log)
        _set(environment if order.fresh else own)
        _set_torch_threads(threads)
        connection.send(_run(order))
        gc.collect()


def _listen(connection: Connection, orders: "SimpleQueue[Order | None]") -> None:
    """Pass orders on; a worker whose sweep is gone ends at once, with the processes that it started."""
    try:
        while True:
            orders.put(connection.recv())
    except (EOFError, ConnectionError):  # the latter if it had not read an answer
        os.killpg(0, signal.SIGKILL)


def _run(order: Order) -> int:
    """The exit code of a command line."""
    if order.fresh:
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


def _set(environment: dict[str, str]) -> None:
    """What a run leaves in the environment is not the next one's."""
    os.environ.clear()
    os.environ.update(environment)


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


def _set_torch_threads(threads: int) -> None:
    """A run that says nothing has as many as the first one."""
    import torch

    torch.set_num_threads(threads)


def _write_to(log: Path) -> None:
    """Send all output, that of started processes too, to a file."""
    log.parent.mkdir(parents=True, exist_ok=True)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for output in (1, 2):
        os.dup2(file, output)
    os.close(file)


def _keep_data() -> None:
    """Read a data set once for the runs that follow each other."""
    from cmu_lightning.data import CorruptedDataModule

    CorruptedDataModule.kept = {}
