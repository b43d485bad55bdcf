"""One process decides, all act on it, before there is a process group."""

import json
import os
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from lightning.pytorch import Trainer
from rich.console import Console
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

INHERITED = "CMU_DECISION"
"""Environment variable through which processes that Lightning starts learn the decision."""


def decide(trainer: Trainer, decision: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call `decision` on the launching rank 0 alone, and return its result everywhere.

    It may take hours, such as to train an original, so the others do not wait in a collective operation.

    Args:
        trainer: Not started yet.
        decision: Returns plain data.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if environment is None or trainer.num_nodes * trainer.num_devices == 1:
        return decision()
    if not environment.creates_processes_externally:
        decided = decision()
        os.environ[INHERITED] = json.dumps(decided)
        return decided
    if INHERITED in os.environ:
        received: dict[str, Any] = json.loads(os.environ[INHERITED])
        return received
    return _through_store(environment, decision)


def _through_store(environment: Any, decision: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """By the store at which torchrun's or SLURM's processes meet."""
    os.environ["MASTER_ADDR"] = str(environment.main_address)
    os.environ["MASTER_PORT"] = str(environment.main_port)
    rank, world_size = environment.global_rank(), environment.world_size()
    meeting = rendezvous(f"env://?rank={rank}&world_size={world_size}", timeout=timedelta(minutes=30))
    root: Store = next(iter(meeting))[0]
    stores.append(root)
    store = PrefixStore("cmu_lightning", root)
    key = f"decision-{len(stores)}"
    if rank == 0:
        decided = decision()
        store.set(key, json.dumps(decided))
        return decided
    with Console(stderr=True).status("waiting for what rank 0 decides"):
        while not store.check([key]):
            time.sleep(0.2)
    received: dict[str, Any] = json.loads(store.get(key))
    return received


stores: list[Store] = []
"""Kept open: rank 0 may host the store that the process group will use."""
