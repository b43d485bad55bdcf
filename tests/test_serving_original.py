"""The original's numbers beside a run's, where the original is no run."""

import json
from pathlib import Path

import pytest

from cmu_lightning.errors import UserError
from cmu_lightning.serving.images import find_images
from cmu_lightning.serving.original import original_metrics
from tests.helpers.synthetic_runs import Study


def run(method, number, mean, **measured):
    folder = Study(Path("runs"), "mine").unlearner(method, 1.0, hash=f"{number}" * 10, original="f" * 10, **measured)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("    root: null\n", f"    root: null\n    mean: [{mean}]\n"))
    return folder


def stored(folder):
    return json.loads((folder / "metrics.json").read_text())


def test_the_original_was_measured_on_images_prepared_alike():
    run("Keep", 1, 0.5, val_acc=0.88)
    keep = run("Keep", 2, 0.05, val_acc=0.27)
    folder = run("CF", 3, 0.05, val_acc=0.75)
    assert original_metrics(folder, stored(folder)) == stored(keep)
    assert original_metrics(keep, stored(keep)) is None
    other = run("CF", 4, 0.1)
    assert original_metrics(other, stored(other)) is None


def test_a_metrics_file_of_ones_own_beside_the_weights_is_none_of_a_run():
    Path("weights").mkdir()
    Path("weights/metrics.json").write_text('{"accuracy": 0.9}')
    keep, folder = run("Keep", 1, 0.5), run("CF", 2, 0.5)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("    seed: 0\ndata", "    seed: 0\n    original: weights/m.pt\ndata"))
    assert "weights/m.pt" in config.read_text()
    assert original_metrics(folder, stored(folder)) == stored(keep)


@pytest.mark.parametrize("name", ["a\rb.png", "caf\udce9.png"])
def test_names_that_no_table_can_hold_are_refused_before_anything_is_classified(name):
    Path(name).touch()
    with pytest.raises(UserError, match="cannot stand in a CSV file: rename the image"):
        find_images([Path()])
