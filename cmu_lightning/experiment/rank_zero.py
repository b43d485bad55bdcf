"""Decisions of rank 0 that all processes of a job act on, taken before there is a process group."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.pytorch import Trainer
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from cmu_lightning.console import PlainConsole
from cmu_lightning.errors import UserError

INHERITED = "CMU_DECISION"
"""Environment variable that passes the decision to processes started by Lightning."""

SECONDS_TO_MEET = 10
"""Time that rank 0 has for its first message after all processes have reached the store."""

SECONDS_TO_READ = 30
"""Longest time that rank 0 waits until the others, which poll for its decision, have read it."""

LOOK = 0.2
"""Seconds between two polls of the store."""

STORES: list[Store] = []
"""Stores of this process, kept open: rank 0 may host the store that the process group will use."""


def decide(trainer: Trainer, decision: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a function on the launching rank 0 only, and return its result on every rank.

    The call may take hours, as when it trains an original, so the other ranks do not wait in a collective operation.

    Args:
        trainer: Trainer that has not started yet.
        decision: Function that returns plain data.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or trainer.num_nodes * trainer.num_devices == 1:
        return decision()
    # Lightning's launcher: only rank 0 exists yet, and the processes that it starts inherit the environment.
    if not environment.creates_processes_externally:
        decided = decision()
        os.environ[INHERITED] = json.dumps(decided)
        return decided
    if INHERITED in os.environ:
        received: dict[str, Any] = json.loads(os.environ[INHERITED])
        return received
    # torchrun or SLURM: all ranks are already running, and meet at a store.
    return _decide_by_store(environment, decision)


def _wait_for_readers(store: Store, read: str, count: int) -> None:
    """Wait on rank 0 until the others have read its decision.

    If this process hosts the store and has nothing left to do, the store would otherwise end too early.

    Raises:
        UserError: A process has died after it had reached the store, which no other check would notice.
    """
    end = time.monotonic() + SECONDS_TO_READ
    while store.add(read, 0) < count:
        if time.monotonic() > end:
            # torchrun hosts the store itself: it ends a job when a process dies, and processes may arrive late.
            if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
                return
            raise UserError("another process of this run has ended: run the same command again to continue")
        time.sleep(LOOK / 4)


def _decide_by_store(environment: Any, decision: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Pass the decision on through the key-value store at which the processes of torchrun or SLURM meet.

    Raises:
        UserError: The store belongs to another job, which has taken the port; or another process has died.
    """
    os.environ["MASTER_ADDR"] = str(environment.main_address)
    os.environ["MASTER_PORT"] = str(environment.main_port)
    rank, world_size = environment.global_rank(), environment.world_size()
    meeting = rendezvous(f"env://?rank={rank}&world_size={world_size}", timeout=timedelta(minutes=30))
    root: Store = next(iter(meeting))[0]
    STORES.append(root)
    # A port that another job has taken may have a store, too, but its keys are not for this job.
    job = os.environ.get("TORCHELASTIC_RUN_ID") or os.environ.get("SLURM_JOB_ID", "")
    store = PrefixStore(f"cmu_lightning-{job}", root)
    hello, key, read = (f"{name}-{len(STORES)}" for name in ("hello", "decision", "read"))
    if rank == 0:
        store.set(hello, "")
        decided = decision()
        store.set(key, json.dumps(decided))
        _wait_for_readers(store, read, world_size - 1)
        return decided
    try:
        store.wait([hello], timedelta(seconds=SECONDS_TO_MEET))
    except RuntimeError as error:
        raise UserError(
            f"rank 0 is not at port {environment.main_port} of {environment.main_address}, where processes meet: set "
            "MASTER_ADDR and MASTER_PORT to its machine and a free port there"
        ) from error
    # Poll: a blocking `get` would time out.
    with PlainConsole(stderr=True).status("waiting for rank 0's decision"):
        while not store.check([key]):
            time.sleep(LOOK)
    received: dict[str, Any] = json.loads(store.get(key))
    store.add(read, 1)
    return received
