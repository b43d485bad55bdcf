"""Runs as the lines of one file, small enough to keep beside a text, from which reports are made as from their folder.

A line is a run's `metrics.json`, and in it `config`, the text of its `config.yaml`, and `importance_ratios`, the
content of the file of that name if the run has left one. What else a line says, such as a date, is not looked at.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cmu_lightning.errors import UserError
from cmu_lightning.files import write_atomically
from cmu_lightning.report.reading.collect import Result, Skipped
from cmu_lightning.report.reading.ratios import Ratios, read_ratios

PLAIN = re.compile(r"(?!\.+$)[\w.-]+")
"""Names that lead into no other folder."""


def line(folder: Path, metrics: dict[str, Any]) -> dict[str, Any]:
    """What a line says of a run.

    Args:
        folder: Folder of the run.
        metrics: Its results.
    """
    ratios = read_ratios(folder.parent, folder.name)
    packed = metrics | {"config": (folder / "config.yaml").read_text()}
    return packed | ({"importance_ratios": asdict(ratios)} if isinstance(ratios, Ratios) else {})


def pack(results: list[Result], runs_dir: Path, path: Path) -> int:
    """Write runs into a file.

    Args:
        results: The runs; those without a config are left out.
        runs_dir: Where they lie.
        path: Path of the file, which is replaced.

    Returns:
        How many were written.

    Raises:
        UserError: It cannot be written.
    """
    kept = [result for result in results if result.configuration is not None]
    lines = (json.dumps(line(runs_dir / result.folder, result.metrics)) + "\n" for result in kept)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, "".join(lines))
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): give another --pack") from error
    return len(kept)


def unpack(path: Path, runs_dir: Path) -> list[Skipped]:
    """Lay the runs of a file out as the folder that they come from.

    Args:
        path: Path of the file.
        runs_dir: An empty folder.

    Returns:
        The lines that are no run, and why.

    Raises:
        UserError: The file cannot be read, or no line of it is a run.
    """
    skipped = []
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"the results file {path} cannot be read ({error.strerror}): give another one") from error
    for number, text in enumerate(lines, 1):
        reason = _lay_out(text, runs_dir) if text.strip() else None
        if reason is not None:
            skipped.append(Skipped(f"{path.name}, line {number}", reason))
    if not any(runs_dir.iterdir()):
        first = f" ({skipped[0].path}: {skipped[0].reason})" if skipped else ""
        raise UserError(f"{path} holds no run{first}: give a runs folder, or a file that report --pack has written")
    return skipped


def _lay_out(text: str, runs_dir: Path) -> str | None:
    """Why a line is no run; None if it is one."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return "damaged: no whole JSON"
    if not isinstance(content, dict):
        return "foreign: no JSON object"
    if "failed" in content:
        return f"the run failed: {content['failed']}"
    place = [str(content.get(key, "")) for key in ("setting", "method", "seed", "hash")]
    if not all(PLAIN.fullmatch(each) for each in place):
        return "foreign or damaged: no setting, method, seed and hash that name a folder"
    setting, method, seed, named = place
    folder = runs_dir / setting / method / f"{seed}-{named}"
    if folder.exists():
        return "the same run as on an earlier line"
    folder.mkdir(parents=True)
    config, ratios = content.pop("config", None), content.pop("importance_ratios", None)
    (folder / "metrics.json").write_text(json.dumps(content))
    if isinstance(config, str):
        (folder / "config.yaml").write_text(config)
    if ratios is not None:
        (folder / "importance_ratios.json").write_text(json.dumps(ratios))
    return None
