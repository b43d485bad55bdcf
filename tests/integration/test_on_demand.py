"""The process that trains an original on demand, and the end of the one that has started it."""

import os
import signal

import pytest
import torch

from cmu_lightning.parsing import PACKAGE
from tests.helpers.forked_commands import start_command
from tests.helpers.process_tree import children, is_running
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGTERM])
def test_a_fit_that_ends_takes_the_original_with_it(small, tmp_path, monkeypatch, signalled):
    """The original's last checkpoint stays, from which the same command continues."""
    monkeypatch.setenv("PYTHONPATH", str(PACKAGE.parent))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    options = ["--config", small, "--procedure.steps", "1000000", "--runs_dir", str(tmp_path / "runs")]
    options += ["--network", "tests.helpers.networks.CheckpointedEachEpoch", "--config", "unlearn/cf.yaml"]
    log = tmp_path / "fit.log"
    fit = start_command(["-m", "cmu_lightning", "fit", "--config", "poison_digits.yaml", *options], log, log)
    wait_for(lambda: list(tmp_path.glob("runs/poison_digits/Original/*/last.ckpt")))
    (child,) = children(fit.pid)
    os.kill(fit.pid, signalled)
    fit.join(timeout=60)
    wait_for(lambda: not is_running(child))
    (kept,) = tmp_path.glob("runs/poison_digits/Original/*/last.ckpt")
    assert "optimizer_states" in torch.load(kept, weights_only=True)
    assert not list(tmp_path.glob("runs/poison_digits/Original/*/metrics.json"))
    left = [path for path in (tmp_path / "runs").glob(".locks/*") if path.suffix != ".lock"]
    assert len(left) <= 1  # the config, under a name that the next attempt uses again
