"""The files of a user's own classes, which a run's hash does not tell apart."""

import hashlib
import sys
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from cmu_lightning.parsing import PACKAGE
from cmu_lightning.runs.run import Run
from cmu_lightning.screen import say

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
