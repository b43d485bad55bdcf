"""`python -m cmu_lightning repair`: try several methods on an original and a list of flagged samples; choose one."""

import math
import shlex
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from cmu_lightning.console import PlainConsole
from cmu_lightning.deploy.choice import CHOICE_FILE, Candidate, Outcome
from cmu_lightning.deploy.output import refuse_folder, refuse_unwritable
from cmu_lightning.deploy.study import ORIGINAL, RunFailed, Study, is_finished, may_start, study_points
from cmu_lightning.deploy.trusted import read_folder, refuse_missing
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import choose_runs_dir
from cmu_lightning.experiment.wandb_settings import one_silence
from cmu_lightning.files import write_json
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.queue import Failure, Queue
from cmu_lightning.sweep.runner import Runner, guard


class RepairProgress(SweepProgress):
    """A progress bar that disappears at the end: the table of candidates replaces it and names what failed.

    Args:
        total: Number of runs.
        done: Number of runs that were finished before.
    """

    def __init__(self, total: int, done: int) -> None:
        super().__init__(total, done)
        self.live.transient = True
        self.update(self.sweep, description="repair")

    def say(self, line: str) -> None:
        """Print nothing above the bar.

        Args:
            line: Line that a sweep would print.
        """


class TimedQueue(Queue):
    """A queue that hands out nothing after a deadline, except the runs that always run.

    Args:
        points: Points that are not known to be finished.
        deadline: Time of `time.monotonic`.
    """

    def __init__(self, points: Sequence[Point], deadline: float) -> None:
        super().__init__(points)
        self.deadline = deadline

    def take(self) -> Point | None:
        """Return the next run that may start; None if there is none at present."""
        self.waiting = [point for point in self.waiting if may_start(point, self.deadline)]
        return super().take()


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Command line after the word repair.

    Returns:
        The exit code: 0; 1 if the original cannot be measured or the chosen run cannot be repeated; 130 after
        an interruption.

    Raises:
        UserError: The arguments cannot work; exit code 2.
    """
    read_env()
    given, fit_arguments = _parser().parse_known_args(list(arguments))
    if given.out is not None:
        refuse_folder(given.out, "JSON")
        refuse_unwritable(given.out)
    if not given.budget >= 0:
        raise UserError(f"--budget {given.budget:g} is not a number of minutes: give 0 or more")
    runs_dir = choose_runs_dir(given.runs_dir)
    if given.trusted is not None:
        refuse_missing(given.trusted)
    points = study_points(fit_arguments, runs_dir, given.only)
    return guard(lambda: _repair(points, given), runs_dir)


def _parser() -> Parser:
    """Return the parser of the options that `fit` does not have."""
    parser = Parser(
        "repair", "Try several methods on a model and a list of flagged samples, and choose. All other options: fit."
    )
    parser.add_argument("--runs_dir", help="Default: CMU_RUNS_DIR, else ./runs.")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"A copy of RUNS_DIR/SETTING/{CHOICE_FILE}.")
    parser.add_argument(
        "--trusted",
        type=Path,
        metavar="FOLDER",
        help="Images with right labels, FOLDER/CLASS/IMAGE, by which candidates are measured: best with the trigger.",
    )
    parser.add_argument("--only", metavar="A,B", help="Try these methods only, such as pure,cf.")
    parser.add_argument(
        "--budget",
        type=float,
        default=math.inf,
        metavar="MINUTES",
        help="Start no further candidate after this time; the original and PURE always run.",
    )
    parser.add_argument("--choose", metavar="METHOD", help="Run nothing new; take this finished candidate.")
    return parser


def _repair(points: list[Point], given: Namespace) -> int:
    """Carry out the study, and write and print the outcome.

    Args:
        points: Runs of the study; the first one keeps the original.
        given: Options of the command.

    Returns:
        The exit code.
    """
    with one_silence(), RepairProgress(len(points), 0) as progress:

        def say(line: str) -> None:
            progress.console.print(line, markup=False, soft_wrap=True)

        if not {name for name, _ in points[0].options} & set(ORIGINAL):
            say("no --model.original is given: repair uses the setting's own original, and trains it if there is none")

        def run(some: list[Point], original: Candidate | None, deadline: float) -> list[Failure]:
            progress.update(progress.sweep, total=len(study.points))  # one method may have been left out
            return _run(some, progress, original, deadline)

        trusted = None if given.trusted is None else partial(read_folder, given.trusted)
        study = Study(points, run, say, given.budget, given.choose, trusted)
        try:
            outcome = study.carry_out()
        except RunFailed as failed:
            return _report_failure(failed)
    from cmu_lightning.deploy.repair_page import write_page  # imports torch, which a refused command does not need

    paths = write_outcome(outcome, given.out)
    _show(outcome, paths[-1], write_page(outcome, outcome.chosen.folder))
    return 0


def _run(
    points: list[Point], progress: SweepProgress, original: Candidate | None = None, deadline: float = math.inf
) -> list[Failure]:
    """Run the unfinished ones among some points, one after the other in one process; return the failures.

    Args:
        points: Runs of the study, at least one.
        progress: Progress bar to update.
        original: Run that has just measured the original; finished runs have to agree with it.
        deadline: Time of `time.monotonic` after which none is started.
    """
    unfinished = [point for point in points if not is_finished(point, original)]
    progress.show(running=0, done=len(points) - len(unfinished))
    if not unfinished:
        return []
    # No weights are dropped before the choice.
    more = [f"--runs_dir={points[0].runs_dir}", "--checkpoints=chosen"]
    return Runner(TimedQueue(unfinished, deadline), progress, more, keeps_weights=True).run()


def write_outcome(outcome: Outcome, out: Path | None = None) -> list[Path]:
    """Write an outcome to the folder of its setting, where the model card looks for it, and return the files.

    Args:
        outcome: Result of a repair.
        out: Another file for it.
    """
    paths = [outcome.original.folder.parents[1] / CHOICE_FILE, *([out] if out else [])]
    for path in paths:
        write_json(path, outcome.as_json())
    return paths


def _report_failure(failed: RunFailed) -> int:
    """Report a failure that leaves no outcome.

    Args:
        failed: The failure, and what it means.

    Returns:
        Exit code 1.

    Raises:
        UserError: The run ended with exit code 2, which the user has to correct.
    """
    if failed.failure.code == 2:
        raise UserError(failed.failure.reason.removeprefix("error: "))
    sys.stderr.write("\n".join([*failed.failure.lines, failed.consequence]) + "\n")
    return 1


def _show(outcome: Outcome, out: Path, page: Path) -> None:
    """Print the table, the reason, and what can be done with the chosen run.

    Args:
        outcome: Result of the repair.
        out: File that it was written to.
        page: Page that shows it.
    """
    console = PlainConsole()
    console.print(outcome.as_table())
    folder = shlex.quote(str(outcome.chosen.folder))
    for line in (
        outcome.reason,
        f"result: {out}",
        f"page: {page}",
        "next:",
        f"  python -m cmu_lightning predict {folder} --out predictions.csv",
        f"  python -m cmu_lightning export {folder} --out FOLDER",
        f"  in Python: cmu_lightning.load({str(outcome.chosen.folder)!r})",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
