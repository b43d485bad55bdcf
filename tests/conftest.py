"""Fixtures of all tests."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Small networks gain nothing from threads, and two that wait for each other on a busy machine lose much.
os.environ["OMP_NUM_THREADS"] = "1"
# Fixtures that live longer than a test send nothing anywhere either.
os.environ["WANDB_MODE"] = "disabled"

import pytest
import torch

from cmu_lightning.cli.fit import main
from cmu_lightning.experiment.wandb_settings import end_client
from cmu_lightning.unlearning import Original
from tests.helpers.rank_pool import RankPool
from tests.helpers.run_files import CF, metrics, numbers
from tests.helpers.short_stages import LINEAR, SHORT, digits, trainer
from tests.helpers.wandb_server import KEY, Stub

SMALL = """
network: {class_path: tests.helpers.networks.Linear, init_args: {pixels: 144, num_classes: 10}}
procedure: {steps: 40, unlearn_steps: 20, batch_size: 101, lr: 0.05}
trainer: {accelerator: cpu, enable_progress_bar: false}
"""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each worker its part of the slow tests first: what is left to share at the end is short."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    slow = [item for item in items if item.get_closest_marker("slow")]
    fast = [item for item in items if not item.get_closest_marker("slow")]
    parts = [
        [tests[len(tests) * at // workers : len(tests) * (at + 1) // workers] for at in range(workers)]
        for tests in (slow, fast)
    ]
    items[:] = [item for part in zip(*parts, strict=True) for tests in part for item in tests]


@pytest.fixture(autouse=True)
def _clean_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run every test in an empty folder, and leave process-wide state as it was."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["cmu_lightning"])
    for name in ("CMU_RUNS_DIR", "CMU_DATA_DIR", "CMU_DECISION", "FORCE_COLOR", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a config overlay: a network without batch norm, trained for a few steps."""
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    path.write_text(SMALL)
    return str(path)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, small: str) -> Path:
    """Make a runs folder that holds the small original of poison_digits for seed 0; tests that add runs copy it."""
    folder = tmp_path_factory.mktemp("runs")
    argv = sys.argv
    assert main(["fit", "--config", "poison_digits.yaml", "--config", small, "--runs_dir", str(folder)]) == 0
    sys.argv = argv
    return folder


@pytest.fixture(scope="session")
def unlearned(tmp_path_factory: pytest.TempPathFactory, runs: Path, small: str) -> Path:
    """Add a run of CF, at half of S_m, to a copy of the runs folder; tests that change it copy it again."""
    folder = Path(shutil.copytree(runs, tmp_path_factory.mktemp("unlearned") / "runs"))
    overlays = ["--config", small, "--config", "unlearn/cf.yaml", "--data.identified", "0.5"]
    argv = sys.argv
    assert main(["fit", "--config", "poison_digits.yaml", *overlays, "--runs_dir", str(folder)]) == 0
    sys.argv = argv
    return folder


@pytest.fixture
def fit(small: str) -> Callable[..., int]:
    """Return a function that runs `fit --config poison_digits.yaml --config small.yaml` with more arguments."""

    def run(*arguments: str) -> int:
        return main(["fit", "--config", "poison_digits.yaml", "--config", small, *arguments])

    return run


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RankPool]:
    """Return two processes in one process group, which run the functions that are handed to them."""
    pool = RankPool(tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def trained_original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a short original and return its checkpoint."""
    folder = tmp_path_factory.mktemp("original")
    run, path = trainer(folder), folder / "original.ckpt"
    run.fit(Original(LINEAR, SHORT), datamodule=digits())
    run.save_checkpoint(path, weights_only=True)
    return path


@pytest.fixture
def original(trained_original: Path, tmp_path: Path) -> str:
    """Return the path of a short original in the folder of the test, where importances are kept beside it."""
    return str(shutil.copy(trained_original, tmp_path / "original.ckpt"))


@pytest.fixture
def place(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Copy the runs folder to where W&B would be used if there were a key."""
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_SWEEP_ID", "WANDB_DIR", "WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("CONFIG", "CACHE", "DATA", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "of_client"))
    end_client()  # it has read the environment
    yield Path(shutil.copytree(runs, tmp_path / "runs"))
    end_client()


@pytest.fixture
def server(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stub]]:
    """Return a function that starts a stub with a behaviour and points the client at it."""
    stubs: list[Stub] = []

    def start(key: str = KEY, **behaviour: Any) -> Stub:
        stubs.append(Stub(**behaviour))
        monkeypatch.setenv("WANDB_BASE_URL", stubs[0].url)
        monkeypatch.setenv("WANDB_API_KEY", key)
        monkeypatch.setenv("WANDB__FILE_STREAM_TRANSMIT_INTERVAL", "1")
        return stubs[0]

    yield start
    end_client()
    for stub in stubs:
        stub.close()


@pytest.fixture(scope="session")
def alone(runs: Path, small: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the numbers of a CF run that knows nothing of W&B."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "disabled")
        place = Path(shutil.copytree(runs, tmp_path_factory.mktemp("alone") / "runs"))
        assert main(["fit", "--config", "poison_digits.yaml", "--config", small, *CF, "--runs_dir", str(place)]) == 0
    assert not list(place.rglob("*wandb*"))
    return numbers(metrics(place, "CF"))
