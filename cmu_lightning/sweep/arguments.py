"""From a point to the command line of its run, as W&B's agent makes it."""

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.sweep.file import Sweep

MODULE = "cmu_lightning"
FILE = "${args_json_file}"


def expand(command: list[Any], program: str, point: dict[str, Any], json_file: str = "") -> list[str]:
    """A command with its macros replaced.

    Args:
        command: Command of the sweep file.
        program: Program of the sweep file.
        point: Values by the names of parameters.
        json_file: For `${args_json_file}`.
    """
    plain = [f"{name}={value}" for name, value in point.items()]
    macros: dict[str, list[str]] = {
        "env": ["/usr/bin/env"],
        "interpreter": ["python"],
        "program": [program],
        "args": [f"--{one}" for one in plain],
        "args_no_equals": [part for name, value in point.items() for part in (f"--{name}", str(value))],
        "args_no_hyphens": plain,
        "args_no_boolean_flags": _flags(point),
        "args_append_hydra": [f"+{one}" for one in plain],
        "args_override_hydra": [f"++{one}" for one in plain],
        "args_json": [json.dumps(point)],
        "args_json_file": [json_file],
    }
    expanded: list[str] = []
    for item in map(_environment, map(str, command)):
        whole = re.fullmatch(r"\$\{(.*)\}", item)
        expanded += macros.get(whole[1], []) if whole else [item]
    return expanded


def _flags(point: dict[str, Any]) -> list[str]:
    """`--name` for True, nothing for False."""
    flags = [(name, value) for name, value in point.items() if value is not False]
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in flags]


def _environment(item: str) -> str:
    """`${envvar:NAME}`; the name itself if it is not set."""
    return re.sub(r"\$\{envvar:([A-Z0-9_]*)\}", lambda found: os.environ.get(found[1], found[1]), item)


def of_fit(sweep: Sweep, point: dict[str, Any], runs_dir: Path) -> list[str]:
    """The arguments that a point's command gives to `python -m cmu_lightning`.

    Raises:
        UserError: It is another command, or the same for all points.
    """
    command, program = sweep.content["command"], str(sweep.content.get("program", ""))
    expanded = expand(command, program, point, _json_file(point, runs_dir) if FILE in command else "")
    at = expanded.index(MODULE) if MODULE in expanded else 0
    if expanded[at - 1 : at + 2] != ["-m", MODULE, "fit"]:
        raise UserError(
            f"{sweep.path}: the command is {' '.join(map(str, command))}, and a sweep runs fit: give program: {MODULE} "
            'and ["${env}", "${interpreter}", -m, "${program}", fit, ..., "${args}"]'
        )
    if not any("${args" in str(item) for item in command):
        raise UserError(f'{sweep.path}: no parameter reaches the command: put "${{args}}" at its end')
    return expanded[at + 1 :]


def _json_file(point: dict[str, Any], runs_dir: Path) -> str:
    """Written here, as the agent writes it."""
    text = json.dumps(point)
    path = runs_dir / ".sweep" / "arguments" / f"{hashlib.sha256(text.encode()).hexdigest()[:10]}.json"
    write_atomically(path, text)
    return str(path)
