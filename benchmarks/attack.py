"""The common part of the attacks: commands in forks of one warm process, small runs, and the table of outcomes.

`kill.py`, `interrupt.py`, `damage.py` and `fuzz.py` attack, and print how each attack ended. A fork has torch imported
already, so an attack takes a second or two instead of ten.
"""

import json
import os
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "WANDB_MODE": "disabled"}

from cmu_lightning.__main__ import main
from cmu_lightning.cli import fit as fit_module
from cmu_lightning.data import DigitsDataModule, Poison
from cmu_lightning.errors import UserError
from cmu_lightning.experiment import originals
from cmu_lightning.experiment.callbacks import LastCheckpoint
from cmu_lightning.experiment.run import ON_DEMAND

SMALL = [
    *("--network.width", "4", "--procedure.steps", "40", "--procedure.unlearn_steps", "20", "--threads", "1"),
    *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
]
"""Options under which a run takes a second."""
LIMIT = 300.0
"""Seconds after which a command counts as hanging; most take a few, and ten times as long on a busy machine."""


class Ended(NamedTuple):
    """The end of a command: its exit code, negative for a signal and None for a hang, and its output.

    Args:
        code: The exit code.
        said: Its standard error.
        shown: Its standard output.
    """

    code: int | None
    said: str
    shown: str = ""

    @property
    def is_sentence(self) -> bool:
        """Whether it was refused with exit code 2 and one sentence, after any notices."""
        lines = [line for line in self.said.splitlines() if line.startswith("error: ")]
        return self.code == 2 and len(lines) == 1 and self.said.rstrip().endswith(lines[0])

    @property
    def failure(self) -> str | None:
        """A name for a forbidden end of a command; None for exit code 0 and for a refusal in one sentence."""
        if self.code is None:
            return "hang"
        return None if self.code == 0 or self.is_sentence else "traceback"


class Fork:
    """A command that runs in a fork of this process, in a separate process group.

    Args:
        command: Words of a command of this project, or a function that returns an exit code.
        folder: Current folder of the command.
        prepare: Called in the fork first.
        errors: Start of the name of the file in the folder for its standard error.
    """

    def __init__(
        self,
        command: Sequence[str] | Callable[[], int],
        folder: Path,
        prepare: Callable[[], object] | None = None,
        errors: str = ".errors",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.errors = folder / errors
        self.pid = os.fork()
        if self.pid == 0:
            self._run(command, folder, prepare)
        self.code: int | None = None
        self.is_over = False

    def _run(self, command: Any, folder: Path, prepare: Callable[[], object] | None) -> None:
        code = 1
        try:
            os.setsid()
            os.chdir(folder)
            file = os.open(self.errors, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(file, 2)
            os.dup2(os.open(_output(self.errors), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            fit_module.LastCheckpoint = _FrequentCheckpoint  # type: ignore[misc]
            originals._train = _train_in_fork
            if prepare is not None:
                prepare()
            code = command() if callable(command) else main(list(command))
            if code == 128 + signal.SIGTERM:  # as the process of a command ends, of the signal itself
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.raise_signal(signal.SIGTERM)
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def poll(self) -> bool:
        """Return whether the command has ended."""
        if not self.is_over:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.is_over, self.code = True, os.waitstatus_to_exitcode(status)
        return self.is_over

    def wait(self, limit: float = LIMIT) -> Ended:
        """Return how the command has ended; end it if it takes longer than a limit.

        Args:
            limit: Seconds.
        """
        end = time.monotonic() + limit
        while not self.poll() and time.monotonic() < end:
            time.sleep(0.01)
        if not self.is_over:
            self.signal(signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.is_over = True
        with suppress(ProcessLookupError):  # what it had started
            os.killpg(self.pid, signal.SIGKILL)
        said, shown = (
            path.read_text(errors="replace") if path.exists() else "" for path in (self.errors, _output(self.errors))
        )
        return Ended(self.code, said, shown)

    def signal(self, number: int) -> None:
        """Send a signal to the command.

        Args:
            number: The signal.
        """
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _output(errors: Path) -> Path:
    """Return the file for standard output next to that for standard error."""
    return errors.with_name(f"{errors.name}.shown")


class _FrequentCheckpoint(LastCheckpoint):
    """Checkpoints after every epoch of the data, however short the time since the last one."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, rest=0)


def _train_in_fork(run: Any, config: dict[str, Any]) -> None:
    """Train a missing original as a separate `fit` does, but in a fork, which has torch already."""
    path = run.runs_dir / ".locks" / f"{run.hash}.yaml"
    path.write_text(json.dumps(config))
    pid = os.fork()
    if pid == 0:
        os.environ[ON_DEMAND] = "1"
        code = 1
        try:
            code = main(["fit", "--config", str(path)])
        finally:
            os._exit(code)
    ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    path.unlink()
    if ended:
        raise UserError(f"training the original {run.folder} ended with code {ended}: run the same command again")


def run(command: Sequence[str] | Callable[[], int], folder: Path, limit: float = LIMIT) -> Ended:
    """Run a command in a fork, and return how it has ended.

    Args:
        command: Words of a command of this project, or a function that returns an exit code.
        folder: Current folder of the command.
        limit: Seconds after which it counts as hanging.
    """
    return Fork(command, folder).wait(limit)


def fit(*options: str, runs: str = "runs") -> list[str]:
    """Return the words of a small `fit` of poison_digits.

    Args:
        options: More options.
        runs: Runs folder.
    """
    return ["fit", "--config", "poison_digits.yaml", *options, *SMALL, "--runs_dir", runs]


def trained_on(count: int) -> list[int]:
    """Return stored indices of the first training samples of the digits that do not validate.

    Args:
        count: Number of indices.
    """
    data = DigitsDataModule(Poison(size=36))
    data.prepare_data()
    data.setup()
    indices: list[int] = (~data.held).nonzero().flatten()[:count].tolist()
    return indices


def contents(folder: Path) -> dict[str, Any]:
    """Return the content of a folder by path: results and tensors as numbers, everything else by its bytes.

    Variable content is left out: seconds, the environment, rows of attempts that ended early, locks,
    and the records of a sweep.

    Args:
        folder: Any folder.
    """
    found: dict[str, Any] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(path.relative_to(folder))
        if path.name.startswith(".errors") or path.suffix == ".lock" or "/csv/" in name or ".sweep/" in name:
            continue
        if path.name == "metrics.json":
            found[name] = _numbers(path)
        elif path.suffix in (".ckpt", ".pt"):
            found[name] = _tensors(path)
        else:
            found[name] = path.read_bytes()
    return found


def _numbers(path: Path) -> Any:
    """Return results without their variable parts."""
    try:
        stored = json.loads(path.read_bytes())
        return {key: stored[key] for key in stored if key not in ("seconds", "environment")}
    except (ValueError, TypeError):  # damaged, and nobody has read it
        return path.read_bytes()


def _tensors(path: Path) -> Any:
    """Return the tensors and plain data of a file, without the time that training took."""
    import torch

    def plain(part: Any) -> Any:
        if isinstance(part, torch.Tensor):
            return str(part.dtype), tuple(part.shape), part.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        if isinstance(part, dict):
            return {key: plain(value) for key, value in part.items() if key != "seconds"}
        return [plain(each) for each in part] if isinstance(part, list | tuple) else part

    try:
        return plain(torch.load(path, weights_only=True))
    except Exception:  # damaged, and nobody has read it
        return path.read_bytes()


def print_counts(title: str, counts: dict[str, Counter[str]], outcomes: Sequence[str]) -> None:
    """Print how often each kind of attack had each outcome, as a table in Markdown, with date and machine.

    Args:
        title: Heading of the first column.
        counts: Number of each outcome, by kind.
        outcomes: Outcomes in the order of the columns.
    """
    from benchmarks.machine import where

    total: Counter[str] = Counter()
    print(f"| {title} | {' | '.join(outcomes)} |\n|---|{'---|' * len(outcomes)}")
    for kind, counted in counts.items():
        total += counted
        print(f"| {kind} | {' | '.join(str(counted[each] or '') for each in outcomes)} |")
    print(f"| all {sum(total.values())} | {' | '.join(str(total[each]) for each in outcomes)} |")
    print(json.dumps(where()), flush=True)
