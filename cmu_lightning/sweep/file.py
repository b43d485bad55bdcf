"""Sweep files: W&B's format, read with one sentence for what is wrong."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.parsing import read_mapping
from cmu_lightning.sweep.parameters import Parameter, flatten

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
    content = read_mapping(path, "sweep file", "give method, command and parameters")
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
    searches = content["method"] == "bayes" or "early_terminate" in content
    if metric.get("goal", "maximize") not in ("maximize", "minimize"):
        raise UserError(f"{path}: metric.goal is {metric['goal']}: give maximize or minimize")
    if searches and metric["name"] and "goal" not in metric:
        raise UserError(f"{path}: metric has no goal, which to W&B is minimize: give maximize or minimize")
    if not metric["name"] and searches:
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
