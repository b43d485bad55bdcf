"""Sweep files: what is read, and what is said about a file with a mistake. Nothing runs."""

import re
from pathlib import Path

import pytest

from cmu_lightning.__main__ import main
from cmu_lightning.sweep.file import find_files, read_file
from tests.sweep.studies import ROOT, write_sweep

MISTAKES: dict[str, tuple[str | bytes | None, str]] = {
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
    "a missing bound": (
        "method: random\nparameters: {a: {distribution: uniform, min: 1}}\ncommand: []",
        "parameter a is uniform and needs max",
    ),
    "an unknown bound": (
        "method: grid\nparameters: {a: {value: 1, min: 2}}\ncommand: []",
        "is constant and takes no min",
    ),
    "a value for a list": ("method: grid\nparameters: {a: {values: 3}}\ncommand: []", "values is 3: give a list"),
    "a bound as text": ("method: grid\nparameters: {a: {min: 1e-4, max: 1.0}}\ncommand: []", "'1e-4', which YAML does"),
    "min over max": ("method: grid\nparameters: {a: {min: 2, max: 1}}\ncommand: []", "min 2 is not less than max 1"),
    "half an integer": (
        "method: random\nparameters: {a: {distribution: int_uniform, min: 0.5, max: 2}}\ncommand: []",
        "int_uniform from 0.5 to 2: give whole numbers",
    ),
    "no spread": (
        "method: random\nparameters: {a: {distribution: normal, sigma: 0}}\ncommand: []",
        "sigma is 0: give a positive number",
    ),
    "values for exponents": (
        "method: random\nparameters: {a: {distribution: log_uniform, min: 1, max: 1000}}\ncommand: []",
        "give log_uniform_values for bounds that are values",
    ),
    "more than certain": (
        "method: random\nparameters: {a: {values: [1, 2], probabilities: [0.9, 0.2]}}\ncommand: []",
        "probabilities are [0.9, 0.2]: give numbers of 0 or more that sum to 1",
    ),
    "too few probabilities": (
        "method: random\nparameters: {a: {values: [1, 2], probabilities: [1.0]}}\ncommand: []",
        "there are not as many probabilities as values",
    ),
    "an unknown distribution": ("method: grid\nparameters: {a: {distribution: x}}\ncommand: []", "x is unknown"),
    "a continuous grid": ("method: grid\nparameters: {a: {min: 0.1, max: 1.0}}\ncommand: []", "which has no grid"),
    "a million": (
        "method: grid\nparameters: {a: {min: 1, max: 1000}, b: {min: 1, max: 1000}}\ncommand: []",
        "is a grid of 1,000,000 runs: set run_cap",
    ),
    "random without end": ("method: random\nparameters: {a: {value: 1}}\ncommand: []", "without an end: set run_cap"),
    "bayes without a metric": (
        "method: bayes\nparameters: {a: {value: 1}}\ncommand: []",
        "has no metric to optimise",
    ),
    "bayes without end": (
        "method: bayes\nmetric: {name: val_acc, goal: maximize}\nparameters: {a: {value: 1}}\ncommand: []",
        "without an end: set run_cap",
    ),
    "hyperband without a metric": (
        "method: grid\nearly_terminate: {type: hyperband, min_iter: 3}\nparameters: {a: {value: 1}}\ncommand: []",
        "has no metric to optimise",
    ),
    "a metric without a name": ("method: grid\nmetric: {goal: maximize}\nparameters: {a: {value: 1}}", "needs a name"),
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


@pytest.mark.parametrize("case", MISTAKES)
def test_a_mistake_in_a_file_is_one_sentence(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    text, says = MISTAKES[case]
    if text is not None:
        Path("sweep.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    assert main(["sweep", "nothing.yaml" if text is None else "sweep.yaml", "--dry_run"]) == 2
    error = capsys.readouterr().err
    assert re.search(re.escape(says), error), error
    assert error.count("\n") == 1
    assert not Path("runs").exists()


def test_a_folder_stands_for_its_files(capsys: pytest.CaptureFixture[str]) -> None:
    found = find_files([str(ROOT / "sweeps/demo_digits")])
    assert [path.name for path in found] == ["original.yaml", "scrub.yaml", "ssd.yaml", "untuned.yaml"]
    Path("empty").mkdir()
    assert main(["sweep", "empty"]) == 2
    assert "there is no sweep file (*.yaml) in empty" in capsys.readouterr().err


def test_wandbs_defaults_are_filled_in() -> None:
    parameters = {
        "a": {"min": 1, "max": 3},
        "b": {"min": 1.0, "max": 3.0},
        "c": {"distribution": "q_normal"},
        "d": {"values": [1, 2], "probabilities": [0.5, 0.5]},
        "e": {"parameters": {"g": {"value": 1}, "f": {"values": [1]}}},
    }
    sweep = read_file(write_sweep(parameters))
    assert [parameter.dotted for parameter in sweep.parameters] == ["a", "b", "c", "d", "e.f", "e.g"]
    kinds = ["int_uniform", "uniform", "q_normal", "categorical_w_probabilities", "categorical", "constant"]
    assert [parameter.distribution for parameter in sweep.parameters] == kinds
    assert sweep.parameters[2].given == {"distribution": "q_normal", "mu": 0.0, "sigma": 1.0, "q": 1.0}
    assert (sweep.metric, sweep.goal, sweep.run_cap, sweep.terminates_early) == ("", "minimize", None, False)
