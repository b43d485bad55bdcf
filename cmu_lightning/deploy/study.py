"""The study of a repair: one run of `fit` for every candidate, then the choice among them."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from cmu_lightning.deploy.choice import Candidate, Choice, Outcome, choose, doubts, require_results, take
from cmu_lightning.deploy.evidence import Evidence
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import read_metrics, write_metrics
from cmu_lightning.sweep.file import SweepFile
from cmu_lightning.sweep.points import Point
from cmu_lightning.sweep.queue import Failure
from cmu_lightning.sweep.weights import drop_weights, keep_weights

if TYPE_CHECKING:
    from cmu_lightning.data import CorruptedDataModule
    from cmu_lightning.deploy.trusted import Trusted

STUDY: dict[str, dict[str, tuple[float, ...]]] = {
    "keep": {},
    "pure": {},
    "relabel": {},
    "potion": {},
    "assd": {},
    "ssd": {"selection": (1.0, 10.0, 100.0), "dampening_ratio": (0.1, 1.0)},
    "cf": {},
    "scrub": {"distill": (0.1, 1.0)},
    "badt": {},
}
"""Overlays in `configs/unlearn` that are tried, and grids of their hyperparameters.

`keep` comes first: it measures the original. `relabel` is tried where the list corrects labels. RewoD is left out: it
costs as much as the original did.
"""

FIRST = ("keep", "pure")
"""Overlays that run however little time is left."""

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

Run = Callable[[list[Point], Candidate | None, float], list[Failure]]
"""Runs the unfinished ones among some points that `may_start` before a deadline, and returns the failures.

The original, once it is measured, tells which finished runs are of the same images and list.
"""


class RunFailed(Exception):
    """Failure of a run that the outcome requires.

    Args:
        failure: The failed run.
        consequence: What it means for the repair.
    """

    def __init__(self, failure: Failure, consequence: str) -> None:
        super().__init__(consequence)
        self.failure, self.consequence = failure, consequence


def study_points(arguments: list[str], runs_dir: Path, only: str | None = None) -> list[Point]:
    """Return one run of `fit` for every candidate, in the order of `STUDY`; the first one keeps the original.

    Args:
        arguments: Options of `fit` that all runs share, a setting among them.
        runs_dir: Folder of the runs.
        only: Names of the methods to try, separated by commas; None for all.

    Raises:
        UserError: The arguments choose a method, or name a file or a method that does not exist.
    """
    points = []
    for overlay in _overlays(only):
        grid = STUDY[overlay]
        for combination in product(*grid.values()):
            values = dict(zip(grid, combination, strict=True))
            # The overlay comes first and the values last, so that a user's options cannot replace the values.
            tuned = [f"--model.{name}={value}" for name, value in values.items()]
            command = ("fit", "--config", f"unlearn/{overlay}.yaml", *arguments, *tuned)
            points.append(Point(SweepFile(Path("repair"), {}, []), values, command, runs_dir))
    _refuse_method(points[0])
    if any(name == "--checkpoints" for name, _ in points[0].options):
        raise UserError("repair keeps the weights of the run that it chooses: leave --checkpoints out")
    _refuse_missing_files(points[0])
    return points


def _overlays(only: str | None) -> list[str]:
    """Return the overlays to try, the one that keeps the original among them."""
    if only is None:
        return list(STUDY)
    asked = [name.strip().lower() for name in only.split(",") if name.strip()]
    methods = [name for name in STUDY if name != "keep"]
    unknown = [name for name in asked if name not in STUDY]
    if unknown or not set(asked) & set(methods):
        wrong = unknown[0] if unknown else only
        raise UserError(f"--only {only}: repair has no method {wrong!r}; choose from {', '.join(methods)}")
    return [name for name in STUDY if name == "keep" or name in asked]


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
            raise UserError(f"{name} names {value}, but there is no such file: check the path")


@dataclass
class Study:
    """The runs of a repair, in the order in which they are made, and the choice among them.

    Args:
        points: Runs; the first one keeps the original.
        run: Makes runs.
        say: Prints a line immediately.
        minutes: Time after which no further candidate starts; the original and PURE always run.
        taken: Name of a finished candidate to take whatever its score; None runs the study and chooses.
        trusted: Returns images whose right labels are known, given the data; None if there are none.
    """

    points: list[Point]
    run: Run
    say: Callable[[str], None]
    minutes: float = math.inf
    taken: str | None = None
    trusted: "Callable[[CorruptedDataModule], Trusted] | None" = None
    notes: list[str] = field(default_factory=list)

    def carry_out(self) -> Outcome:
        """Run the candidates, choose one, and decide whose weights to keep.

        Raises:
            UserError: The arguments or the data cannot work, or `taken` is no candidate.
            RunFailed: The original cannot be measured, or weights that are needed cannot be restored.
        """
        deadline = time.monotonic() + 60 * self.minutes
        # 1. The original is measured before all others, so that an error they all have in common is reported once.
        if failures := self.run(self.points[:1], None, math.inf):
            raise RunFailed(failures[0], "the original cannot be measured")
        original = require_results(_candidate(self.points[0]))
        for line in [*original.metrics.get("notes", []), *doubts(original)]:
            self._note(line)
        if not original.metrics.get("corrected"):
            self._leave_out_relabel()
        evidence = Evidence(original, self._restore_weights, self.trusted)
        original = evidence.judged(original)  # trusted images that cannot be read are refused before the candidates
        # 2. Candidates. One that fails is reported and does not end the others.
        failures = [] if self.taken else self.run(self.points[1:], original, deadline)
        candidates = [
            evidence.judged(each) if self._counts(each) else each for each in _comparable(self.points[1:], original)
        ]
        failed = {name_of(failure.point): failure.reason.removeprefix("error: ") for failure in failures}
        # 3. The choice, by the predictions for single samples.
        choice = take(original, candidates, self.taken) if self.taken else choose(original, candidates, evidence.parts)
        self._restore_weights(choice.run)
        _settle_weights(choice.run, candidates)
        return self._outcome(original, candidates, choice, failed)

    def _counts(self, candidate: Candidate) -> bool:
        """Return whether a candidate may be chosen: where one is asked for, no other is run again to be judged."""
        names = (candidate.name.lower(), str(candidate.metrics["method"]).lower())
        return self.taken is None or self.taken.strip().lower() in names

    def _note(self, line: str) -> None:
        self.notes.append(line)
        self.say(line)

    def _leave_out_relabel(self) -> None:
        """Leave out the method that needs corrected labels, because the list has none."""
        tried = {overlay_of(point) for point in self.points}
        kept = [point for point in self.points if overlay_of(point) != "relabel"]
        if "relabel" in tried and tried != set(STUDY):
            raise UserError("--only relabel needs corrected labels: add a column corrected_label to the list")
        self.points = kept

    def _restore_weights(self, run: Candidate) -> None:
        """Run a finished candidate again if its weights are gone, by an earlier choice or another command."""
        if (run.folder / "last.ckpt").exists():
            return
        results = run.folder / "metrics.json"
        results.unlink()  # a run without results is not finished
        try:
            failures = self.run([point for point in self.points if point.folder == run.folder], None, math.inf)
        finally:
            if not results.exists():  # a failure or an interruption: those before are still true
                write_metrics(run.folder, run.metrics)
        if failures:
            raise RunFailed(failures[0], f"the weights of {run.name} cannot be restored")

    def _outcome(
        self, original: Candidate, candidates: list[Candidate], choice: Choice, failed: dict[str, str]
    ) -> Outcome:
        """Return the outcome, with what there was no time for."""
        tried = {each.folder for each in candidates}
        missing = [name_of(point) for point in self.points[1:] if point.folder not in tried]
        not_tried = [name for name in missing if name not in failed and not self.taken]
        if not_tried:
            count = "one candidate was" if len(not_tried) == 1 else f"{len(not_tried)} candidates were"
            self._note(f"{count} not started: the --budget of {self.minutes:g} minutes was used up")
        return Outcome(
            original, candidates, choice.run, choice.reason, failed, choice.refused, not_tried, tuple(self.notes)
        )


def is_finished(point: Point, original: Candidate | None) -> bool:
    """Return whether the results of a point are there and belong to the current files.

    Args:
        point: Run of the study.
        original: Run that has just measured the original; None while it has not.
    """
    found = _candidate(point)
    if found is None or original is None or "content" not in original.metrics:
        return point.is_finished
    return _agree(found, original)


def may_start(point: Point, deadline: float) -> bool:
    """Return whether a run may start: there is time left, or it always runs.

    Args:
        point: Run of the study.
        deadline: Time of `time.monotonic`.
    """
    return overlay_of(point) in FIRST or time.monotonic() < deadline


def _agree(run: Candidate, original: Candidate) -> bool:
    """Return whether two runs have the same images, the same list and the same original."""
    return all(run.metrics.get(name) == original.metrics.get(name) for name in ("content", "original"))


def _comparable(points: Sequence[Point], original: Candidate) -> list[Candidate]:
    """Return the results of some points; where a run failed, those of another list or original may be left."""
    found = [_candidate(point) for point in points]
    return [candidate for candidate in found if candidate is not None and _agree(candidate, original)]


def _candidate(point: Point) -> Candidate | None:
    """Return the run of a point with its results; None if it has not finished."""
    folder = point.folder
    metrics = None if folder is None else read_metrics(folder)
    if folder is None or metrics is None:
        return None
    return Candidate(name_of(point, metrics["method"]), folder, metrics)


def overlay_of(point: Point) -> str:
    """Return the name of the overlay that a run of the study takes its method from.

    Args:
        point: Run of the study.
    """
    return next(Path(value).stem for option, value in point.options if option == "--config")


def name_of(point: Point, method: str | None = None) -> str:
    """Return the name of a candidate: its method and its values in the grid.

    Args:
        point: Run of the study.
        method: Class name of its method; default the name of its overlay.
    """
    name = method or overlay_of(point)
    if name == "Keep":
        return "the original"
    values = ", ".join(f"{key} {value:g}" for key, value in point.values.items())
    return f"{name} ({values})" if values else name


def _settle_weights(chosen: Candidate, candidates: list[Candidate]) -> None:
    """Keep the weights of the chosen run, whatever another command chooses, and drop those of all others."""
    keep_weights(chosen.folder)
    for candidate in candidates:
        if candidate.folder != chosen.folder:
            drop_weights(candidate.folder)
