"""`python -m cmu_lightning sweep`."""

import argparse
import sys
from collections import Counter
from itertools import islice
from pathlib import Path

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import choose_runs_dir
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.sweep import failures, search, stopped
from cmu_lightning.sweep.file import Sweep, find, read
from cmu_lightning.sweep.hyperband import Hyperband
from cmu_lightning.sweep.interruption import guarded
from cmu_lightning.sweep.points import Point, listed, of_files, shard
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.proposals import Proposals
from cmu_lightning.sweep.queue import Queue
from cmu_lightning.sweep.weights import Choice


def main(arguments: list[str]) -> int:
    """Run sweep files.

    Args:
        arguments: After `sweep`.

    Returns:
        The exit code: 0, 1 if runs failed, 2 for what is wrong with the files, 130 if it was interrupted.
    """
    read_env()
    given = _parse(arguments)
    sweeps = [read(path) for path in find(given.paths)]
    runs_dir = choose_runs_dir(given.runs_dir)
    adaptive = [sweep for sweep in sweeps if sweep.method == "bayes"]
    everything = of_files([sweep for sweep in sweeps if sweep.method != "bayes"], runs_dir)
    points = shard(listed(everything), given.shard)
    if given.check:
        return _check([*points, *(point for sweep in adaptive for point in _examples(sweep, runs_dir))])
    if adaptive and given.shard:
        raise UserError(f"{adaptive[0].path} is a bayes search, which has no shards: give all machines one runs folder")
    searches = [Proposals(sweep, runs_dir) for sweep in adaptive]
    points += [point for one in searches for point in one.points()]
    left = [p for p in points if not p.is_finished and not stopped.is_stopped(p)]
    if given.dry_run:
        return _list(points, left, searches)
    choice = Choice(everything) if given.checkpoints == "chosen" else None
    more = ["--runs_dir", str(runs_dir), "--checkpoints", "until_chosen" if choice else given.checkpoints]
    return guarded(lambda: _run(points, Queue(left, searches), choice, more, given.workers), runs_dir)


def _examples(sweep: Sweep, runs_dir: Path) -> list[Point]:
    """Some points of a bayes search, to see whether they can be run."""
    return [Point.of(sweep, values, runs_dir) for values in islice(search.draw(sweep), 3)]


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("sweep", "Run W&B sweep files here, without an account.")
    parser.add_argument("paths", nargs="+", metavar="FILE_OR_FOLDER", help="Sweep files, and folders of them.")
    parser.add_argument("--runs_dir", help="Default: CMU_RUNS_DIR, else ./runs.")
    parser.add_argument("--workers", type=int, default=1, help="Processes; several may share a GPU.")
    parser.add_argument("--dry_run", action="store_true", help="List the runs and how many are done; run nothing.")
    parser.add_argument("--check", action="store_true", help="Say what is wrong with the files; run nothing.")
    parser.add_argument("--shard", metavar="I/N", help="Of N machines, this is the I-th: run every N-th point.")
    parser.add_argument(
        "--checkpoints",
        choices=["all", "chosen", "none"],
        default="chosen",
        help="Whose weights stay: every run's, those of originals and of runs with the best selection_score, or none.",
    )
    given = parser.parse_args(arguments)
    if not 1 <= given.workers <= 1024:
        raise UserError(f"--workers {given.workers} is not possible: give a number from 1 to 1024")
    return given


def _list(points: list[Point], left: list[Point], searches: list[Proposals]) -> int:
    """What would be run."""
    to_do = {point.key for point in left}
    for point in points:
        sys.stdout.write(f"{'      ' if point.key in to_do else 'done  '}{point}\n")
    total, open_ = (Counter(point.sweep.path for point in some) for some in (points, left))
    for path in total if len(total) > 1 else ():
        sys.stdout.write(f"{path}: {total[path]} runs, {total[path] - open_[path]} done\n")
    done = len(points) - len(left)
    sys.stdout.write(f"{len(points)} runs, {done} done, {len(left)} to do\n")
    for one in searches:
        more = one.run_cap - len(one.points())
        sys.stdout.write(f"{one.sweep.path}: bayes proposes up to {more} more as results come in\n")
    return 0


def _check(points: list[Point]) -> int:
    """Everything that is wrong, one sentence each."""
    from cmu_lightning.sweep.check import complaints  # imports torch

    said = complaints(points)
    for sentence in said:
        sys.stderr.write(f"error: {sentence}\n")
    if not said:
        sys.stdout.write(f"nothing is wrong with {len(points)} run{'s' * (len(points) != 1)}\n")
    return 2 if said else 0


def _run(points: list[Point], queue: Queue, choice: Choice | None, more: list[str], workers: int) -> int:
    from cmu_lightning.experiment.wandb_settings import one_silence
    from cmu_lightning.sweep.runner import Runner

    total = len(points) + sum(one.run_cap - len(one.points()) for one in queue.searches)
    hyperband = Hyperband()
    hyperband.add(points)
    with one_silence(), SweepProgress(total, len(points) - len(queue.waiting)) as progress:
        failed = Runner(queue, choice, workers, more, progress, hyperband).run()
    if failed:
        failures.show(failed)
    return 1 if failed else 0
