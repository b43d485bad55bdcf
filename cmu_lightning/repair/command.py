"""`python -m cmu_lightning repair --config MINE.yaml`."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import choose_runs_dir, read_metrics
from cmu_lightning.experiment.wandb_settings import one_silence
from cmu_lightning.files import part_of, write_json
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.repair.choose import CHOICE, Candidate, Outcome, choose, comparable, doubts
from cmu_lightning.repair.study import ORIGINAL, points
from cmu_lightning.sweep.failures import Failure
from cmu_lightning.sweep.hyperband import Hyperband
from cmu_lightning.sweep.interruption import guarded
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.queue import Queue
from cmu_lightning.sweep.runner import Runner
from cmu_lightning.sweep.weights import drop, keep


class RepairProgress(SweepProgress):
    """A bar that is gone once there is a table, which says what failed."""

    def __init__(self, total: int, done: int) -> None:
        super().__init__(total, done)
        self.live.transient = True
        self.update(self.sweep, description="repair")

    def say(self, what: str) -> None:
        """Nothing."""


def main(arguments: Sequence[str]) -> int:
    """Try methods on an original, and choose.

    Args:
        arguments: After `repair`.

    Returns:
        The exit code: 0, 2 for what a user did wrong, 1 if the original cannot be measured or the chosen
            one not be made again, 130 if it was interrupted.
    """
    read_env()
    given, others = _parser().parse_known_args(list(arguments))
    if given.out is not None:
        _check_out(given.out)
    runs_dir = choose_runs_dir(given.runs_dir)
    study = points(others, runs_dir)
    return guarded(lambda: _repair(study, given.out), runs_dir)


def _check_out(out: Path) -> None:
    """Before anything is run."""
    if out.is_dir():
        raise UserError(f"--out {out} is a folder: give the name of a JSON file")
    part = part_of(out)
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
        part.unlink()
    except OSError as error:
        raise UserError(f"--out {out} cannot be written ({error.strerror}): give another file") from error


def _parser() -> Parser:
    parser = Parser(
        "repair", "Try the methods that fit on an original, and choose. All other options are those of fit."
    )
    parser.add_argument("--runs_dir", help="Default: CMU_RUNS_DIR, else ./runs.")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"A copy of RUNS_DIR/SETTING/{CHOICE}.")
    return parser


def _repair(study: list[Point], out: Path | None) -> int:
    with one_silence(), RepairProgress(len(study), 0) as progress:
        if not {name for name, _ in study[0].options} & set(ORIGINAL):
            line = "no --model.original is given: the setting's own is used, and trained if there is none"
            progress.console.print(line, soft_wrap=True)
        failed = _run(study[:1], progress)  # what is wrong with all of them is said once
        if failed:
            return _give_up(failed[0], "the original cannot be measured")
        original = comparable(_candidate(study[0]))
        if doubt := doubts(original):
            progress.console.print(doubt, markup=False, soft_wrap=True)
        failed = _run(study[1:], progress, original)
        last = [_candidate(point) for point in study[1:]]
        tried = [found for found in last if found is not None and _is_alike(found, original)]
        chosen, why = choose(original, tried)
        if not (chosen.folder / "last.ckpt").exists():  # an earlier choice, or another command, dropped it
            lost = _make_again(chosen, study, progress)
            if lost:
                return _give_up(lost[0], f"the weights of {chosen.name} cannot be made again")
    keep(chosen.folder)
    for each in tried:
        if each.folder != chosen.folder:
            drop(each.folder, each.metrics)
    reasons = {_tried(failure.point): failure.reason.removeprefix("error: ") for failure in failed}
    outcome = Outcome(original, tried, chosen, why, reasons)
    own = original.folder.parents[1] / CHOICE  # where model cards look for it
    for path in {own, out or own}:
        write_json(path, outcome.content())
    _show(outcome, out or own)
    return 0


def _run(study: list[Point], progress: SweepProgress, original: Candidate | None = None) -> list[Failure]:
    """Those that are not finished, one after the other in one process.

    Args:
        study: All of them.
        progress: Is told.
        original: Measured just now, which tells what the files hold that finished runs have to be of.
    """
    left = [point for point in study if not _is_done(point, original)]
    progress.show(running=0, done=len(study) - len(left))
    more = ["--runs_dir", str(study[0].runs_dir), "--checkpoints", "until_chosen"]
    return Runner(Queue(left), None, 1, more, progress, Hyperband()).run()


def _make_again(chosen: Candidate, study: list[Point], progress: SweepProgress) -> list[Failure]:
    """Run a finished candidate once more for its weights; if that fails, its results are what they were."""
    results = chosen.folder / "metrics.json"
    results.unlink()
    lost = _run([point for point in study if point.folder == chosen.folder], progress)
    if lost:
        write_json(results, chosen.metrics)
    return lost


def _is_done(point: Point, original: Candidate | None) -> bool:
    found = _candidate(point)
    if found is None or original is None or "content" not in original.metrics:
        return point.is_finished
    return _is_alike(found, original)


def _is_alike(found: Candidate, original: Candidate) -> bool:
    """Whether both are of the same images, list and original; where a run failed, the last one may not be."""
    return all(found.metrics.get(name) == original.metrics.get(name) for name in ("content", "original"))


def _give_up(failure: Failure, what: str) -> int:
    if failure.code == 2:
        raise UserError(failure.reason.removeprefix("error: "))
    sys.stderr.write("\n".join([*failure.lines, what]) + "\n")
    return 1


def _candidate(point: Point) -> Candidate | None:
    found = point.folder
    metrics = None if found is None else read_metrics(found)
    if found is None or metrics is None:
        return None
    return Candidate(_tried(point, metrics["method"]), found, metrics)


def _tried(point: Point, method: str | None = None) -> str:
    """What a point is to a reader; a method that has not run has the name of its config."""
    tuned = ", ".join(f"{name} {value:g}" for name, value in point.values.items())
    name = method or next(Path(value).stem for option, value in point.options if option == "--config")
    name = "the original" if name == "Keep" else name
    return f"{name} ({tuned})" if tuned else name


def _show(outcome: Outcome, out: Path) -> None:
    console = Console()
    console.print(outcome.table())
    folder = shlex.quote(str(outcome.chosen.folder))
    for line in (
        outcome.why,
        str(out),
        "next:",
        f"  python -m cmu_lightning predict {folder} --out predictions.csv",
        f"  python -m cmu_lightning export {folder} --out FOLDER",
        f"  in Python: cmu_lightning.load({str(outcome.chosen.folder)!r})",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
