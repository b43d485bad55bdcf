"""The process that trains an original on demand, and the end of the one that has started it."""

import os
import signal
import subprocess
import sys

import pytest

from cmu_lightning.parsing import PACKAGE
from tests.helpers.waiting import wait_for

pytestmark = pytest.mark.slow


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=,stat=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(line.split()[0]) for line in listed.stdout.splitlines() if not line.split()[1].startswith("Z")]


def is_running(process: int) -> bool:
    listed = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True, text=True)
    return bool(listed.stdout.strip()) and not listed.stdout.startswith("Z")  # a zombie has ended


@pytest.mark.parametrize("signalled", [signal.SIGKILL, signal.SIGTERM])
def test_a_fit_that_ends_takes_the_original_with_it(small, tmp_path, signalled):
    """The original's last checkpoint stays, from which the same command continues."""
    options = ["--config", small, "--procedure.steps", "1000000", "--runs_dir", str(tmp_path / "runs")]
    command = ["fit", "--config", "poison_digits.yaml", *options, "--config", "unlearn/cf.yaml"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    fit = subprocess.Popen([sys.executable, "-m", "cmu_lightning", *command], env=environment)
    wait_for(lambda: list(tmp_path.glob("runs/poison_digits/Original/*/last.ckpt")))
    (child,) = children(fit.pid)
    fit.send_signal(signalled)
    fit.wait(timeout=60)
    wait_for(lambda: not is_running(child))
    assert not list(tmp_path.glob("runs/poison_digits/Original/*/metrics.json"))
    left = [path for path in (tmp_path / "runs" / ".locks").iterdir() if path.suffix != ".lock"]
    assert len(left) <= 1  # the config, under a name that the next attempt uses again
