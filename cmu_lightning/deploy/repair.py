"""`python -m cmu_lightning repair`: try several methods on an original and a list of flagged samples; choose one."""

import shlex
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from cmu_lightning.console import PlainConsole
from cmu_lightning.deploy.choice import CHOICE_FILE, Candidate, Outcome, choose, doubt, require_validation
from cmu_lightning.deploy.output import refuse_folder, refuse_unwritable
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import choose_runs_dir, read_metrics, write_metrics
from cmu_lightning.experiment.wandb_settings import one_silence
from cmu_lightning.files import write_json
from cmu_lightning.parsing import Parser, read_env
from cmu_lightning.sweep.file import SweepFile
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.progress import SweepProgress
from cmu_lightning.sweep.queue import Failure, Queue
from cmu_lightning.sweep.runner import Runner, guard
from cmu_lightning.sweep.weights import drop_weights, keep_weights

STUDY: dict[str, dict[str, tuple[float, ...]]] = {
    "keep": {},
    "potion": {},
    "assd": {},
    "ssd": {"selection": (1.0, 10.0, 100.0), "dampening_ratio": (0.1, 1.0)},
    "cf": {},
    "scrub": {"distill": (0.1, 1.0)},
    "badt": {},
}
"""Overlays in `configs/unlearn` that are tried, and grids of their hyperparameters.

`keep` comes first: it measures the original. RewoD is left out: it costs as much as the original did.
"""

ORIGINAL = ("--model.original", "--model.init_args.original")
FILES = (*ORIGINAL, "--data.discovery.path", "--data.discovery.init_args.path")
"""Options whose values are files that have to exist."""
MODEL_OPTIONS = (
    *ORIGINAL,
    *(
        f"--model.{nested}{name}"
        for nested in ("", "init_args.")
        for name in ("seed", "original_prefix", "original_key")
    ),
)
"""Options of the model that a user may give; the study sets all others."""


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


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Args:
        arguments: Command line after the word repair.

    Returns:
        The exit code: 0, 1 if the original cannot be measured or the chosen run not be repeated, 130 after an
        interruption.

    Raises:
        UserError: The arguments cannot work; exit code 2.
    """
    read_env()
    given, fit_arguments = _parser().parse_known_args(list(arguments))
    if given.out is not None:
        refuse_folder(given.out, "JSON")
        refuse_unwritable(given.out)
    runs_dir = choose_runs_dir(given.runs_dir)
    points = study_points(fit_arguments, runs_dir)
    return guard(lambda: _repair(points, given.out), runs_dir)


def _parser() -> Parser:
    """Return the parser of the options that `fit` does not have."""
    parser = Parser(
        "repair", "Try several methods on a model and a list of flagged samples, and choose. All other options: fit."
    )
    parser.add_argument("--runs_dir", help="Default: CMU_RUNS_DIR, else ./runs.")
    parser.add_argument("--out", type=Path, metavar="FILE", help=f"A copy of RUNS_DIR/SETTING/{CHOICE_FILE}.")
    return parser


def study_points(arguments: list[str], runs_dir: Path) -> list[Point]:
    """Return one run of `fit` for every candidate, in the order of `STUDY`; the first one keeps the original.

    Args:
        arguments: Options of `fit` that all runs share, a setting among them.
        runs_dir: Folder of the runs.

    Raises:
        UserError: The arguments choose a method, or name a file that does not exist.
    """
    points = []
    for overlay, grid in STUDY.items():
        for combination in product(*grid.values()):
            values = dict(zip(grid, combination, strict=True))
            # The overlay comes first and the values last, so that a user's options cannot replace the values.
            tuned = [f"--model.{name}={value}" for name, value in values.items()]
            command = ("fit", "--config", f"unlearn/{overlay}.yaml", *arguments, *tuned)
            points.append(Point(SweepFile(Path("repair"), {}, []), values, command, runs_dir))
    _refuse_method(points[0])
    _refuse_missing_files(points[0])
    return points


def _refuse_method(point: Point) -> None:
    """Refuse options and configs of the user's that choose a method."""
    chosen = [name for name, _ in point.options if name.partition(".")[0] == "--model" and name not in MODEL_OPTIONS]
    chosen += ["model: in a config" for config in point.configs[1:] if "model" in config]  # the first is the study's
    if chosen:
        raise UserError(f"repair tries several methods, and {chosen[0]} asks for one: leave it out, or use fit")


def _refuse_missing_files(point: Point) -> None:
    """Refuse files that do not exist at once, and not after torch was imported and images were read."""
    for name, value in point.options:
        if name not in FILES or value == "null":
            continue
        try:
            exists = Path(value).exists()
        except OSError as error:
            raise UserError(
                f"{name} names {value}, which cannot be read ({error.strerror}): give another file"
            ) from error
        if not exists:
            raise UserError(f"{name} names {value}, and there is no such file: check its path")


def _repair(points: list[Point], out: Path | None) -> int:
    """Run the study, choose, settle whose weights stay, and write and print the outcome.

    Args:
        points: Runs of the study; the first one keeps the original.
        out: File for a copy of the outcome.

    Returns:
        The exit code.
    """
    with one_silence(), RepairProgress(len(points), 0) as progress:
        if not {name for name, _ in points[0].options} & set(ORIGINAL):
            line = "no --model.original is given: the setting's own original is used, and trained if there is none"
            progress.console.print(line, soft_wrap=True)
        # The original is measured before all others, so that an error they all have in common is reported once.
        failures = _run(points[:1], progress)
        if failures:
            return _report_failure(failures[0], "the original cannot be measured")
        original = require_validation(_candidate(points[0]))
        if warning := doubt(original):
            progress.console.print(warning, markup=False, soft_wrap=True)
        # A candidate that fails is reported and does not end the others.
        failures = _run(points[1:], progress, original)
        candidates = _comparable(points[1:], original)
        chosen, reason = choose(original, candidates)
        # An earlier choice or another command may have dropped the weights that are needed now.
        if not (chosen.folder / "last.ckpt").exists():
            failed_again = _repeat(chosen, points, progress)
            if failed_again:
                return _report_failure(failed_again[0], f"the weights of {chosen.name} cannot be made again")
    _settle_weights(chosen, candidates)
    messages = {_name(failure.point): failure.reason.removeprefix("error: ") for failure in failures}
    outcome = Outcome(original, candidates, chosen, reason, messages)
    place = original.folder.parents[1] / CHOICE_FILE  # where the model card looks for it
    for path in {place, out or place}:
        write_json(path, outcome.as_json())
    _show(outcome, out or place)
    return 0


def _run(points: list[Point], progress: SweepProgress, original: Candidate | None = None) -> list[Failure]:
    """Run the unfinished ones among some points, one after the other in one process; return the failures.

    Args:
        points: Runs of the study.
        progress: Progress bar to update.
        original: Run that has just measured the original; finished runs have to agree with it.
    """
    unfinished = [point for point in points if not _is_finished(point, original)]
    progress.show(running=0, done=len(points) - len(unfinished))
    # No weights are dropped before the choice.
    more = ["--runs_dir", str(points[0].runs_dir), "--checkpoints", "chosen"]
    return Runner(Queue(unfinished), progress, more, keeps_weights=True).run()


def _repeat(chosen: Candidate, points: list[Point], progress: SweepProgress) -> list[Failure]:
    """Run a finished candidate again to get its weights back; return the failures.

    Args:
        chosen: Candidate whose weights are gone.
        points: Runs of the study.
        progress: Progress bar to update.
    """
    results = chosen.folder / "metrics.json"
    results.unlink()  # a run without results is not finished
    failures = _run([point for point in points if point.folder == chosen.folder], progress)
    if failures:
        write_metrics(chosen.folder, chosen.metrics)  # they are still true
    return failures


def _is_finished(point: Point, original: Candidate | None) -> bool:
    """Return whether the results of a point are there and belong to the files as they are now."""
    found = _candidate(point)
    if found is None or original is None or "content" not in original.metrics:
        return point.is_finished
    return _agree(found, original)


def _agree(run: Candidate, original: Candidate) -> bool:
    """Return whether two runs have the same images, the same list and the same original."""
    return all(run.metrics.get(name) == original.metrics.get(name) for name in ("content", "original"))


def _comparable(points: list[Point], original: Candidate) -> list[Candidate]:
    """Return the results of some points; where a run failed, those of another list or original may be left."""
    found = [_candidate(point) for point in points]
    return [candidate for candidate in found if candidate is not None and _agree(candidate, original)]


def _candidate(point: Point) -> Candidate | None:
    """Return the run of a point with its results; None if it has not finished."""
    folder = point.folder
    metrics = None if folder is None else read_metrics(folder)
    if folder is None or metrics is None:
        return None
    return Candidate(_name(point, metrics["method"]), folder, metrics)


def _name(point: Point, method: str | None = None) -> str:
    """Return the name of a candidate: its method and its values in the grid.

    Args:
        point: Run of the study.
        method: Class name of its method; default the name of its overlay.
    """
    name = method or next(Path(value).stem for option, value in point.options if option == "--config")
    if name == "Keep":
        return "the original"
    values = ", ".join(f"{key} {value:g}" for key, value in point.values.items())
    return f"{name} ({values})" if values else name


def _settle_weights(chosen: Candidate, candidates: list[Candidate]) -> None:
    """Keep the weights of the chosen run, whatever another command chooses, and drop those of all others."""
    keep_weights(chosen.folder)
    for candidate in candidates:
        if candidate.folder != chosen.folder:
            drop_weights(candidate.folder, candidate.metrics)


def _report_failure(failure: Failure, consequence: str) -> int:
    """Report a failure without which there is no outcome.

    Args:
        failure: Failed run.
        consequence: What it means for the repair.

    Returns:
        Exit code 1.

    Raises:
        UserError: The run ended with exit code 2, which is the user's to correct.
    """
    if failure.code == 2:
        raise UserError(failure.reason.removeprefix("error: "))
    sys.stderr.write("\n".join([*failure.lines, consequence]) + "\n")
    return 1


def _show(outcome: Outcome, out: Path) -> None:
    """Print the table, the reason, and what can be done with the chosen run.

    Args:
        outcome: Result of the repair.
        out: File that it was written to.
    """
    console = PlainConsole()
    console.print(outcome.as_table())
    folder = shlex.quote(str(outcome.chosen.folder))
    for line in (
        outcome.reason,
        str(out),
        "next:",
        f"  python -m cmu_lightning predict {folder} --out predictions.csv",
        f"  python -m cmu_lightning export {folder} --out FOLDER",
        f"  in Python: cmu_lightning.load({str(outcome.chosen.folder)!r})",
    ):
        console.print(line, soft_wrap=True, markup=False, highlight=False)
