"""A finished run on disk, and the numbers of its original where that was no run."""

from pathlib import Path
from typing import Any

import pytest

from cmu_lightning.deploy.finished import FinishedRun
from cmu_lightning.experiment.run import read_metrics
from tests.helpers.synthetic_runs import Study


def write_run(method: str, number: int, mean: float, **measured: Any) -> FinishedRun:
    """Write a run of images that are normalised by a mean, from an original that is no run."""
    folder = Study(Path("runs"), "mine").unlearner(method, 1.0, hash=f"{number}" * 10, original="f" * 10, **measured)
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("    root: null\n", f"    root: null\n    mean: [{mean}]\n"))
    metrics = read_metrics(folder)
    assert metrics is not None
    return FinishedRun(folder, metrics)


def test_the_original_was_measured_on_images_prepared_alike():
    write_run("Keep", 1, 0.5, val_acc=0.88)
    keep = write_run("Keep", 2, 0.05, val_acc=0.27)
    run = write_run("CF", 3, 0.05, val_acc=0.75)
    assert run.original_metrics() == keep.metrics
    assert keep.original_metrics() is None, "its own numbers are no others"
    assert write_run("CF", 4, 0.1).original_metrics() is None


def test_an_original_of_other_data_was_not_measured_by_a_run_of_keep():
    write_run("Keep", 1, 0.5, fingerprint=7)
    write_run("Keep", 2, 0.5, content="another list")
    assert write_run("CF", 3, 0.5).original_metrics() is None
    keep = write_run("Keep", 4, 0.5)
    assert write_run("CF", 5, 0.5).original_metrics() == keep.metrics


def test_a_metrics_file_beside_a_users_own_weights_is_no_result_of_a_run():
    Path("weights").mkdir()
    Path("weights/metrics.json").write_text('{"accuracy": 0.9}')
    keep, run = write_run("Keep", 1, 0.5), write_run("CF", 2, 0.5)
    config = run.folder / "config.yaml"
    config.write_text(config.read_text().replace("    seed: 0\ndata", "    seed: 0\n    original: weights/m.pt\ndata"))
    assert run.config["model"]["init_args"]["original"] == "weights/m.pt"
    assert run.original_metrics() == keep.metrics


@pytest.mark.parametrize(("method", "is_original"), [("Original", True), ("CF", False)])
def test_where_a_run_is_and_what_made_it(method, is_original):
    study = Study(Path("the runs"), "mine")
    folder = study.original() if is_original else study.unlearner(method)
    run = FinishedRun(folder, read_metrics(folder) or {})
    assert run.is_original is is_original
    assert run.runs_dir == Path("the runs").resolve()
    assert run.command == (
        f"python -m cmu_lightning fit --config '{folder}/config.yaml' --runs_dir '{Path('the runs').resolve()}'"
    )
