"""Sweep files: reading, order and values, command lines, what is said about them; nothing is run."""

import json
import math
import random
import re
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from cmu_lightning.__main__ import main
from cmu_lightning.parsing import PACKAGE
from cmu_lightning.sweep import check, search
from cmu_lightning.sweep.arguments import expand
from cmu_lightning.sweep.file import find, read
from cmu_lightning.sweep.points import listed, of_files, shard
from cmu_lightning.sweep.queue import Queue

ROOT = PACKAGE.parent
SHIPPED = sorted((ROOT / "sweeps").rglob("*.yaml"))
COMMAND = ["${env}", "${interpreter}", "-m", "${program}", "fit", "--config", "poison_digits.yaml", "${args}"]


RANDOM = {
    "values": {"a": {"values": [1, 2, 3, 4, 5]}, "b": {"value": 7}, "c": {"values": ["x", "y"]}},
    "weighted": {"a": {"values": ["x", "y", "z"], "probabilities": [0.1, 0.6, 0.3]}},
    "int_uniform": {"a": {"min": 3, "max": 11}},
    "uniform": {"a": {"min": 0.5, "max": 2.0}, "b": {"min": 1, "max": 2, "distribution": "uniform"}},
    "q_uniform": {"a": {"min": 0.0, "max": 2.0, "q": 0.1, "distribution": "q_uniform"}},
    "q_uniform of integers": {"a": {"min": 0, "max": 100, "q": 5, "distribution": "q_uniform"}},
    "log_uniform": {"a": {"min": -5, "max": 2, "distribution": "log_uniform"}},
    "log_uniform_values": {"a": {"min": 1e-5, "max": 2, "distribution": "log_uniform_values"}},
    "inv_log_uniform": {"a": {"min": -5, "max": 2, "distribution": "inv_log_uniform"}},
    "inv_log_uniform_values": {"a": {"min": 1e-5, "max": 2, "distribution": "inv_log_uniform_values"}},
    "q_log_uniform": {"a": {"min": 1, "max": 4, "q": 0.5, "distribution": "q_log_uniform"}},
    "q_log_uniform_values": {"a": {"min": 1, "max": 400, "distribution": "q_log_uniform_values"}},
    "normal": {"a": {"distribution": "normal"}, "b": {"distribution": "normal", "mu": 3, "sigma": 0.5}},
    "q_normal": {"a": {"distribution": "q_normal", "mu": 3, "sigma": 5, "q": 0.25}},
    "log_normal": {"a": {"distribution": "log_normal", "mu": 1, "sigma": 0.5}},
    "q_log_normal": {"a": {"distribution": "q_log_normal", "mu": 1, "sigma": 0.5, "q": 0.1}},
    "beta": {"a": {"distribution": "beta", "a": 2, "b": 5}},
    "q_beta": {"a": {"distribution": "q_beta", "a": 2, "b": 5, "q": 0.05}},
    "nested": {"b": {"value": 1}, "a": {"parameters": {"y": {"min": 0.0, "max": 1.0}, "x": {"values": [1, 2]}}}},
}
GRIDS = {
    "names are sorted": {"b": {"values": [2, 1]}, "a": {"values": ["y", "x"]}, "B": {"values": [0.1, 0.2]}},
    "each value once": {"a": {"values": [1, 2, 1]}, "b": {"values": [True, False]}},
    "integers": {"a": {"min": 1, "max": 4}, "b": {"value": "c"}},
    "steps": {"a": {"min": 0.0, "max": 1.0, "q": 0.25, "distribution": "q_uniform"}},
    "nested": {"m": {"parameters": {"z": {"values": [1, 2]}, "k": {"parameters": {"i": {"values": [3, 4]}}}}}},
    "lists and mappings": {"a": {"values": [[1, 2], {"x": 1}]}},
}


def plain(value):
    """numpy's numbers as Python's."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return value.item() if hasattr(value, "item") else value


def proposed(method: str, parameters: dict, count: int) -> list[dict]:
    """The points that W&B's own engine proposes, one call for all."""
    runs = engine().next_runs({"method": method, "parameters": parameters}, [], n=count)
    return [{name: plain(inner["value"]) for name, inner in run.config.items()} for run in runs if run is not None]


def engine():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import sweeps

        return sweeps


def sweep_file(parameters: dict, *more: str, name: str = "sweep.yaml", command: list | None = None, **keys) -> Path:
    content = {"program": "cmu_lightning", "method": "grid", "parameters": parameters}
    content |= {"command": [*(command or COMMAND), *more]} | keys
    path = Path(name)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_grids_are_those_of_the_engine(path):
    """Order and values."""
    sweep = read(path)
    points = search.points(sweep)
    assert points == proposed("grid", sweep.content["parameters"], len(points))
    assert len(points) == math.prod(len(given.get("values", [0])) for given in sweep.content["parameters"].values())


@pytest.mark.parametrize("name", RANDOM)
def test_random_values_are_those_of_the_engine(name):
    sweep = read(sweep_file(RANDOM[name], method="random", run_cap=20))
    random.seed(0)
    assert search.points(sweep) == proposed("random", RANDOM[name], 20)


@pytest.mark.parametrize("name", GRIDS)
def test_other_grids_are_those_of_the_engine(name):
    points = search.points(read(sweep_file(GRIDS[name])))
    assert points == proposed("grid", GRIDS[name], len(points))
    assert len(proposed("grid", GRIDS[name], len(points) + 1)) == len(points)


def test_every_value_of_every_shipped_file_is_taken_by_the_command_line(tmp_path):
    """Each option and value is parsed with each class that it belongs to; no point holds anything else."""
    points = listed(of_files([read(path) for path in SHIPPED], tmp_path))
    assert len(points) > 24_000
    assert check.complaints(points) == []
    assert len(check.covering(points)) < 150


def test_one_bad_value_in_any_point_is_among_those_that_are_checked(tmp_path):
    options = {"data.identified": {"values": [0.2, 0.4]}, "model.distill": {"values": [0.1, 1.0, 2.0]}}
    points = listed(of_files([read(sweep_file(options | {"seed_everything": {"values": [0, 1, 2]}}))], tmp_path))
    for at, point in enumerate(points):
        bad = replace(point, arguments=(*point.arguments, "--model.lr=-1"))
        assert bad in check.covering([*points[:at], bad, *points[at + 1 :]])


def test_every_shipped_point_is_rendered_as_by_the_agent(tmp_path):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    for point in listed(of_files([read(path) for path in SHIPPED], tmp_path)):
        theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.values.items()}})
        assert "\n".join(theirs["args"]) in "\n".join(point.arguments)


def test_commands_are_expanded_as_by_the_agent(monkeypatch):
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    monkeypatch.setenv("THERE", "here")
    point = {"a.b": 1.0, "flag": True, "off": False, "text": "x y", "nothing": None, "many": [1, 2], "in": {"x": 1}}
    macros = ["args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json"]
    macros += ["args_append_hydra", "args_override_hydra"]
    theirs = create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    for macro in macros:
        assert expand([f"${{{macro}}}"], "p", point) == theirs[macro]
    given = ["${env}", "${interpreter}", "-m", "${program}", 3, "x-${envvar:THERE}-${envvar:GONE}", "${unknown}"]
    words = [str(item) for item in create_sweep_command([str(item) for item in given])]
    expected = {"${env}": "/usr/bin/env", "${interpreter}": "python", "${program}": "p"}
    assert expand(given, "p", point) == [expected.get(word, word) for word in words if word != "${unknown}"]


def test_a_json_file_of_arguments(tmp_path):
    command = ["python", "-m", "${program}", "fit", "--config", "poison_digits.yaml", "--config", "${args_json_file}"]
    path = sweep_file({"data.identified": {"value": 0.5}, "model": {"value": "CF"}}, command=command)
    (point,) = listed(of_files([read(path)], tmp_path))
    assert json.loads(Path(point.arguments[-1]).read_text()) == {"data.identified": 0.5, "model": "CF"}
    assert check.refused(point.arguments) is None


WRONG = {
    "missing": (None, "nothing.yaml cannot be read"),
    "empty": ("", "sweep.yaml is empty"),
    "no YAML": ("a: [", "sweep.yaml is not YAML"),
    "binary": (bytes(range(128, 256)), "sweep.yaml is not text"),
    "a key twice": ("method: grid\nmethod: bayes\n", "sweep.yaml says method twice"),
    "a list": ("[1, 2]", "holds no mapping"),
    "unknown method": ("method: gird\nparameters: {a: {value: 1}}", "method gird is unknown: give grid"),
    "unknown key": ("method: grid\nparametres: {}", "there is no key parametres"),
    "no parameters": ("method: grid", "has no parameters"),
    "no command": ("method: grid\nparameters: {a: {value: 1}}", "has no command"),
    "another command": ("command: [python, x.py]\nmethod: grid\nparameters: {a: {value: 1}}", "a sweep runs fit"),
    "arguments of nobody": (
        "command: [-m, cmu_lightning, fit, '${arg}']\nmethod: grid\nparameters: {a: {value: 1}}",
        'no parameter reaches the command: put "${args}" at its end',
    ),
    "a bare value": ("method: grid\nparameters: {a: 3}\ncommand: []", "parameter a is 3: give a mapping"),
    "a bound as text": ("method: grid\nparameters: {a: {min: 1e-4, max: 1.0}}\ncommand: []", "'1e-4', which YAML does"),
    "min over max": ("method: grid\nparameters: {a: {min: 2, max: 1}}\ncommand: []", "min 2 is not less than max 1"),
    "more than certain": (
        "method: random\nparameters: {a: {values: [1, 2], probabilities: [0.9, 0.2]}}\ncommand: []",
        "probabilities are [0.9, 0.2]: give numbers of 0 or more that sum to 1",
    ),
    "an unknown distribution": ("method: grid\nparameters: {a: {distribution: x}}\ncommand: []", "x is unknown"),
    "a continuous grid": ("method: grid\nparameters: {a: {min: 0.1, max: 1.0}}\ncommand: []", "which has no grid"),
    "a million": (
        "method: grid\nparameters: {a: {min: 1, max: 1000}, b: {min: 1, max: 1000}}\ncommand: []",
        "is a grid of 1,000,000 runs: set run_cap",
    ),
    "random without end": ("method: random\nparameters: {a: {value: 1}}\ncommand: []", "without an end: set run_cap"),
    "bayes without a metric": ("method: bayes\nparameters: {a: {value: 1}}\ncommand: []", "has no metric to go by"),
    "bayes without end": (
        "method: bayes\nmetric: {name: val_acc, goal: maximize}\nparameters: {a: {value: 1}}\ncommand: []",
        "without an end: set run_cap",
    ),
    "hyperband without a metric": (
        "method: grid\nearly_terminate: {type: hyperband, min_iter: 3}\nparameters: {a: {value: 1}}\ncommand: []",
        "has no metric to go by",
    ),
    "no goal": (
        "method: bayes\nmetric: {name: val_acc}\nparameters: {a: {value: 1}}\ncommand: []",
        "metric has no goal, which to W&B is minimize",
    ),
    "an unknown goal": ("method: grid\nmetric: {name: a, goal: max}\nparameters: {a: {value: 1}}", "goal is max: give"),
    "null": ("method: grid\nparameters: {a: {values: [1, null]}}\ncommand: []", "parameter a has the value null"),
    "a logarithm of nothing": (
        "method: random\nparameters: {a: {distribution: log_uniform_values, min: 0, max: 3}}\ncommand: []",
        "min 0 has no logarithm",
    ),
    "hyperband without bands": (
        "early_terminate: {type: hyperband}\nmethod: grid\nmetric: {name: a, goal: minimize}\n"
        "parameters: {a: {value: 1}}",
        "give {type: hyperband, min_iter: 3}",
    ),
    "a band of nothing": (
        "early_terminate: {type: hyperband, min_iter: 0}\nmethod: grid\nmetric: {name: a, goal: minimize}\n"
        "parameters: {a: {value: 1}}",
        "early_terminate.min_iter is 0",
    ),
    "no cap": ("method: grid\nrun_cap: all\nparameters: {a: {value: 1}}\ncommand: []", "run_cap all is not a number"),
    "an unknown config": (
        "method: grid\nprogram: cmu_lightning\nparameters: {config: {value: no.yaml}}\n"
        "command: [-m, cmu_lightning, fit, '${args}']",
        "there is no config no.yaml",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_with_a_file_is_said_in_one_sentence(case, capsys):
    text, says = WRONG[case]
    if text is not None:
        Path("sweep.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["sweep", "nothing.yaml" if text is None else "sweep.yaml", "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(says), error), error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


CHECKED = {
    "text": ({"model.distill": {"values": ["1e4"]}}, {}, "has the value 1e4, which YAML reads as text: write 10000.0"),
    "nan": ({"model.distill": {"values": ["nan"]}}, {}, "has the value nan, which YAML reads as text: write .nan"),
    "mixed": ({"data.identified": {"min": 0.1, "max": 1}}, {"method": "random", "run_cap": 1}, "goes from 0.1 to 1"),
    "key": ({"model.distil": {"value": 1.0}}, {}, "there is no option 'distil'"),
    "value": ({"data.identified": {"value": "half"}}, {}, "data.identified=half is not possible: give a number"),
    "no fraction": ({"data.identified": {"values": [0.5, 0]}}, {}, "identified=0.0 is not in (0, 1]"),
    "no weight": ({"model.distill": {"values": [1.0, -1.0]}}, {}, "Scrub needs distill >= 0"),
    "metric": ({"data.identified": {"value": 0.5}}, {"metric": {"name": "accuracy"}}, "accuracy is never logged"),
}


@pytest.mark.parametrize("case", CHECKED)
def test_check_says_what_would_fail(case, capsys):
    parameters, keys, says = CHECKED[case]
    overlay = [*COMMAND[:-1], "--config", "unlearn/scrub.yaml", "${args}"]
    path = sweep_file(parameters, command=overlay, **keys)
    assert main(["sweep", str(path), "--check"]) == 2
    assert says in capsys.readouterr().err


def test_check_needs_no_device_of_the_runs(capsys):
    path = sweep_file({"trainer.accelerator": {"value": "gpu"}, "trainer.devices": {"value": 8}})
    assert main(["sweep", str(path), "--check"]) == 0
    assert capsys.readouterr() == ("nothing is wrong with 1 run\n", "")
    assert not Path("runs").exists()


def test_check_has_a_bar_in_a_terminal_and_says_the_same(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    path = sweep_file({"data.identified": {"value": 2}})
    assert main(["sweep", str(path), "--check"]) == 2
    shown = capsys.readouterr().err
    assert "checking" in shown
    assert f"error: {path}: identified=2.0 is not in (0, 1]" in shown.splitlines()[-1]


def test_check_knows_that_originals_have_no_selection_score(capsys):
    path = sweep_file({"seed_everything": {"values": [0, 1]}}, metric={"name": "selection_score"})
    assert main(["sweep", str(path), "--check"]) == 2
    assert "selection_score is never logged: there are acc_corr" in capsys.readouterr().err
    for logged in ("val_acc", "train_loss", "seconds"):
        path = sweep_file({"seed_everything": {"value": 1}}, metric={"name": logged})
        assert main(["sweep", str(path), "--check"]) == 0


def test_check_knows_what_unlearners_log(unlearned):
    (folder,) = unlearned.glob("poison_digits/CF/*")
    header = next(folder.glob("csv/version_*/metrics.csv")).read_text().partition("\n")[0].split(",")
    stored = json.loads((folder / "metrics.json").read_text())
    of_data = {"identified", "val_majority"}  # which no run changes
    assert {*header} - {"step", "epoch"} <= check.LOGGED
    assert {name for name, value in stored.items() if isinstance(value, float)} - of_data <= check.LOGGED
    (origin,) = unlearned.glob("poison_digits/Original/*")
    assert not check.OF_UNLEARNERS & json.loads((origin / "metrics.json").read_text()).keys()


def test_a_list_of_runs_needs_no_torch(tmp_path):
    code = "import sys; from cmu_lightning.__main__ import main; main(['sweep', sys.argv[1], '--dry_run']); "
    code += "assert not {'torch', 'lightning', 'wandb'} & sys.modules.keys()"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "sweeps/main")], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("9315 runs, 0 done, 9315 to do\n")


def test_a_list_of_several_files_counts_each(tmp_path, capsys):
    for name, seeds in (("one.yaml", [0, 1]), ("two.yaml", [2])):
        sweep_file({"seed_everything": {"values": seeds}}, name=name)
    assert main(["sweep", "one.yaml", "two.yaml", "--dry_run", "--runs_dir", str(tmp_path)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[-3:] == ["one.yaml: 2 runs, 0 done", "two.yaml: 1 runs, 0 done", "3 runs, 0 done, 3 to do"]


def test_shards_share_the_points(tmp_path, capsys):
    points = listed(of_files([read(path) for path in find([str(ROOT / "sweeps/demo_digits")])], tmp_path))
    parts = [shard(points, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(point.key for part in parts for point in part) == sorted(point.key for point in points)
    for wrong in ("0/3", "4/3", "x", "1"):
        assert main(["sweep", str(ROOT / "sweeps/demo_digits"), "--dry_run", "--shard", wrong]) == 2
        assert "is no I/N" in capsys.readouterr().err


def test_hyperparameters_are_chosen_among_numbers_alone(tmp_path):
    """What is no number makes another method of it, whose chosen weights stay too, as the report tells them apart."""
    tuned = {"model.class_path": {"value": "SSD"}, "model.fisher": {"values": ["batch", "sample"]}}
    path = sweep_file(tuned | {"model.selection": {"values": [1, 10.5, 1e-3]}})
    rivals = {point.rivals for point in listed(of_files([read(path)], tmp_path))}
    assert len(rivals) == 2


@pytest.mark.parametrize("name", ["model.seed", "model.init_args.seed"])
def test_runs_of_other_seeds_are_no_rivals(name, tmp_path):
    path = sweep_file({"model.class_path": {"value": "CF"}, name: {"values": [0, 1, 2]}})
    assert len({point.rivals for point in listed(of_files([read(path)], tmp_path))}) == 3


def test_workers_do_not_wait_for_one_original(tmp_path):
    """Originals first; then one point of each original, before a second one of any."""
    path = sweep_file(
        {"model.class_path": {"values": ["CF", "RewoD"]}, "seed_everything": {"values": [0, 1]}},
        name="unlearners.yaml",
    )
    originals = sweep_file({"seed_everything": {"values": [0, 1]}}, name="z_originals.yaml")
    points = listed(of_files([read(path), read(originals)], tmp_path))
    assert [point.is_original for point in points] == [True, True, False, False, False, False]
    queue = Queue(points[2:])
    first, second, third = queue.next(), queue.next(), queue.next()
    assert first.origin != second.origin
    assert third is not None, "nothing else is left to do"
    queue.give_back(second, finished=True)
    assert queue.next().origin == second.origin or len(queue.waiting) == 0
    assert Queue(points[2:3]).next() is None, "another process works on it"
