"""The decision of rank 0, where it hosts the store itself, as under SLURM."""

import os
import time
from types import SimpleNamespace

import pytest
from torch.distributed.rendezvous import rendezvous

from cmu_lightning.errors import UserError
from cmu_lightning.experiment import rank_zero


def decide_and_end() -> dict:
    """Decide, and give the store up at once, as a process does that has nothing left to do."""
    rank, port = int(os.environ["RANK"]), int(os.environ["MASTER_PORT"])
    place = SimpleNamespace(main_address="127.0.0.1", main_port=port, global_rank=lambda: rank, world_size=lambda: 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_zero, "STORES", [])
        patch.setattr(rank_zero, "LOOK", 0.5)  # the other one has not looked when rank 0 has decided
        return rank_zero._decide_by_store(place, lambda: {"finished": True})


def test_rank_0_stays_until_the_others_have_read_its_decision(ranks):
    assert ranks.run(decide_and_end) == [{"finished": True}] * 2


def decide_without_rank_1() -> str:
    """Let rank 1 reach the store, and end there; return what rank 0 says."""
    if os.environ["RANK"] == "1":
        store = next(iter(rendezvous("env://?rank=1&world_size=2")))
        time.sleep(1)
        return str(bool(store))
    port = int(os.environ["MASTER_PORT"])
    place = SimpleNamespace(main_address="127.0.0.1", main_port=port, global_rank=lambda: 0, world_size=lambda: 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_zero, "STORES", [])
        patch.setattr(rank_zero, "SECONDS_TO_READ", 0.5)
        with pytest.raises(UserError) as raised:
            rank_zero._decide_by_store(place, lambda: {"finished": False})
    return str(raised.value)


def test_rank_0_does_not_wait_for_a_process_that_has_died_at_the_store(ranks):
    said, _ = ranks.run(decide_without_rank_1)
    assert said == "another process of this run has ended: run the same command again to continue"
