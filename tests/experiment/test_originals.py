"""Originals on demand."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from cmu_lightning.experiment import originals
from cmu_lightning.experiment.run import Run
from cmu_lightning.files import write_json
from cmu_lightning.unlearning.checkpoint import save_tensors
from cmu_lightning.unlearning.stage import RECORD
from tests.helpers.damage import flip_bit


def test_of_all_that_ask_for_an_original_one_starts_a_process(tmp_path, monkeypatch):
    wanted = Run.at(tmp_path, "poison_digits", "Original", 0, "0123456789")
    config = {"original_seed": 0, "data": {"init_args": {}}, "trainer": {}}
    started = []

    def train(run, config):
        started.append(run)
        time.sleep(0.3)  # the others ask meanwhile
        write_json(run.folder / "metrics.json", {"hash": run.hash})
        save_tensors(run.checkpoint, {"state_dict": {}})

    monkeypatch.setattr(originals, "_train", train)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(originals.find_or_train, wanted, config, frozenset()) for _ in range(4)]
    assert [each.result() for each in asked] == [str(wanted.checkpoint)] * 4
    assert started == [wanted]


@pytest.mark.parametrize("damage", ["a flipped bit", "weights of another run", None])
def test_an_original_that_was_damaged_is_trained_again(tmp_path, monkeypatch, damage):
    wanted = Run.at(tmp_path, "poison_digits", "Original", 0, "0123456789")
    config = {"original_seed": 0, "data": {"init_args": {}}, "trainer": {}}
    write_json(wanted.folder / "metrics.json", {"hash": wanted.hash})
    record = {"hash": "9876543210" if damage == "weights of another run" else wanted.hash}
    save_tensors(wanted.checkpoint, {"state_dict": {"weight": torch.zeros(1000)}, RECORD: record})
    if damage == "a flipped bit":
        flip_bit(wanted.checkpoint)
    started = []
    monkeypatch.setattr(originals, "_train", lambda run, config: started.append(run.metrics))
    originals.find_or_train(wanted, config, frozenset())
    assert started == ([None] if damage else [])  # without results, so that `fit` does not take it for finished
    # `fit` would refuse to resume from the weights of another run.
    assert wanted.checkpoint.exists() == (damage != "weights of another run")
