"""The processes of a job, which end together: on SIGTERM, and when one of them dies."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from subprocess import Popen
from typing import Any

import torch
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.utilities.distributed import _set_num_threads_if_needed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers import _SubprocessScriptLauncher
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.errors import UserError

STARTED_BY = "CMU_STARTED_BY"
"""Environment variable with the id of the process that has started this one as another rank of its job."""

AGAIN = "run the same command again to continue"

LOOK = 0.5
"""Seconds between two checks of the other processes."""

GRACE = 5.0
"""Seconds that a process has to notice the death of another one before it is ended."""

CHILDREN: list[Popen[bytes]] = []
"""Processes that this one has started, as ranks 1, 2, ... of its job."""


class EndOnSigterm(Callback):
    """Ends a run on SIGTERM, after a batch on which all its processes agree.

    Lightning's own handler starts a collective operation wherever the process happens to be, and waits there for
    processes that are elsewhere. Here the handler sets a flag, and the processes compare their flags regularly.
    """

    most = 20
    """Largest number of batches between two comparisons, where batches are fast."""
    seconds = 1.0
    """Time between two comparisons, where batches are slow."""

    def __init__(self) -> None:
        self.is_asked = False
        self.interval = self.left = 1
        self.compared = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Replace Lightning's handler, which the Trainer is about to install.

        Args:
            trainer: Trainer of the run.
            pl_module: Ignored.
            stage: Ignored.
        """
        signals: Any = trainer._signal_connector
        signals._sigterm_notifier_fn = self._leave_note

    def _leave_note(self, *_: Any) -> None:
        self.is_asked = True

    def _end_if_asked(self, trainer: Trainer) -> None:
        """Compare the flags if a comparison is due.

        Raises:
            SIGTERMException: One of the processes got SIGTERM; all of them raise it after the same batch.
        """
        if trainer.world_size == 1:
            is_asked = self.is_asked
        else:
            self.left -= 1
            if self.left:
                return
            # The slowest process decides when all of them compare their flags again.
            now = time.monotonic()
            notes = torch.tensor([self.is_asked, (now - self.compared) / self.interval])
            is_asked, pace = trainer.strategy.reduce(notes.to(trainer.strategy.root_device), reduce_op="max").tolist()
            self.interval = self.left = max(1, min(self.most, int(self.seconds / max(pace, 1e-6))))
            self.compared = time.monotonic()
        if is_asked:
            raise SIGTERMException

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """End the run if it was asked to.

        Args:
            trainer: Trainer of the run.
        """
        self._end_if_asked(trainer)

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """End the run if it was asked to.

        Args:
            trainer: Trainer of the run.
        """
        self._end_if_asked(trainer)

    def on_test_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """End the run if it was asked to.

        Args:
            trainer: Trainer of the run.
        """
        self._end_if_asked(trainer)


class Launcher(_SubprocessScriptLauncher):
    """Lightning's launcher of processes on one machine, each of which ends when another one has died.

    Lightning's own watch also kills this process without a message, even while it reports what went wrong.

    Args:
        cluster_environment: Tells processes their ranks.
        num_processes: Number of processes on this machine.
        num_nodes: Number of machines.
    """

    def launch(self, function: Callable[..., Any], *args: Any, trainer: Trainer | None = None, **kwargs: Any) -> Any:
        """Start the other processes, unless they are there, and call a function.

        Args:
            function: Function to call in every process.
            args: Its arguments.
            trainer: Trainer that calls.
            kwargs: Its named arguments.
        """
        self.cluster_environment.validate_settings(num_devices=self.num_processes, num_nodes=self.num_nodes)
        if not self.cluster_environment.creates_processes_externally:
            os.environ[STARTED_BY] = str(os.getpid())
            self._call_children_scripts()
            CHILDREN[:] = self.procs
            _start_watch(_watch_children, trainer)
        elif STARTED_BY in os.environ:
            _start_watch(_watch_parent, trainer, int(os.environ[STARTED_BY]))
        os.environ.pop(STARTED_BY, None)
        _set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


def prepare_processes(trainer: Trainer) -> None:
    """Make a Trainer watch the processes that it starts, and check that as many were started as it has devices.

    Args:
        trainer: Trainer that has not started yet.

    Raises:
        UserError: SLURM or torchrun has started another number of processes.
    """
    strategy: Any = trainer.strategy
    environment = getattr(strategy, "cluster_environment", None)
    if environment is None:
        return
    devices, nodes = trainer.num_devices, trainer.num_nodes
    is_outside = environment.creates_processes_externally and not isinstance(environment, LightningEnvironment)
    if is_outside and (started := environment.world_size()) != devices * nodes:
        raise UserError(
            f"{started} {'process was' if started == 1 else 'processes were'} started for trainer.devices={devices} "
            f"and trainer.num_nodes={nodes}: start one for each device, as srun --ntasks-per-node={devices} and "
            f"torchrun --nproc-per-node {devices} do, or set trainer.devices to the number of processes on a node"
        )
    if type(strategy.launcher) is _SubprocessScriptLauncher:
        strategy._launcher = Launcher(environment, strategy.num_processes, nodes)


def describe_deaths(seconds: float = 0) -> str:
    """Return which of the processes that this one has started have died and how; empty if none has.

    Args:
        seconds: Time to wait for one: a connection may be lost before its process is known to be dead.
    """
    end = time.monotonic() + seconds
    while True:
        said = [_describe(rank, child.returncode) for rank, child in enumerate(CHILDREN, start=1) if child.poll()]
        if said or time.monotonic() >= end:
            return ", ".join(said)
        time.sleep(LOOK / 10)


def _describe(rank: int, code: int) -> str:
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return f"process {rank + 1} of {len(CHILDREN) + 1} {how}"


def _start_watch(watch: Callable[..., None], *arguments: Any) -> None:
    threading.Thread(target=watch, args=arguments, daemon=True).start()


def _watch_children(trainer: Trainer) -> None:
    """End this process and the others if one of them dies, unless this one is about to end with a message."""
    while not describe_deaths():
        if all(child.returncode == 0 for child in CHILDREN):
            return
        time.sleep(LOOK)
    time.sleep(GRACE)
    if trainer.state.status == TrainerStatus.INTERRUPTED:
        return
    said = describe_deaths()
    for child in CHILDREN:
        child.kill()
    _end(f"{said}: {AGAIN}")


def _watch_parent(trainer: Trainer, parent: int) -> None:
    """End this process if the one that started it is gone, unless the work is done or about to end."""
    while os.getppid() == parent:
        time.sleep(LOOK)
    time.sleep(GRACE)
    if trainer.state.status == TrainerStatus.RUNNING:
        _end(f"process 1, which has started this one, is gone: {AGAIN}")


def _end(sentence: str) -> None:
    """End this process at once; its main thread may wait in a collective operation that never ends."""
    sys.stderr.write(f"error: {sentence}\n")
    sys.stderr.flush()
    os._exit(2)
