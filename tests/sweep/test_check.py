"""Mistakes that are found before anything runs."""

import itertools
import json
import random
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cmu_lightning.__main__ import main
from cmu_lightning.sweep import check, parse
from cmu_lightning.sweep.points import Point
from tests.sweep.studies import DIGITS, SHIPPED, read_points, write_sweep

SCRUB = [*DIGITS, "--config", "unlearn/scrub.yaml", "${args}"]
PARAMETERS_OF_CLASSES = ("config", "data.class_path", "model", "model.class_path")

pytestmark = pytest.mark.usefixtures("inline_workers")

CHECKED: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "text": ({"model.distill": {"values": ["1e4"]}}, {}, "has the value 1e4, which YAML reads as text: write 10000.0"),
    "nan": ({"model.distill": {"values": ["nan"]}}, {}, "has the value nan, which YAML reads as text: write .nan"),
    "mixed": ({"data.identified": {"min": 0.1, "max": 1}}, {"method": "random", "run_cap": 1}, "goes from 0.1 to 1"),
    "key": ({"model.distil": {"value": 1.0}}, {}, "there is no option 'distil'"),
    "value": ({"data.identified": {"value": "half"}}, {}, "data.identified=half is not possible: give a number"),
    "no fraction": ({"data.identified": {"values": [0.5, 0]}}, {}, "identified=0.0 is not in (0, 1]"),
    "no weight": ({"model.distill": {"values": [1.0, -1.0]}}, {}, "Scrub needs distill >= 0"),
    "metric": ({"data.identified": {"value": 0.5}}, {"metric": {"name": "accuracy"}}, "accuracy is never logged"),
    "metrics": ({"data.identified": {"value": 0.5}}, {"metric": {"name": ["a"]}}, "metric needs a name"),
    "many": ({"seed_everything": {"min": 0, "max": 2**32 - 1}}, {"run_cap": 3}, "has 4,294,967,295 values from 0"),
    "steps": (
        {"data.identified": {"distribution": "q_uniform", "min": 0.0, "max": 1.0, "q": 1.0e-9}},
        {},
        "has 1,000,000,000 values from 0.0 to 1.0: give values, or method: random",
    ),
    "endless": (
        {"model.distill": {"min": 0.0, "max": float("inf")}},
        {"method": "random", "run_cap": 1},
        "max is inf: give a finite number",
    ),
}


@pytest.mark.parametrize("case", CHECKED)
def test_check_reports_what_would_fail(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    parameters, keys, says = CHECKED[case]
    path = write_sweep(parameters, command=SCRUB, **keys)
    assert main(["sweep", str(path), "--check"]) == 2
    assert says in capsys.readouterr().err


def test_check_needs_no_device_of_the_runs(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep({"trainer.accelerator": {"value": "gpu"}, "trainer.devices": {"value": 8}})
    assert main(["sweep", str(path), "--check"]) == 0
    assert capsys.readouterr() == ("no mistake in 1 run\n", "")
    assert not Path("runs").exists()


def test_check_has_a_bar_in_a_terminal_and_reports_the_same(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = write_sweep({"data.identified": {"value": 2}})
    assert main(["sweep", str(path), "--check"]) == 2
    shown = capsys.readouterr().err
    assert "checking command lines" in shown
    assert f"error: {path}: identified=2.0 is not in (0, 1]" in shown.splitlines()[-1]


def test_check_knows_that_originals_have_no_selection_score(capsys: pytest.CaptureFixture[str]) -> None:
    path = write_sweep({"seed_everything": {"values": [0, 1]}}, metric={"name": "selection_score"})
    assert main(["sweep", str(path), "--check"]) == 2
    assert "selection_score is never logged: there are acc_corr" in capsys.readouterr().err
    for logged in ("val_acc", "train_loss", "seconds"):
        points = read_points(write_sweep({"seed_everything": {"value": 1}}, metric={"name": logged}))
        assert check.find_mistakes(points) == []


def test_check_knows_what_unlearners_log(unlearned: Path) -> None:
    (folder,) = unlearned.glob("poison_digits/CF/*")
    header = next(folder.glob("csv/version_*/metrics.csv")).read_text().partition("\n")[0].split(",")
    stored = json.loads((folder / "metrics.json").read_text())
    of_data = {"identified", "val_majority"}  # which no run changes
    assert {*header} - {"step", "epoch"} <= check.LOGGED
    assert {name for name, value in stored.items() if isinstance(value, float)} - of_data <= check.LOGGED
    (origin,) = unlearned.glob("poison_digits/Original/*")
    assert not check.LOGGED_BY_UNLEARNERS & json.loads((origin / "metrics.json").read_text()).keys()


def test_a_command_line_that_shows_help_runs_nothing() -> None:
    """It would count as a run that has finished."""
    from cmu_lightning.sweep.worker import Parse, _parse

    line = ["fit", "--config", "poison_digits.yaml", "--print_config"]
    assert _parse(Parse(line)) == "the command line runs nothing: leave out --help and --print_config"


def test_parsers_that_serve_many_command_lines_keep_nothing_of_them() -> None:
    """Good and bad ones in turn: each is told what the first of a process is told."""
    lines = {
        ("--config", "unlearn/scrub.yaml", "--model.distill", "-1"): "Scrub needs distill >= 0",
        ("--config", "unlearn/scrub.yaml", "--model.distill", "0.5"): None,
        ("--model.distill", "0.5"): "--model.distill is not of an original",
        ("--model.class_path", "SSD", "--model.selection", "3"): None,
        ("--model.class_path", "SSD", "--model.distill", "0.5"): "SSD: there is no option 'distill'",
        ("--data.identified", "half"): "data.identified=half is not possible: give a number",
        (): None,
    }
    for _ in range(2):
        for options, says in lines.items():
            mistake = parse.find_mistake(["fit", "--config", "poison_digits.yaml", *options])
            assert (mistake is None) == (says is None), mistake
            assert says is None or (mistake is not None and says in mistake), mistake


@pytest.mark.parametrize("at", [0, 3, 5])
def test_a_mistake_in_any_point_is_found_before_the_first_run(
    at: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[list[str]] = []

    def find_mistake(arguments: list[str]) -> str | None:
        seen.append(arguments)
        return "no such value" if len(seen) == at + 1 else None

    monkeypatch.setattr(parse, "find_mistake", find_mistake)
    path = write_sweep({"data.identified": {"values": [0.2, 0.4]}, "seed_everything": {"values": [0, 1, 2]}})
    assert main(["sweep", str(path), "--workers", "2"]) == 2
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {path}: no such value"
    assert len(seen) == 6
    assert [*Path("runs").iterdir()] == [Path("runs/.sweep")], "nothing has run"


def test_a_command_line_is_parsed_once(monkeypatch: pytest.MonkeyPatch, unlearned: Path) -> None:
    """By any sweep on the runs folder, or by `fit` itself; other values of one are parsed again."""
    points = read_points(write_sweep({"seed_everything": {"values": [0, 1, 2]}}))
    monkeypatch.setattr(parse, "find_mistake", lambda arguments: "no" if "--seed_everything=1" in arguments else None)
    assert check.find_unparsed(points, Path("runs")) == points
    assert len(check.find_refused(points, 1, Path("runs"))) == 1
    assert check.find_unparsed(points, Path("runs")) == [points[1]]
    more = read_points(write_sweep({"seed_everything": {"values": [0, 3]}}))
    assert check.find_unparsed(more, Path("runs")) == [more[1]]
    (note,) = [path for path in (unlearned / ".sweep/asked").iterdir() if "/CF/" in path.read_text()]
    (known,) = read_points(write_sweep({"seed_everything": {"value": 0}}), runs_dir=unlearned)
    object.__setattr__(known, "key", note.name)
    assert check.find_unparsed([known], unlearned) == []


def test_every_pair_of_values_is_parsed_but_not_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 3 x 4 x 5 points, 20 hold all pairs at least; pairs of command lines that were parsed are not needed again."""
    values = {"data.identified": [0.2, 0.4, 0.6], "data.seed": [0, 1, 2, 3], "seed_everything": [0, 1, 2, 3, 4]}
    points = read_points(write_sweep({name: {"values": each} for name, each in values.items()}))
    few = check.find_unparsed(points, Path("runs"))
    assert 20 <= len(few) < 40 < len(points) == 60
    for first, second in itertools.combinations(values, 2):
        held = {(point.values[first], point.values[second]) for point in few}
        assert held == set(itertools.product(values[first], values[second]))
    monkeypatch.setattr(parse, "find_mistake", lambda arguments: None)
    assert check.find_refused(few, 1, Path("runs")) == []
    assert check.find_unparsed(points, Path("runs")) == []


def test_an_option_that_is_left_out_is_a_value_of_it() -> None:
    """`false` is no option at all where W&B writes flags without values."""
    parameters = {"model.rewind": {"values": [True, False]}, "seed_everything": {"values": [0, 1]}}
    points = read_points(write_sweep(parameters, command=[*SCRUB[:-1], "${args_no_boolean_flags}"]))
    assert len({len(point.options) for point in points}) == 2
    assert check.find_unparsed(points, Path("runs")) == points


def test_the_ledger_is_whole_after_many_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that a killed process has torn is parsed again, and spoils no other."""
    points = read_points(write_sweep({"seed_everything": {"values": [0, 1, 2]}}))
    ledger = Path("runs/.sweep/parsed")
    ledger.parent.mkdir(parents=True)
    ledger.write_text(points[0].key + "\n" + points[1].key[:5] + "\n")
    monkeypatch.setattr(parse, "find_mistake", lambda arguments: None)
    assert check.find_unparsed(points, Path("runs")) == points[1:]
    assert check.find_refused(points[1:], 1, Path("runs")) == []
    assert check.find_unparsed(points, Path("runs")) == []


@pytest.mark.parametrize("damaged", [b"", b"\xff\xfe\x00", b"0123456789abcde"])
def test_a_damaged_ledger_is_written_again(damaged: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is added after a torn line is a line of its own."""
    points = read_points(write_sweep({"seed_everything": {"values": [0, 1]}}))
    ledger = Path("runs/.sweep/parsed")
    ledger.parent.mkdir(parents=True)
    ledger.write_bytes(damaged)
    monkeypatch.setattr(parse, "find_mistake", lambda arguments: None)
    assert check.find_unparsed(points, Path("runs")) == points
    assert check.find_refused(points, 1, Path("runs")) == []
    assert check.find_unparsed(points, Path("runs")) == []


def test_a_point_that_kills_its_worker_is_left_to_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither refused nor kept as parsed."""
    points = read_points(write_sweep({"seed_everything": {"values": [0, 1]}}))

    class Killed:
        is_dead = True
        point: Point | None = None

        def parse(self, point: Point) -> None:
            self.point = point

        def answer(self) -> int:
            return -signal.SIGKILL

        def replace(self) -> "Killed":
            return Killed()

        def end(self, seconds: float) -> None:
            assert seconds == 0

    monkeypatch.setattr(check, "start_workers", lambda count, variables: [Killed() for _ in range(count)])
    assert check.find_refused(points, 2, Path("runs")) == []
    assert check.find_unparsed(points, Path("runs")) == points


Part = tuple[Any, ...]
"""Classes that occur together, or a parameter with a value and the classes that it belongs to."""


def parts_of(point: Point) -> frozenset[Part]:
    """Return the combination of classes of a point, and every value with each class that it belongs to."""
    classes = {name: str(value) for name, value in point.values.items() if name in PARAMETERS_OF_CLASSES}
    owners = {
        "model": (classes.get("model.class_path"), point.sweep.path.name),
        "data": (classes.get("config"), classes.get("data.class_path")),
    }
    values = {name: value for name, value in point.values.items() if name not in PARAMETERS_OF_CLASSES}
    return frozenset(
        [tuple(classes.items())]
        + [(name, str(value), *owners.get(name.partition(".")[0], ())) for name, value in values.items()]
    )


def few_points(points: list[Point]) -> list[Point]:
    """Return points that have all parts together, by the greedy algorithm for set cover."""
    missing: set[Part] = set()
    candidates: dict[frozenset[Part], Point] = {}
    for at, point in enumerate(random.Random(0).sample(points, len(points))):
        parts = parts_of(point)
        # A cover from some thousands is as small as one from all points.
        if at < 3000 or not parts <= missing:
            candidates[parts] = point
        missing |= parts
    few = []
    while missing:
        best = max(candidates, key=lambda parts: len(parts & missing))
        few.append(candidates[best])
        missing -= best
    return few


@pytest.mark.slow  # half a minute of parsing
def test_every_value_of_every_shipped_file_is_accepted() -> None:
    """Each option and value is parsed with each class that it belongs to; no point holds anything else."""
    points = read_points(*SHIPPED)
    assert len(points) > 24_000
    few = few_points(points)
    assert len(few) < len(points) / 100
    assert set().union(*map(parts_of, few)) == set().union(*map(parts_of, points))
    assert check.find_mistakes(points) == []
    with torch.device("meta"):  # networks are built, but their initial weights are not drawn, which takes a third
        refused = {str(point): mistake for point in few if (mistake := parse.find_mistake(list(point.arguments)))}
    assert refused == {}
