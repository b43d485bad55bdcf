"""Originals on demand."""

import time
from concurrent.futures import ThreadPoolExecutor

from cmu_lightning.experiment import originals
from cmu_lightning.experiment.run import Run
from cmu_lightning.files import write_json


def test_of_all_that_ask_for_an_original_one_starts_a_process(tmp_path, monkeypatch):
    wanted = Run.at(tmp_path, "poison_digits", "Original", 0, "0123456789")
    config = {"original_seed": 0, "data": {"init_args": {}}, "trainer": {}}
    started = []

    def train(run, config):
        started.append(run)
        time.sleep(0.3)  # the others ask meanwhile
        write_json(run.folder / "metrics.json", {"hash": run.hash})
        run.checkpoint.touch()

    monkeypatch.setattr(originals, "_train", train)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(originals.find_or_train, wanted, config, frozenset()) for _ in range(4)]
    assert [each.result() for each in asked] == [str(wanted.checkpoint)] * 4
    assert started == [wanted]
