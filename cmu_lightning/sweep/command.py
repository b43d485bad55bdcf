"""The command `python -m cmu_lightning sweep`, and its function for Python."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import choose_runs_dir
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.sweep import SweepResult
from cmu_lightning.sweep.file import SweepFile, find_files, read_file
from cmu_lightning.sweep.points import Point, order_points, select_shard
from cmu_lightning.sweep.queue import Failure, Queue
from cmu_lightning.sweep.search import BayesSearch, list_points

MOST_WORKERS = 1024
CHECKPOINTS = ("all", "chosen", "none")


@dataclass
class Study:
    """The runs that sweep files ask for in a runs folder.

    Args:
        files: Sweep files.
        runs_dir: Folder that the runs are written to.
        shard: `I/N` for every N-th point of grids and random searches; None for all.

    Raises:
        UserError: A file asks for something that cannot be run, or a Bayesian search for shards.
    """

    files: list[SweepFile]
    runs_dir: Path
    shard: str | None = None

    def __post_init__(self) -> None:
        listed = [sweep for sweep in self.files if sweep.method != "bayes"]
        self.searches = [BayesSearch(sweep, self.runs_dir) for sweep in self.files if sweep.method == "bayes"]
        if self.searches and self.shard:
            path = self.searches[0].sweep.path
            raise UserError(f"{path} is a bayes search, which has no shards: give all machines one runs folder")
        self.all_points = [point for sweep in listed for point in list_points(sweep, self.runs_dir)]
        """Points of grids and random searches in the files' order, some perhaps twice, those of other shards too."""
        self.points = select_shard(order_points(self.all_points), self.shard)
        """Points to run, each once: those of grids and random searches, then what Bayesian searches have proposed."""
        self.examples = [point for search in self.searches for point in search.examples()]
        """Points that stand in for the proposals of Bayesian searches when command lines are checked."""
        self.points += [point for search in self.searches for point in search.points()]

    @property
    def unfinished(self) -> list[Point]:
        """Points that are not known to have results."""
        return [point for point in self.points if not point.is_finished]

    @property
    def total(self) -> int:
        """Number of runs, including those that Bayesian searches have not proposed yet."""
        return len(self.points) + sum(search.run_cap - len(search.points()) for search in self.searches)


def main(arguments: Sequence[str]) -> int:
    """Run sweep files from the command line.

    Args:
        arguments: Arguments after `sweep`.

    Returns:
        The exit code: 0, 1 if runs failed, 2 for a mistake in the files, 130 if the sweep was interrupted.
    """
    read_env()
    given = _parse_arguments(arguments)
    study = read_study(given.paths, given.runs_dir, given.shard)
    if given.check:
        return _show_mistakes(study, given.workers)
    if given.dry_run:
        return _list_runs(study)
    from cmu_lightning.sweep.progress import show_failures
    from cmu_lightning.sweep.runner import guard

    def run() -> int:
        failures = run_study(study, given.workers, given.checkpoints)
        if failures:
            show_failures(failures)
        return 1 if failures else 0

    return guard(run, study.runs_dir)


def _parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("sweep", "Run W&B sweep files locally, without an account.")
    parser.add_argument("paths", nargs="+", metavar="FILE_OR_FOLDER", help="Sweep files, and folders of them.")
    parser.add_argument("--runs_dir", help="Default: CMU_RUNS_DIR, else ./runs.")
    parser.add_argument("--workers", type=int, default=1, help="Processes; several may share a GPU.")
    parser.add_argument("--dry_run", action="store_true", help="List the runs and how many are done; run nothing.")
    parser.add_argument("--check", action="store_true", help="Report mistakes in the files; run nothing.")
    parser.add_argument("--shard", metavar="I/N", help="Of N machines, this is the I-th: run every N-th point.")
    parser.add_argument(
        "--checkpoints",
        choices=CHECKPOINTS,
        default="chosen",
        help="Which runs keep weights: all, originals and runs with the best selection_score, or none.",
    )
    given = parser.parse_args(list(arguments))
    _check_workers(given.workers)
    return given


def _check_workers(workers: int) -> None:
    if not 1 <= workers <= MOST_WORKERS:
        raise UserError(f"--workers {workers} is not possible: give a number from 1 to {MOST_WORKERS}")


def read_study(paths: list[str], runs_dir: str | Path | None, shard: str | None) -> Study:
    """Return the study that sweep files ask for.

    Args:
        paths: Paths of sweep files, and of folders of them.
        runs_dir: Folder that the runs are written to; None for the default.
        shard: `I/N` for every N-th point; None for all.

    Raises:
        UserError: A file cannot be read, or asks for something that cannot be run.
    """
    files = [read_file(path) for path in find_files(paths)]
    return Study(files, choose_runs_dir(None if runs_dir is None else str(runs_dir)), shard)


def run_files(
    paths: list[str], runs_dir: str | Path | None, workers: int, checkpoints: str, shard: str | None
) -> SweepResult:
    """Run sweep files from Python, and return the outcome of their runs.

    Args:
        paths: Paths of sweep files, and of folders of them.
        runs_dir: Folder that the runs are written to; None for the default.
        workers: Number of processes.
        checkpoints: Which runs keep weights, one of `CHECKPOINTS`.
        shard: `I/N` for every N-th point; None for all.

    Raises:
        UserError: A file, a command line or an argument has a mistake.
    """
    _check_workers(workers)
    if checkpoints not in CHECKPOINTS:
        raise UserError(f"checkpoints={checkpoints} is not possible: give {', '.join(CHECKPOINTS)}")
    read_env()
    study = read_study(paths, runs_dir, shard)
    total = study.total
    failures = run_study(study, workers, checkpoints)
    return SweepResult(total, {str(failure.point): failure.reason for failure in failures})


def run_study(study: Study, workers: int, checkpoints: str) -> list[Failure]:
    """Run the unfinished points after parsing command lines that hold every value, and return the failures.

    Args:
        study: The study that sweep files ask for.
        workers: Number of processes.
        checkpoints: Which runs keep weights, one of `CHECKPOINTS`.

    Raises:
        UserError: A command line or an environment variable of W&B is refused; nothing has run then.
    """
    from cmu_lightning.console import say
    from cmu_lightning.experiment.wandb_settings import check_environment_of_runs, one_silence
    from cmu_lightning.sweep.check import find_refused, find_unlogged_metric, find_unparsed
    from cmu_lightning.sweep.progress import SweepProgress
    from cmu_lightning.sweep.runner import Runner
    from cmu_lightning.sweep.weights import WeightChoice

    for sweep in study.files:
        own = [point for point in [*study.points, *study.examples] if point.sweep is sweep]
        for sentence in find_unlogged_metric(sweep, own) if sweep.method == "bayes" else ():
            say(f"warning: {sweep.path}: {sentence}; unless a class of yours logs it, the search learns nothing")
        if sweep.terminates_early:
            say(f"{sweep.path}: only W&B's agents follow early_terminate; this sweep runs every point to its end")
    left = study.unfinished
    if left or study.searches:
        check_environment_of_runs()
    open_searches = [search for search in study.searches if len(search.points()) < search.run_cap]
    # A mistake in the last point would otherwise appear after hours of training.
    unparsed = find_unparsed([*left, *(study.examples if open_searches else [])], study.runs_dir)
    if unparsed and (mistakes := find_refused(unparsed, workers, study.runs_dir)):
        raise UserError("\nerror: ".join(mistakes))
    choice = WeightChoice(study.all_points) if checkpoints == "chosen" else None
    options = [f"--runs_dir={study.runs_dir}", f"--checkpoints={checkpoints}"]
    queue = Queue(left, study.searches)
    with one_silence(), SweepProgress(study.total, len(study.points) - len(left)) as progress:
        return Runner(queue, progress, options, workers, choice, keeps_weights=choice is not None).run()


def _list_runs(study: Study) -> int:
    """List the runs, and how many are done."""
    left = {point.key for point in study.unfinished}
    for point in study.points:
        sys.stdout.write(f"{'      ' if point.key in left else 'done  '}{point}\n")
    total = Counter(point.sweep.path for point in study.points)
    done = Counter(point.sweep.path for point in study.points if point.key not in left)
    for path in total if len(total) > 1 else ():
        sys.stdout.write(f"{path}: {total[path]} runs, {done[path]} done\n")
    count = len(study.points)
    sys.stdout.write(f"{count} runs, {count - len(left)} done, {len(left)} to do\n")
    for search in study.searches:
        more = search.run_cap - len(search.points())
        sys.stdout.write(f"{search.sweep.path}: bayes proposes up to {more} more as results come in\n")
    return 0


def _show_mistakes(study: Study, workers: int) -> int:
    """Report all mistakes, one sentence each."""
    from cmu_lightning.experiment.wandb_settings import check_environment_of_runs
    from cmu_lightning.sweep.check import find_mistakes, find_refused, find_unparsed

    check_environment_of_runs()
    points = [*study.points, *study.examples]
    mistakes = [*find_mistakes(points), *find_refused(find_unparsed(points, study.runs_dir), workers)]
    for sentence in mistakes:
        sys.stderr.write(f"error: {sentence}\n")
    if not mistakes:
        sys.stdout.write(f"no mistake in {len(points)} run{'s' * (len(points) != 1)}\n")
    return 2 if mistakes else 0
