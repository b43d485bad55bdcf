"""The parameters of a sweep file, read with one sentence for what is wrong."""

from dataclasses import dataclass
from math import isclose
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError

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


LOGARITHMS = ("log_uniform_values", "inv_log_uniform_values", "q_log_uniform_values")
"""Distributions whose bounds are the values themselves."""


@dataclass(frozen=True)
class Parameter:
    """One parameter of a sweep."""

    name: tuple[str, ...]
    """Of length one, unless it is nested."""
    distribution: str
    given: dict[str, Any]
    """Its keys, defaults filled in."""


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
            raise UserError(f"{dotted}: {key} is {given[key]}: give a list of at least one")
    _check_numbers(dotted, distribution, given)
    if None in (given.get("value", ""), *given.get("values", ())):
        raise UserError(f'{dotted} has the value null, which W&B renders as None: write "null"')
    if "probabilities" in needed and len(given["probabilities"]) != len(given["values"]):
        raise UserError(f"{dotted}: there are not as many probabilities as values")
    if "probabilities" in needed:
        _check_probabilities(dotted, given["probabilities"])
    return Parameter(name, distribution, optional | given)


def _check_probabilities(dotted: str, given: list[Any]) -> None:
    numbers = all(isinstance(each, int | float) and each >= 0 for each in given)
    if not numbers or not isclose(sum(given), 1, abs_tol=1e-6):
        raise UserError(f"{dotted}: probabilities are {given}: give numbers of 0 or more that sum to 1")


def _check_numbers(dotted: str, distribution: str, given: dict[str, Any]) -> None:
    """What bounds or shapes a distribution."""
    for key in given.keys() - {"distribution", "value", "values", "probabilities"}:
        if isinstance(given[key], bool) or not isinstance(given[key], int | float):
            raise UserError(f"{dotted}: {key} is {given[key]!r}, which YAML does not read as a number: write 1.0e-4")
    if "min" in given and given["min"] >= given["max"]:
        raise UserError(f"{dotted}: min {given['min']} is not less than max {given['max']}")
    if distribution in LOGARITHMS and given["min"] <= 0:
        raise UserError(f"{dotted} is {distribution}, and min {given['min']} has no logarithm: give a positive number")


def _default(given: dict[str, Any]) -> str | None:
    """The distribution that W&B assumes."""
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    if "value" in given:
        return "constant"
    if {"min", "max"} <= given.keys():
        return "int_uniform" if isinstance(given["min"], int) and isinstance(given["max"], int) else "uniform"
    return None
