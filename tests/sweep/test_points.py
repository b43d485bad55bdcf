"""Points: their command lines, as W&B's agent makes them, and what these tell. Nothing runs."""

import json
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.sweep import parse
from cmu_lightning.sweep.file import read_file
from cmu_lightning.sweep.points import expand_command, order_points, select_shard
from cmu_lightning.sweep.search import list_points
from tests.sweep.studies import ROOT, SHIPPED, read_points, write_sweep


def test_every_shipped_point_is_rendered_as_by_the_agent() -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    points = [point for path in SHIPPED for point in list_points(read_file(path), Path("runs"))]
    assert len(points) > 24_000
    for point in points:
        theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.values.items()}})
        assert "\n".join(theirs["args"]) in "\n".join(point.arguments)


def test_commands_are_expanded_as_by_the_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.setenv("THERE", "here")
    values = {"a.b": 1.0, "flag": True, "off": False, "text": "x y", "nothing": None, "many": [1, 2], "in": {"x": 1}}
    macros = ["args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json"]
    macros += ["args_append_hydra", "args_override_hydra"]
    theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})
    for macro in macros:
        assert expand_command([f"${{{macro}}}"], "p", values) == theirs[macro]
    given = ["${env}", "${interpreter}", "-m", "${program}", 3, "x-${envvar:THERE}-${envvar:GONE}", "${unknown}"]
    words = [str(item) for item in create_sweep_command([str(item) for item in given])]
    expected = {"${env}": "/usr/bin/env", "${interpreter}": "python", "${program}": "p"}
    assert expand_command(given, "p", values) == [expected.get(word, word) for word in words if word != "${unknown}"]


def test_a_json_file_of_arguments() -> None:
    command = ["python", "-m", "${program}", "fit", "--config", "poison_digits.yaml", "--config", "${args_json_file}"]
    path = write_sweep({"data.identified": {"value": 0.5}, "model": {"value": "CF"}}, command=command)
    (point,) = read_points(path)
    assert json.loads(Path(point.arguments[-1]).read_text()) == {"data.identified": 0.5, "model": "CF"}
    assert parse.find_mistake(list(point.arguments)) is None


def test_shards_share_the_points(capsys: pytest.CaptureFixture[str]) -> None:
    points = read_points(ROOT / "sweeps/demo_digits")
    parts = [select_shard(points, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(point.key for part in parts for point in part) == sorted(point.key for point in points)
    for wrong in ("0/3", "4/3", "x", "1"):
        assert main(["sweep", str(ROOT / "sweeps/demo_digits"), "--dry_run", "--shard", wrong]) == 2
        assert "is no I/N" in capsys.readouterr().err


def test_originals_come_first_and_each_point_once() -> None:
    unlearners = write_sweep({"model.class_path": {"values": ["CF", "RewoD"]}}, name="a.yaml")
    originals = write_sweep({"seed_everything": {"values": [0, 1]}}, name="b.yaml")
    again = write_sweep({"seed_everything": {"values": [1, 2]}}, name="c.yaml")
    points = read_points(unlearners, originals, again)
    assert [point.is_original for point in points] == [True, True, True, False, False]
    twice = [*points, *read_points(unlearners, originals, again)]
    assert order_points(twice) == points, "the first of equal ones"


def test_hyperparameters_are_numbers_of_the_model() -> None:
    """A word makes another method, whose chosen weights stay too, as the report tells them apart."""
    tuned = {"model.class_path": {"value": "SSD"}, "model.fisher": {"values": ["batch", "sample"]}}
    path = write_sweep(tuned | {"model.selection": {"values": [1, 10.5, 1e-3]}})
    assert len({point.group for point in read_points(path)}) == 2


@pytest.mark.parametrize("name", ["model.seed", "model.init_args.seed", "model.original_prefix"])
def test_what_is_of_the_original_or_a_seed_is_no_hyperparameter(name: str) -> None:
    path = write_sweep({"model.class_path": {"value": "CF"}, name: {"values": [0, 1, 2]}})
    assert len({point.group for point in read_points(path)}) == 3


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], False),
        (["--trainer.devices", "auto"], False),
        (["--trainer.devices", "[3]"], False),
        (["--trainer.devices", "2"], True),
        (["--trainer.num_nodes", "2", "--trainer.devices", "1"], True),
    ],
)
def test_a_run_of_several_processes_is_known(options: list[str], expected: bool) -> None:
    (point,) = read_points(write_sweep({"seed_everything": {"value": 0}}, *options))
    assert point.is_distributed == expected
