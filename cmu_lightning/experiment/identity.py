"""Which settings make a run the run it is.

Two runs are the same if their resolved configs are, but for paths, loggers and hardware, which must not change
results, and for what has no bearing on the stage.
"""

import hashlib
import json
import sys
import sysconfig
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from cmu_lightning.console import say
from cmu_lightning.devices import PRECISIONS
from cmu_lightning.experiment.run import Run
from cmu_lightning.parsing import PACKAGE

TRAINER = (
    "precision",
    "limit_val_batches",
    "limit_test_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
)
"""The trainer's options that change numbers; all others are hardware, loggers and what is shown."""

RENAMED = {"NetworkFromFunction": "Made"}
"""Classes under the names that older hashes were computed with."""

ADDED = ("discovery", "resize", "classes")
"""Arguments of data that older configs do not have; where they are None, runs are those of older configs."""


def identity(
    config: dict[str, Any],
    uses: str,
    deletion: frozenset[str],
    original: str | None,
    content: dict[str, str] | None = None,
) -> dict[str, Any]:
    """What a run's hash is of.

    Args:
        config: Resolved, as plain data.
        uses: Which of the procedure's two numbers of steps the stage takes, `steps` or `unlearn_steps`.
        deletion: Arguments of the data that say how S_f comes about.
        original: Hash of the original; None for a stage that is one, on which S_f has no bearing.
        content: Digests that stand for paths among the arguments of the data, by dotted names.
    """
    data = deepcopy(config["data"])
    for key in ("root", "memory_map"):
        data["init_args"].pop(key, None)
    for key in ADDED:
        if data["init_args"].get(key) is None:
            data["init_args"].pop(key, None)
    for name, value in (content or {}).items():
        _stand_in(data, name.split("."), value)
    procedure = dict(config["procedure"])
    procedure["steps"] = procedure[uses]
    del procedure["unlearn_steps"]
    model = deepcopy(config["model"])
    model.get("init_args", {}).pop("original", None)
    if original is None:
        for key in deletion:
            data["init_args"].pop(key, None)
    named = {
        "setting": config["setting"],
        "data": data,
        "network": config["network"],
        "procedure": procedure,
        "model": model,
        "trainer": _of_trainer(config["trainer"]),
        "original": original,
    }
    plain: dict[str, Any] = _one_spelling(named)
    return plain


def _of_trainer(trainer: dict[str, Any]) -> dict[str, Any]:
    """Options that change numbers, where they are not the default; callbacks can do anything to a training."""
    own = {key: trainer.get(key) for key in TRAINER}
    own["precision"] = PRECISIONS.get(str(own["precision"]), own["precision"])  # which older configs did not settle
    if own["precision"] == "32-true":  # that of older configs which left it open
        own["precision"] = None
    for key in ("limit_val_batches", "limit_test_batches"):
        if isinstance(own[key], float) and own[key] == 1:  # all of them; 1 is one
            own[key] = None
    clip = own["gradient_clip_val"]
    own["gradient_clip_val"] = None if clip is None else float(clip)
    if clip is None or own["gradient_clip_algorithm"] == "norm":
        own["gradient_clip_algorithm"] = None
    if trainer.get("callbacks"):  # which may act on what is validated
        own |= {key: trainer[key] for key in ("callbacks", "val_check_interval") if key in trainer}
    return own


def _stand_in(part: dict[str, Any], name: list[str], value: str) -> None:
    """Put a digest in the place of a path, if the part that has it is there."""
    for each in name[:-1]:
        part = part["init_args"].get(each) or {"init_args": {}}
    part["init_args"][name[-1]] = value


def _one_spelling(value: Any, key: str = "") -> Any:
    """A class of this project can be named by several of its modules; here by the package alone."""
    if isinstance(value, dict):
        return {key: _one_spelling(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_one_spelling(inner) for inner in value]
    if key == "class_path" and value.startswith("cmu_lightning."):
        name = value.rpartition(".")[2]
        return f"cmu_lightning.{RENAMED.get(name, name)}"
    return value


def digest(identity: dict[str, Any]) -> str:
    """The hash in a run's folder name, 10 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


INSTALLED = [
    PACKAGE.resolve(),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
]
"""Folders whose files nobody edits."""


def own_sources(config: dict[str, Any]) -> dict[str, str]:
    """Digests of the files that hold a config's classes and functions, by dotted names; of a user's own alone.

    They are of the files as they were when this process first asked.

    Args:
        config: Resolved, as plain data.
    """
    found = {name: _digest(name) for name in sorted({*_named(config)})}
    return {name: digest for name, digest in found.items() if digest is not None}


@cache
def _digest(name: str) -> str | None:
    """Of the file as this process has read it, if a user may edit it."""
    try:
        module = sys.modules[resolve_name(name).__module__]
    except (ImportError, AttributeError, ValueError, KeyError):  # a value that only looks like a name
        return None
    file = Path(getattr(module, "__file__", None) or "").resolve()
    if not file.is_file() or any(file.is_relative_to(folder) for folder in INSTALLED):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:10]


def say_what_changed(run: Run, config: dict[str, Any]) -> None:
    """Tell of a finished run that its own classes have been edited since; it stays as it is.

    Args:
        run: Run that has finished.
        config: Its, as plain data.
    """
    before = (run.metrics or {}).get("environment", {}).get("source", {})
    now = own_sources(config)
    for name in sorted(name for name in before.keys() & now.keys() if before[name] != now[name]):
        say(
            f"the file of {name} has changed since {run.folder} was made, which stays as it is: to have the run anew, "
            "delete that folder, or give the class another name"
        )


def _named(part: Any) -> Iterator[str]:
    """Classes, and functions that make networks."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if isinstance(part, dict):
        yield from (part[key] for key in ("class_path", "function") if isinstance(part.get(key), str))
    for each in inner:
        yield from _named(each)
