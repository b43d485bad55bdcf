"""Grid and random search: the points of a sweep, in the order and with the values of W&B's own."""

import json
import math
import random
from collections.abc import Callable, Iterator
from itertools import islice, product
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.sweep.file import Sweep
from cmu_lightning.sweep.parameters import Parameter

LARGE = 100_000
"""Runs of one file that nobody means without saying so by `run_cap`."""

Values = dict[str, Any]
"""Values by the names of parameters; those of nested parameters in a dict."""


def points(sweep: Sweep) -> list[Values]:
    """All points of a grid or random sweep, in order.

    Raises:
        UserError: They are too many.
    """
    found = grid(sweep) if sweep.method == "grid" else draw(sweep)
    return list(islice(found, sweep.run_cap))


def grid(sweep: Sweep) -> Iterator[Values]:
    """Every combination: parameters sorted by name, the last one varies fastest."""
    axes = [_axis(sweep, parameter) for parameter in sweep.parameters]
    count = math.prod(len(axis) for axis in axes)
    if count > LARGE and sweep.run_cap is None:
        raise UserError(f"{sweep.path} is a grid of {count:,} runs: set run_cap to the number that you want")
    for values in product(*axes):
        yield nest(sweep.parameters, values)


def _axis(sweep: Sweep, parameter: Parameter) -> list[Any]:
    """A parameter's values in a grid, each once."""
    given = parameter.given
    match parameter.distribution:
        case "constant":
            return [given["value"]]
        case "categorical":
            return list({json.dumps(value, sort_keys=True, default=str): value for value in given["values"]}.values())
        case "int_uniform":
            return list(range(given["min"], given["max"] + 1))
        case "q_uniform":
            import numpy as np  # a light command loads what it needs

            values: list[Any] = np.arange(given["min"], given["max"], given["q"]).tolist()
            return values
    raise UserError(
        f"{sweep.path}: parameter {'.'.join(parameter.name)} is {parameter.distribution}, which has no grid: "
        "give values, or method: random"
    )


def draw(sweep: Sweep) -> Iterator[Values]:
    """Random points, the same ones every time, so that an interrupted sweep goes on with its own."""
    if sweep.run_cap is None:
        raise UserError(f"{sweep.path} is a {sweep.method} search without an end: set run_cap to the number of runs")
    generator = random.Random(0)
    while True:
        yield nest(sweep.parameters, [sample(parameter, generator) for parameter in sweep.parameters])


def sample(parameter: Parameter, generator: random.Random) -> Any:
    """One value: the quantile of a uniform draw."""
    quantile = generator.uniform(0.0, 1.0)
    given = parameter.given
    match parameter.distribution:
        case "constant":
            return given["value"]
        case "categorical":
            return given["values"][max(0, math.ceil(quantile * len(given["values"])) - 1)]
        case "categorical_w_probabilities":
            return _weighted(given["values"], given["probabilities"], quantile)
        case "int_uniform":
            low, high = given["min"], given["max"] + 1
            return max(low, math.ceil(quantile * (high - low) + low) - 1)
    value = _continuous(parameter.distribution.removeprefix("q_"), given)(quantile)
    if "q" not in given:
        return value
    rounded = round(value / given["q"]) * given["q"]
    return int(rounded) if isinstance(given["q"], int) else rounded


def _weighted(values: list[Any], probabilities: list[float], quantile: float) -> Any:
    reached = 0.0
    for value, probability in zip(values, probabilities, strict=True):
        reached += probability
        if quantile < reached:
            return value
    return values[0]


def _continuous(distribution: str, given: dict[str, Any]) -> Callable[[float], float]:
    """The quantile function of a continuous distribution; those with `log` are of exponents, or of `values`."""
    import numpy as np  # a light command loads what it needs
    from scipy import stats

    low, high = given.get("min", 0.0), given.get("max", 1.0)
    if distribution.endswith("_values"):
        low, high = math.log(low), math.log(high)
        distribution = distribution.removesuffix("_values")
        if distribution.startswith("inv"):
            low, high = -high, -low
    functions: dict[str, Callable[[float], Any]] = {
        "uniform": lambda quantile: stats.uniform.ppf(quantile, low, high - low),
        "log_uniform": lambda quantile: np.exp(stats.uniform.ppf(quantile, low, high - low)),
        "inv_log_uniform": lambda quantile: np.exp(-stats.uniform.ppf(1 - quantile, low, high - low)),
        "normal": lambda quantile: stats.norm.ppf(quantile, given["mu"], given["sigma"]),
        "log_normal": lambda quantile: stats.lognorm.ppf(quantile, given["sigma"], scale=math.exp(given["mu"])),
        "beta": lambda quantile: stats.beta.ppf(quantile, given["a"], given["b"]),
    }
    return lambda quantile: float(functions[distribution](quantile))


def nest(parameters: list[Parameter], values: Any) -> Values:
    """Values under the names of their parameters."""
    point: Values = {}
    for parameter, value in zip(parameters, values, strict=True):
        *outer, last = parameter.name
        inner = point
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return point
