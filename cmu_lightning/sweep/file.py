"""Sweep files in W&B's format: read, and refused with one sentence that names the value and the remedy."""

from dataclasses import dataclass
from math import isclose, isfinite
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.yaml_files import read_mapping

METHODS = ("grid", "random", "bayes")
GOALS = ("maximize", "minimize")

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
"""Keys of W&B's format that a sweep of this project can use."""

DISTRIBUTIONS: dict[str, tuple[set[str], dict[str, float]]] = {
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
"""W&B's distributions of a parameter: the keys that each needs, and its optional keys with W&B's defaults."""

POSITIVE = {"sigma", "a", "b", "q"}
"""Keys of a distribution that must be positive numbers."""

LARGEST_EXPONENT = 700
"""Largest absolute value of an exponent, close to where the exponential function overflows."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep file.

    Args:
        name: Path to the parameter; longer than one name only if the parameter is nested.
        distribution: One of `DISTRIBUTIONS`.
        given: Keys of the distribution, with defaults filled in.
    """

    name: tuple[str, ...]
    distribution: str
    given: dict[str, Any]

    @property
    def dotted(self) -> str:
        """The dotted name, as users write it."""
        return ".".join(self.name)


@dataclass(frozen=True)
class SweepFile:
    """One sweep file.

    Args:
        path: Path of the file.
        content: Its whole content.
        parameters: Its parameters in W&B's order, which is by name.
    """

    path: Path
    content: dict[str, Any]
    parameters: list[Parameter]

    @property
    def method(self) -> str:
        """The search: grid, random or bayes."""
        return str(self.content["method"])

    @property
    def run_cap(self) -> int | None:
        """The largest number of runs; None without a limit."""
        cap: int | None = self.content.get("run_cap")
        return cap

    @property
    def metric(self) -> str:
        """Name of the metric that a search optimises; empty if the file names none."""
        return str(self.content.get("metric", {}).get("name", ""))

    @property
    def goal(self) -> str:
        """Direction of the metric, `maximize` or `minimize`; W&B's default is the latter."""
        return str(self.content.get("metric", {}).get("goal", "minimize"))

    @property
    def terminates_early(self) -> bool:
        """Whether W&B's agents stop runs of this file early."""
        return "early_terminate" in self.content


def find_files(paths: list[str]) -> list[Path]:
    """Return the sweep files among some paths and inside the folders among them.

    Args:
        paths: Paths of files and folders.

    Raises:
        UserError: A folder holds no sweep file.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        inside = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
        if not inside:
            raise UserError(f"there is no sweep file (*.yaml) in {path}")
        found += inside
    return found


def read_file(path: Path) -> SweepFile:
    """Return a sweep file, read and checked.

    Args:
        path: Path of the file.

    Raises:
        UserError: The file cannot be read, or W&B or this project could not run it.
    """
    content = read_mapping(path, "sweep file", "give method, command and parameters")
    if unknown := sorted(map(str, content.keys() - KEYS)):
        raise UserError(f"{path}: there is no key {unknown[0]} in a sweep file; there are {', '.join(sorted(KEYS))}")
    if content.get("method") not in METHODS:
        raise UserError(f"{path}: method {content.get('method')} is unknown: give {', '.join(METHODS)}")
    if not isinstance(content.get("parameters"), dict) or not content["parameters"]:
        raise UserError(f"{path} has no parameters: give at least one, such as seed_everything: {{values: [0, 1]}}")
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise UserError(f"{path}: run_cap {cap} is not a number of runs")
    _check_metric(path, content)
    _check_early_termination(path, content.get("early_terminate"))
    if not isinstance(content.get("command"), list):
        raise UserError(
            f"{path} has no command: give "
            '["${env}", "${interpreter}", -m, "${program}", fit, --config, poison_digits.yaml, "${args}"]'
        )
    return SweepFile(path, content, read_parameters(path, content["parameters"]))


def _check_metric(path: Path, content: dict[str, Any]) -> None:
    """Refuse a metric without a name or a goal if the search depends on it."""
    metric = content.get("metric", {"name": ""})
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserError(f"{path}: metric needs a name, such as {{name: selection_score, goal: maximize}}")
    needs_metric = content["method"] == "bayes" or "early_terminate" in content
    if metric.get("goal", "maximize") not in GOALS:
        raise UserError(f"{path}: metric.goal is {metric['goal']}: give maximize or minimize")
    if needs_metric and metric["name"] and "goal" not in metric:
        raise UserError(f"{path}: metric has no goal, which to W&B is minimize: give maximize or minimize")
    if needs_metric and not metric["name"]:
        raise UserError(f"{path} has no metric to optimise: give {{name: selection_score, goal: maximize}}")


def _check_early_termination(path: Path, given: Any) -> None:
    """Refuse everything except Hyperband, the only early termination of W&B's agents."""
    if given is None:
        return
    bands = {"max_iter", "min_iter"} & given.keys() if isinstance(given, dict) else set()
    if not bands or given.get("type") != "hyperband":
        raise UserError(f"{path}: early_terminate is {given}: give {{type: hyperband, min_iter: 3}}")
    for key, value in given.items():
        if key not in ("type", "strict") and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise UserError(f"{path}: early_terminate.{key} is {value}: give a whole number from 1")


def read_parameters(path: Path, parameters: Any, outer: tuple[str, ...] = ()) -> list[Parameter]:
    """Return the parameters of a file in W&B's order; nested ones replace the mapping that holds them.

    Args:
        path: Path of the file, for messages.
        parameters: Mapping of names to distributions.
        outer: Names of the mappings around it.

    Raises:
        UserError: A parameter has no distribution, or a distribution lacks a key or has a wrong one.
    """
    flat: list[Parameter] = []
    for name, given in sorted(parameters.items(), key=lambda item: str(item[0])):
        dotted = ".".join((*outer, str(name)))
        if not isinstance(name, str) or not isinstance(given, dict):
            raise UserError(f"{path}: parameter {dotted} is {given}: give a mapping such as {{values: [...]}}")
        if isinstance(given.get("parameters"), dict):
            flat += read_parameters(path, given["parameters"], (*outer, name))
        else:
            flat.append(_read_parameter(path, (*outer, name), given))
    return flat


def _read_parameter(path: Path, name: tuple[str, ...], given: dict[str, Any]) -> Parameter:
    """Return one parameter, its keys checked against those of its distribution."""
    dotted = f"{path}: parameter {'.'.join(name)}"
    distribution = given.get("distribution", _default_distribution(given))
    if distribution not in DISTRIBUTIONS:
        known = ", ".join(DISTRIBUTIONS)
        raise UserError(f"{dotted} has no values, and distribution {distribution} is unknown: {known}")
    needed, optional = DISTRIBUTIONS[distribution]
    keys = given.keys() - {"distribution"}
    if missing := sorted(needed - keys):
        raise UserError(f"{dotted} is {distribution} and needs {' and '.join(missing)}")
    if unknown := sorted(keys - needed - optional.keys()):
        raise UserError(f"{dotted} is {distribution} and takes no {unknown[0]}")
    for key in ("values", "probabilities"):
        if key in given and (not isinstance(given[key], list) or not given[key]):
            raise UserError(f"{dotted}: {key} is {given[key]}: give a list of at least one")
    if None in (given.get("value", ""), *given.get("values", ())):
        raise UserError(f'{dotted} has the value null, which W&B renders as None: write "null"')
    if "probabilities" in needed:
        _check_probabilities(dotted, given["values"], given["probabilities"])
    _check_numbers(dotted, distribution, given)
    return Parameter(name, distribution, optional | given)


def _check_probabilities(dotted: str, values: list[Any], given: list[Any]) -> None:
    """Refuse probabilities that are no distribution over the values."""
    if len(given) != len(values):
        raise UserError(f"{dotted}: there are not as many probabilities as values")
    numbers = all(isinstance(each, int | float) and each >= 0 for each in given)
    if not numbers or not isclose(sum(given), 1, abs_tol=1e-6):
        raise UserError(f"{dotted}: probabilities are {given}: give numbers of 0 or more that sum to 1")


def _check_numbers(dotted: str, distribution: str, given: dict[str, Any]) -> None:
    """Refuse bounds and shapes that are no numbers, or out of range."""
    for key in sorted(given.keys() - {"distribution", "value", "values", "probabilities"}):
        if isinstance(given[key], bool) or not isinstance(given[key], int | float):
            raise UserError(f"{dotted}: {key} is {given[key]!r}, which YAML does not read as a number: write 1.0e-4")
        if not isfinite(given[key]):
            raise UserError(f"{dotted}: {key} is {given[key]}: give a finite number")
        if key in POSITIVE and given[key] <= 0:
            raise UserError(f"{dotted}: {key} is {given[key]}: give a positive number")
    if distribution.endswith("log_uniform") and max(abs(given["min"]), abs(given["max"])) > LARGEST_EXPONENT:
        raise UserError(
            f"{dotted} is {distribution}, whose bounds are exponents, from {given['min']} to {given['max']}: "
            f"give {distribution}_values for bounds that are values"
        )
    if distribution == "int_uniform" and not all(isinstance(given[key], int) for key in ("min", "max")):
        raise UserError(f"{dotted} is int_uniform from {given['min']} to {given['max']}: give whole numbers")
    if "min" in given and given["min"] >= given["max"]:
        raise UserError(f"{dotted}: min {given['min']} is not less than max {given['max']}")
    # The bounds of the distributions whose names end in `_values` are the values, not their exponents.
    if distribution.endswith("log_uniform_values") and given["min"] <= 0:
        raise UserError(f"{dotted} is {distribution}, and min {given['min']} has no logarithm: give a positive number")


def _default_distribution(given: dict[str, Any]) -> str | None:
    """Return the distribution that W&B assumes for the keys of a parameter; None if it knows none."""
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "value" in given:
        return "constant"
    if {"min", "max"} <= given.keys():
        return "int_uniform" if isinstance(given["min"], int) and isinstance(given["max"], int) else "uniform"
    return None
