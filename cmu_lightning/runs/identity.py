"""Which settings make a run the run it is.

Two runs are the same if their resolved configs are, but for paths, loggers and hardware, which must not change
results, and for what has no bearing on the stage.
"""

import hashlib
import json
from copy import deepcopy
from typing import Any

from cmu_lightning.devices import PRECISIONS

TRAINER = (
    "precision",
    "limit_val_batches",
    "limit_test_batches",
    "gradient_clip_val",
    "gradient_clip_algorithm",
)
"""The trainer's options that change numbers; all others are hardware, loggers and what is shown."""

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
        return f"cmu_lightning.{value.rpartition('.')[2]}"
    return value


def digest(identity: dict[str, Any]) -> str:
    """The hash in a run's folder name, 10 hexadecimal digits."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
