"""The points of sweep files: their command lines, and the facts known from these without torch."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.errors import UserError
from cmu_lightning.experiment.ledger import command_key, config_text, find_folder, is_finished, options
from cmu_lightning.files import write_atomically
from cmu_lightning.sweep.file import SweepFile
from cmu_lightning.yaml_files import parse_yaml

MODULE = "cmu_lightning"
JSON_FILE = "${args_json_file}"

DELETION = re.compile(r"--data\.(init_args\.)?(identified|seed|discovery)(\.|$)")
"""Options that decide how S_f is found, on which no original depends."""
NO_HYPERPARAMETER = (
    *("--model", "--model.class_path"),
    *(
        f"--model.{nested}{name}"
        for nested in ("", "init_args.")
        for name in ("seed", "original", "original_prefix", "original_key")
    ),
)
"""Options of the model that a search does not tune."""

Values = dict[str, Any]
"""Values by the names of parameters; those of nested parameters in a separate mapping."""


@dataclass(frozen=True, eq=False)
class Point:
    """One point of a sweep file, and the command line that runs it.

    Args:
        sweep: The file.
        values: Values of the file's parameters.
        arguments: Arguments of `python -m cmu_lightning`, of which the first is `fit`.
        runs_dir: Folder that the run is written to.
    """

    sweep: SweepFile
    values: Values
    arguments: tuple[str, ...]
    runs_dir: Path

    @classmethod
    def from_values(cls, sweep: SweepFile, values: Values, runs_dir: Path) -> "Point":
        """Return the point with the command line that the file makes of its values.

        Args:
            sweep: The file.
            values: Values of its parameters.
            runs_dir: Folder that the run is written to.

        Raises:
            UserError: The command is not `fit`, or the values do not reach it.
        """
        return cls(sweep, values, tuple(fit_arguments(sweep, values, runs_dir)), runs_dir)

    @cached_property
    def key(self) -> str:
        """Name of the command line in the ledger; points with the same key ask for the same run."""
        return command_key(list(self.arguments[1:]))

    @cached_property
    def options(self) -> list[tuple[str, str]]:
        """Names and values of the options."""
        return list(options(list(self.arguments[1:])))

    @cached_property
    def configs(self) -> list[dict[str, Any]]:
        """Contents of the configs that the command line names."""
        return [_read_mapping(config_text(value)) for name, value in self.options if name == "--config"]

    @cached_property
    def is_original(self) -> bool:
        """Whether the command line names no unlearner."""
        by_option = any(name.partition(".")[0] == "--model" for name, _ in self.options)
        return not by_option and not any("model" in config for config in self.configs)

    @cached_property
    def origin(self) -> str:
        """Equal for points that start from the same original, as far as their command lines show."""
        kept = [
            f"{name}={config_text(value) if name == '--config' else value}"
            for name, value in self.options
            if name.partition(".")[0] != "--model" and not DELETION.match(name)
        ]
        # An overlay that only names a method does not affect the original either.
        overlays = [config_text(value) for name, value in self.options if name == "--config"]
        methods = {f"--config={text}" for text in overlays if set(_read_mapping(text)) == {"model"}}
        return "\n".join(sorted(set(kept) - methods))

    @cached_property
    def group(self) -> str:
        """Equal for the points of a file among which hyperparameters are chosen: one setting, method, S_f and seed.

        A hyperparameter that is no number makes another method, as it does in a report.
        """
        kept = [f"{name}={value}" for name, value in self.options if not _is_tuned(name, value)]
        return "\n".join([str(self.sweep.path), *kept])

    @cached_property
    def is_distributed(self) -> bool:
        """Whether the run takes more than one process."""
        trainer: dict[str, Any] = {}
        for config in self.configs:
            trainer |= config.get("trainer") or {}
        for name, value in self.options:
            if name in ("--trainer.devices", "--trainer.num_nodes"):
                trainer[name.rpartition(".")[2]] = _read_value(value)
        devices, nodes = trainer.get("devices", "auto"), trainer.get("num_nodes", 1)
        one_device = devices in (None, "auto", 1, "1") or (isinstance(devices, list) and len(devices) == 1)
        return not one_device or nodes not in (None, 1)

    @property
    def is_finished(self) -> bool:
        """Whether the ledger knows the run, and its results are there."""
        return is_finished(self.key, self.runs_dir)

    @property
    def folder(self) -> Path | None:
        """Folder of the run; None if the ledger does not know it."""
        return find_folder(self.key, self.runs_dir)

    def record(self, kind: str, suffix: str = "json") -> Path:
        """Return the path of a record that a sweep keeps about the point.

        Args:
            kind: Name of the folder in `RUNS_DIR/.sweep`.
            suffix: Suffix of the file.
        """
        return self.runs_dir / ".sweep" / kind / f"{self.key}.{suffix}"

    def __str__(self) -> str:
        """Return the command line as a user types it."""
        return " ".join(self.arguments)


def _is_tuned(name: str, value: str) -> bool:
    """Return whether an option is a hyperparameter that a search chooses."""
    if not name.startswith("--model.") or name in NO_HYPERPARAMETER:
        return False
    try:
        float(value)
    except ValueError:
        return False
    return True


@cache
def _read_mapping(text: str) -> dict[str, Any]:
    """Return the mapping that a YAML text holds; empty if it holds something else."""
    read = _read_value(text)
    return read if isinstance(read, dict) else {}


def _read_value(text: str) -> Any:
    """Return the value of a YAML text; None if it is not YAML, which `fit` says more."""
    try:
        return parse_yaml(text)
    except yaml.YAMLError:
        return None


def order_points(points: list[Point]) -> list[Point]:
    """Return each point once, originals first, because unlearners start from them.

    Args:
        points: Points of several files, which may ask for the same runs.
    """
    first = {point.key: point for point in reversed(points)}
    once = [point for point in points if first[point.key] is point]
    return sorted(once, key=lambda point: not point.is_original)


def select_shard(points: list[Point], shard: str | None) -> list[Point]:
    """Return every N-th point, beginning with the I-th.

    Args:
        points: All points.
        shard: `I/N` with I from 1 to N; None for all points.

    Raises:
        UserError: The shard is not of this form.
    """
    if shard is None:
        return points
    first, _, count = shard.partition("/")
    if not (first.isdigit() and count.isdigit() and 1 <= int(first) <= int(count)):
        raise UserError(f"--shard {shard} is no I/N: give 1/4, 2/4, 3/4 and 4/4 to four machines")
    return points[int(first) - 1 :: int(count)]


def expand_command(command: list[Any], program: str, values: Values, json_file: str = "") -> list[str]:
    """Return a command with its macros replaced, as W&B's agent replaces them.

    Args:
        command: Command of a sweep file.
        program: Program of the sweep file, for `${program}`.
        values: Values of the parameters.
        json_file: Path for `${args_json_file}`.
    """
    pairs = [f"{name}={value}" for name, value in values.items()]
    # A flag that is false is left out, and one that is true has no value.
    flags = [
        f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items() if value is not False
    ]
    macros: dict[str, list[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [program],
        "args": [f"--{pair}" for pair in pairs],
        "args_no_equals": [part for name, value in values.items() for part in (f"--{name}", str(value))],
        "args_no_hyphens": pairs,
        "args_no_boolean_flags": flags,
        "args_append_hydra": [f"+{pair}" for pair in pairs],
        "args_override_hydra": [f"++{pair}" for pair in pairs],
        "args_json": [json.dumps(values)],
        "args_json_file": [json_file],
    }
    expanded: list[str] = []
    for item in map(str, command):
        # `${envvar:NAME}` may be a part of a word; a variable that is not set leaves its name.
        word = re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda found: os.environ.get(found[1], found[1]), item)
        macro = re.fullmatch(r"\$\{(.*)\}", word)
        expanded += macros.get(macro[1], []) if macro else [word]
    return expanded


def fit_arguments(sweep: SweepFile, values: Values, runs_dir: Path) -> list[str]:
    """Return the arguments that a file's command gives to `python -m cmu_lightning`.

    Args:
        sweep: The file.
        values: Values of its parameters.
        runs_dir: Folder that `${args_json_file}` is written to.

    Raises:
        UserError: The command is not `fit`, or the values do not reach it.
    """
    command, program = sweep.content["command"], str(sweep.content.get("program", ""))
    json_file = _write_json_file(values, runs_dir) if JSON_FILE in command else ""
    expanded = expand_command(command, program, values, json_file)
    at = expanded.index(MODULE) if MODULE in expanded else 0
    if expanded[at - 1 : at + 2] != ["-m", MODULE, "fit"]:
        raise UserError(
            f"{sweep.path}: the command is {' '.join(map(str, command))}, and a sweep runs fit: give program: {MODULE} "
            'and ["${env}", "${interpreter}", -m, "${program}", fit, ..., "${args}"]'
        )
    if not any("${args" in str(item) for item in command):
        raise UserError(f'{sweep.path}: no parameter reaches the command: put "${{args}}" at its end')
    return expanded[at + 1 :]


def _write_json_file(values: Values, runs_dir: Path) -> str:
    """Write the values as W&B's agent writes them for `${args_json_file}`, and return the path."""
    text = json.dumps(values)
    path = runs_dir / ".sweep" / "arguments" / f"{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
    write_atomically(path, text)
    return str(path)
