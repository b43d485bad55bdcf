import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# Small networks gain nothing from threads, and two that wait for each other on a busy machine lose much.
os.environ["OMP_NUM_THREADS"] = "1"
# Fixtures that live longer than a test send nothing anywhere either.
os.environ["WANDB_MODE"] = "disabled"

import pytest
import torch

from cmu_lightning.cli import main
from cmu_lightning.unlearning import Original
from tests.plain import LINEAR, SHORT, digits, trainer

SMALL = """
network: {class_path: tests.networks.Linear, init_args: {pixels: 144, num_classes: 10}}
procedure: {steps: 40, unlearn_steps: 20, batch_size: 101, lr: 0.05}
trainer: {accelerator: cpu, enable_progress_bar: false}
"""


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every test runs in an empty folder, and leaves process-wide state as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cmu_lightning"])
    for name in ("CMU_RUNS_DIR", "CMU_DATA_DIR", "CMU_DECISION"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config overlay: a network without batch norm, trained for a few steps."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, small: str) -> Path:
    """A runs folder that holds the small original of poison_digits for seed 0; tests that add runs copy it."""
    folder = tmp_path_factory.mktemp("runs")
    argv = sys.argv
    assert main(["fit", "--config", "poison_digits.yaml", "--config", small, "--runs_dir", str(folder)]) == 0
    sys.argv = argv
    return folder


@pytest.fixture(scope="session")
def unlearned(tmp_path_factory: pytest.TempPathFactory, runs: Path, small: str) -> Path:
    """The same with a run of CF, at half of S_m; tests that change it copy it."""
    folder = Path(shutil.copytree(runs, tmp_path_factory.mktemp("unlearned") / "runs"))
    overlays = ["--config", small, "--config", "unlearn/cf.yaml", "--data.identified", "0.5"]
    argv = sys.argv
    assert main(["fit", "--config", "poison_digits.yaml", *overlays, "--runs_dir", str(folder)]) == 0
    sys.argv = argv
    return folder


@pytest.fixture
def fit(small: str) -> Callable[..., int]:
    """Runs `fit --config poison_digits.yaml --config small.yaml` with more arguments."""

    def run(*arguments: str) -> int:
        return main(["fit", "--config", "poison_digits.yaml", "--config", small, *arguments])

    return run


@pytest.fixture
def original(tmp_path):
    """The checkpoint of a short original."""
    run, path = trainer(tmp_path), tmp_path / "original.ckpt"
    run.fit(Original(LINEAR, SHORT), datamodule=digits())
    run.save_checkpoint(path, weights_only=True)
    return str(path)
