"""Sweep files: W&B's format, read with one sentence for what is wrong."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.errors import UserError

METHODS = ("grid", "random", "bayes")

KEYS = {
    "command",
    "description",
    "early_terminate",
    "entity",
    "method",
    "metric",
    "name",
    "parameters",
    "program",
    "project",
    "run_cap",
}
"""What W&B's format knows and a sweep of this project can use."""

SHAPES: dict[str, tuple[set[str], dict[str, float]]] = {
    "constant": ({"value"}, {}),
    "categorical": ({"values"}, {}),
    "categorical_w_probabilities": ({"values", "probabilities"}, {}),
    "int_uniform": ({"min", "max"}, {}),
    "uniform": ({"min", "max"}, {}),
    "q_uniform": ({"min", "max"}, {"q": 1.0}),
    "log_uniform": ({"min", "max"}, {}),
    "log_uniform_values": ({"min", "max"}, {}),
    "inv_log_uniform": ({"min", "max"}, {}),
    "inv_log_uniform_values": ({"min", "max"}, {}),
    "q_log_uniform": ({"min", "max"}, {"q": 1.0}),
    "q_log_uniform_values": ({"min", "max"}, {"q": 1.0}),
    "normal": (set(), {"mu": 0.0, "sigma": 1.0}),
    "q_normal": (set(), {"mu": 0.0, "sigma": 1.0, "q": 1.0}),
    "log_normal": (set(), {"mu": 0.0, "sigma": 1.0}),
    "q_log_normal": (set(), {"mu": 0.0, "sigma": 1.0, "q": 1.0}),
    "beta": (set(), {"a": 1.0, "b": 1.0}),
    "q_beta": (set(), {"a": 1.0, "b": 1.0, "q": 1.0}),
}
"""Distributions of parameters: the keys they need, and those they may have with their defaults."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep."""

    name: tuple[str, ...]
    """Of length one, unless it is nested."""
    distribution: str
    given: dict[str, Any]
    """Its keys, defaults filled in."""


@dataclass(frozen=True)
class Sweep:
    """One sweep file."""

    path: Path
    content: dict[str, Any]
    parameters: list[Parameter]
    """In W&B's order: by name."""

    @property
    def run_cap(self) -> int | None:
        """The largest number of runs."""
        cap: int | None = self.content.get("run_cap")
        return cap

    @property
    def metric(self) -> str:
        """What a search goes by; empty if the file does not say."""
        return str(self.content.get("metric", {}).get("name", ""))

    @property
    def stops_early(self) -> bool:
        """Whether runs that fall behind are to be stopped."""
        return "early_terminate" in self.content

    @property
    def of_engine(self) -> dict[str, Any]:
        """What W&B's own engine reads of the file."""
        read = ("method", "metric", "parameters", "early_terminate")
        return deepcopy({key: self.content[key] for key in read if key in self.content})

    @property
    def method(self) -> str:
        """The search: grid, random or bayes."""
        return str(self.content["method"])


def find(paths: list[str]) -> list[Path]:
    """Sweep files that are given, or lie in the folders that are given.

    Raises:
        UserError: There are none.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"there is no sweep file (*.yaml) in {path}")
        found += inside
    return found


def read(path: Path) -> Sweep:
    """A sweep file.

    Raises:
        UserError: It is none.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"the sweep file {path} cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        where = " ".join(str(error).split())
        raise UserError(f"{path} is not YAML, so it is no sweep file: {where}") from error
    if not content:
        raise UserError(f"the sweep file {path} is empty: give method, command and parameters")
    if not isinstance(content, dict):
        raise UserError(f"{path} is no sweep file: give a mapping of method, command and parameters")
    _check(path, content)
    return Sweep(path, content, flatten(path, content["parameters"]))


def _check(path: Path, content: dict[str, Any]) -> None:
    """Everything but the parameters."""
    if unknown := sorted(map(str, content.keys() - KEYS)):
        raise UserError(f"{path}: there is no key {unknown[0]} in a sweep file; there are {', '.join(sorted(KEYS))}")
    if content.get("method") not in METHODS:
        raise UserError(f"{path}: method {content.get('method')} is unknown: give {', '.join(METHODS)}")
    if not isinstance(content.get("parameters"), dict) or not content["parameters"]:
        raise UserError(f"{path} has no parameters: give at least one, such as seed_everything: {{values: [0, 1]}}")
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise UserError(f"{path}: run_cap {cap} is not a number of runs")
    metric = content.get("metric", {"name": ""})
    if not isinstance(metric, dict) or "name" not in metric:
        raise UserError(f"{path}: metric needs a name, such as {{name: selection_score, goal: maximize}}")
    if not metric["name"] and (content["method"] == "bayes" or "early_terminate" in content):
        raise UserError(f"{path} has no metric to go by: give {{name: selection_score, goal: maximize}}")
    _check_early(path, content.get("early_terminate"))
    if not isinstance(content.get("command"), list):
        raise UserError(
            f"{path} has no command: give "
            '["${env}", "${interpreter}", -m, "${program}", fit, --config, poison_digits.yaml, "${args}"]'
        )


def _check_early(path: Path, given: Any) -> None:
    """Hyperband is all that W&B has."""
    if given is None:
        return
    bands = {"max_iter", "min_iter"} & given.keys() if isinstance(given, dict) else set()
    if not bands or given.get("type") != "hyperband":
        raise UserError(f"{path}: early_terminate is {given}: give {{type: hyperband, min_iter: 3}}")
    for key, value in given.items():
        if key != "type" and key != "strict" and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{path}: early_terminate.{key} is {value}: give a whole number from 1")


def flatten(path: Path, parameters: Any, outer: tuple[str, ...] = ()) -> list[Parameter]:
    """Parameters, nested ones too, in W&B's order.

    Raises:
        UserError: One of them is none.
    """
    flat: list[Parameter] = []
    for name, given in sorted(parameters.items(), key=lambda item: str(item[0])):
        dotted = ".".join((*outer, str(name)))
        if not isinstance(name, str) or not isinstance(given, dict):
            raise UserError(f"{path}: parameter {dotted} is {given}: give a mapping such as {{values: [...]}}")
        if isinstance(given.get("parameters"), dict):
            flat += flatten(path, given["parameters"], (*outer, name))
        else:
            flat.append(_parameter(path, (*outer, name), given))
    return flat


def _parameter(path: Path, name: tuple[str, ...], given: dict[str, Any]) -> Parameter:
    dotted = f"{path}: parameter {'.'.join(name)}"
    distribution = given.get("distribution", _default(given))
    if distribution not in SHAPES:
        raise UserError(f"{dotted} has no values, and distribution {distribution} is unknown: {', '.join(SHAPES)}")
    needed, optional = SHAPES[distribution]
    keys = given.keys() - {"distribution"}
    if missing := sorted(needed - keys):
        raise UserError(f"{dotted} is {distribution} and needs {' and '.join(missing)}")
    if unknown := sorted(keys - needed - optional.keys()):
        raise UserError(f"{dotted} is {distribution} and takes no {unknown[0]}")
    for key in ("values", "probabilities"):
        if key in given and (not isinstance(given[key], list) or not given[key]):
            raise UserError(f"{dotted}: {key} is {given[key]}: give a list")
    for key in keys - {"value", "values", "probabilities"}:
        if isinstance(given[key], bool) or not isinstance(given[key], int | float):
            raise UserError(f"{dotted}: {key} is {given[key]!r}, which YAML does not read as a number: write 1.0e-4")
    if "min" in needed and given["min"] >= given["max"]:
        raise UserError(f"{dotted}: min {given['min']} is not less than max {given['max']}")
    if "probabilities" in needed and len(given["probabilities"]) != len(given["values"]):
        raise UserError(f"{dotted}: there are not as many probabilities as values")
    return Parameter(name, distribution, optional | given)


def _default(given: dict[str, Any]) -> str | None:
    """The distribution that W&B assumes."""
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "value" in given:
        return "constant"
    if {"min", "max"} <= given.keys():
        return "int_uniform" if isinstance(given["min"], int) and isinstance(given["max"], int) else "uniform"
    return None
