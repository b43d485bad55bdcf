"""The decision of rank 0, where it hosts the store itself, as under SLURM."""

import os
from types import SimpleNamespace

import pytest

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
