"""W&B sweep files, run on this machine without an account: `sweep` from Python, or `python -m cmu_lightning sweep`."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Checkpoints = Literal["all", "chosen", "none"]


@dataclass(frozen=True)
class SweepResult:
    """The outcome of the runs of a sweep.

    Args:
        total: Number of runs that the files ask for; those that did not fail have finished, now or before.
        failures: The reason of each failed run, by its command line.

    >>> SweepResult(total=3, failures={"fit --config a.yaml": "error: there is no checkpoint b.ckpt"}).done
    2
    """

    total: int
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def failed(self) -> int:
        """Number of runs that failed."""
        return len(self.failures)

    @property
    def done(self) -> int:
        """Number of runs that have finished."""
        return self.total - self.failed


def sweep(
    paths: str | Path | Sequence[str | Path],
    *,
    runs_dir: str | Path | None = None,
    workers: int = 1,
    checkpoints: Checkpoints = "chosen",
    shard: str | None = None,
) -> SweepResult:
    """Run sweep files, and return the outcome of their runs.

    Workers are processes that import the caller's script, as all of Python's do: in a script, call this under
    `if __name__ == "__main__":`.

    Args:
        paths: A sweep file, a folder of them, or several of these.
        runs_dir: Folder that the runs are written to; default CMU_RUNS_DIR, else `./runs`.
        workers: Number of processes; several may share a GPU.
        checkpoints: Which runs keep weights: `all` runs', those of originals and of `chosen` runs, or `none`.
        shard: `I/N` to run every N-th point, beginning with the I-th; None for all.

    Raises:
        UserError: A file or a command line has a mistake, which is found before anything runs.
    """
    from cmu_lightning.sweep.command import run_files  # not at the top: it takes a tenth of a second

    given = [paths] if isinstance(paths, str | Path) else list(paths)
    return run_files([str(path) for path in given], runs_dir, workers, checkpoints, shard)
