"""The identity of a run: the part of its resolved config that decides its numbers.

Two runs are the same if their resolved configs are, apart from paths, loggers and hardware, which must not change
results, and from settings that have no bearing on the stage. Files of custom classes are not a part of it: a run says
when they have been edited since.
"""

import hashlib
import json
import sys
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from cmu_lightning.console import say
from cmu_lightning.devices import PRECISIONS
from cmu_lightning.experiment.run import Run
from cmu_lightning.parsing import INSTALLED

TRAINER = (
    "precision",
    "limit_val_batches",
    "limit_test_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
)
"""Options of the Trainer that change numbers; all others are hardware, loggers and what is shown."""

NAMES_IN_HASHES = {"NetworkFromFunction": "Made"}
"""Classes whose hashes were first computed with another name."""

OPTIONAL = ("discovery", "resize", "classes")
"""Arguments of data that the first configs do not have; None is the same as left out."""

OPTIONAL_OF_DISCOVERY = ("threshold",)
OPTIONAL_OF_MODEL = ("original_prefix", "original_key")
OPTIONAL_OF_PROCEDURE = ("optimizer",)
"""Likewise of a discovery, of an unlearner and of the procedure."""


def digest(identity: dict[str, Any]) -> str:
    """Return the hash in the name of a run's folder, 10 hexadecimal digits.

    Args:
        identity: Result of `identity`.
    """
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]


def identity(
    config: dict[str, Any],
    uses: str,
    deletion: frozenset[str],
    original: str | None,
    content: dict[str, str] | None = None,
    splits_statistics: bool = False,
) -> dict[str, Any]:
    """Return the content of a run's hash, as plain data.

    Args:
        config: Resolved config, as plain data.
        uses: The number of steps in the procedure that the stage takes, `steps` or `unlearn_steps`.
        deletion: Arguments of the data that decide S_f.
        original: Hash of the original; None for an original, on which S_f has no bearing.
        content: Digests of the files at paths among the arguments of the data, by the arguments' dotted names.
        splits_statistics: Whether each process trains with its own batch statistics, as batch norm does on a CPU.
    """
    # Data: without folders, and with the content of files instead of their paths.
    data = deepcopy(config["data"])
    arguments = data["init_args"]
    for key in ("root", "memory_map", *(key for key in OPTIONAL if arguments.get(key) is None)):
        arguments.pop(key, None)
    discovery = arguments.get("discovery")
    _drop_absent(discovery.get("init_args", {}) if isinstance(discovery, dict) else {}, OPTIONAL_OF_DISCOVERY)
    for name, value in (content or {}).items():
        _replace_path(data, name.split("."), value)
    if original is None:
        for key in deletion:
            arguments.pop(key, None)
    # Procedure: with the one number of steps that the stage takes.
    procedure = dict(config["procedure"])
    procedure["steps"] = procedure[uses]
    del procedure["unlearn_steps"]
    _drop_absent(procedure, OPTIONAL_OF_PROCEDURE)
    # Stage: the original is known by its hash.
    model = deepcopy(config["model"])
    model.get("init_args", {}).pop("original", None)
    _drop_absent(model.get("init_args", {}), OPTIONAL_OF_MODEL)
    named = {
        "setting": config["setting"],
        "data": data,
        "network": config["network"],
        "procedure": procedure,
        "model": model,
        "trainer": _trainer_identity(config["trainer"], splits_statistics),
        "original": original,
    }
    plain: dict[str, Any] = _unify_names(named)
    return plain


def _drop_absent(arguments: dict[str, Any], optional: tuple[str, ...]) -> None:
    """Remove, in place, optional arguments that are None."""
    for key in optional:
        if arguments.get(key) is None:
            arguments.pop(key, None)


def _trainer_identity(trainer: dict[str, Any], splits_statistics: bool) -> dict[str, Any]:
    """Return the Trainer's options that change numbers, every spelling of a default as None."""
    own = {key: trainer.get(key) for key in TRAINER}
    # The first configs have short names of precisions, or None for 32 bits.
    own["precision"] = PRECISIONS.get(str(own["precision"]), own["precision"])
    if own["precision"] == "32-true":
        own["precision"] = None
    # 1.0 is all batches, 1 is one batch.
    for key in ("limit_val_batches", "limit_test_batches"):
        if isinstance(own[key], float) and own[key] == 1:
            own[key] = None
    clip = own["gradient_clip_val"]
    own["gradient_clip_val"] = None if clip is None else float(clip)
    if clip is None or own["gradient_clip_algorithm"] == "norm":
        own["gradient_clip_algorithm"] = None
    # A callback can do anything to training, and may act on each validation.
    if trainer.get("callbacks"):
        own |= {key: trainer[key] for key in ("callbacks", "val_check_interval") if key in trainer}
    # One process and N give the same numbers, except with batch statistics of N parts.
    if splits_statistics and (count := count_cpu_processes(trainer)) > 1:
        own["processes"] = count
    return own


def count_cpu_processes(trainer: dict[str, Any]) -> int:
    """Return the number of processes on the CPUs of all nodes; `auto` is one for each node.

    Args:
        trainer: Options of the Trainer, as plain data.
    """
    devices = str(trainer.get("devices")).strip()
    return (int(devices) if devices.isdigit() else 1) * int(trainer.get("num_nodes") or 1)


def _replace_path(part: dict[str, Any], name: list[str], value: str) -> None:
    """Replace the path with a dotted name by a digest; do nothing if a class on the way is absent."""
    for each in name[:-1]:
        part = part["init_args"].get(each) or {"init_args": {}}
    part["init_args"][name[-1]] = value


def _unify_names(value: Any, key: str = "") -> Any:
    """Name each class of this project by the package and the class; its module may change."""
    if isinstance(value, dict):
        return {key: _unify_names(inner, key) for key, inner in value.items()}
    if isinstance(value, list):
        return [_unify_names(inner) for inner in value]
    if key == "class_path" and value.startswith("cmu_lightning."):
        name = value.rpartition(".")[2]
        return f"cmu_lightning.{NAMES_IN_HASHES.get(name, name)}"
    return value


def digest_sources(config: dict[str, Any]) -> dict[str, str]:
    """Return digests of the files of a config's custom classes and functions, by dotted names.

    Each file is read when this process first asks for it, so that a digest describes the running code.

    Args:
        config: Resolved config, as plain data.
    """
    digests = {name: _digest_source(name) for name in sorted({*_find_names(config)})}
    return {name: digest for name, digest in digests.items() if digest is not None}


@cache
def _digest_source(name: str) -> str | None:
    """Return the digest of the file that defines a name; None for installed code."""
    try:
        module = sys.modules[resolve_name(name).__module__]
    except (ImportError, AttributeError, ValueError, KeyError):  # a value that only looks like a name
        return None
    file = Path(getattr(module, "__file__", None) or "").resolve()
    if not file.is_file() or any(file.is_relative_to(folder) for folder in INSTALLED):
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()[:10]


def _find_names(part: Any) -> Iterator[str]:
    """Yield the names of classes, and of functions that make networks, in a part of a config."""
    inner = part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    if isinstance(part, dict):
        yield from (part[key] for key in ("class_path", "function") if isinstance(part.get(key), str))
    for each in inner:
        yield from _find_names(each)


def warn_of_edited_sources(run: Run, config: dict[str, Any]) -> None:
    """Name the custom classes of a finished run that have been edited since; the run stays unchanged.

    Args:
        run: Run that has finished.
        config: Resolved config of the run, as plain data.
    """
    before = (run.metrics or {}).get("environment", {}).get("source", {})
    now = digest_sources(config)
    for name in sorted(name for name in before.keys() & now.keys() if before[name] != now[name]):
        say(
            f"the file of {name} has changed since {run.folder} was made, which stays unchanged: to make the run "
            "again, delete that folder, or give the class another name"
        )
