"""The ledger: the run of each command line, so that finished runs are known without importing torch.

`fit` writes an entry `RUNS_DIR/.sweep/asked/KEY`, which holds the run's folder; `sweep` and `repair` read it. A key is
a digest of all that decides where a command line leads: its options, the content of its configs, the source of `fit`,
and the GPUs. For another key, `fit` has to find out. If a run uses a user's own files, the same command line may lead
elsewhere after they change: such an entry names the folder of the last run, but does not prove that it is finished.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cmu_lightning.devices import gpus, has_bf16
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import Run, read_metrics
from cmu_lightning.files import write_atomically
from cmu_lightning.parsing import PACKAGE, attached, find_configs
from cmu_lightning.yaml_files import parse_yaml

WITHOUT_EFFECT = ("--runs_dir", "--checkpoints")
"""Options that decide where a run is stored and which files it keeps, not which run it is."""

SUFFIXES = (".yaml", ".yml", ".json")
"""Suffixes of files that a config may name as a value, such as `data: mine/data.yaml`."""

NUMBERED = ("--model.", "--procedure.", "--data.")
"""Options of which 1 and 1.0 mean the same. Of `--trainer.limit_test_batches` 1 is one batch, and 1.0 all of them."""

OTHER_COMMANDS = ("sweep", "report", "deploy")
"""Folders of the package that `fit` imports nothing from."""

MAY_CHANGE = "\nlast time"
"""End of the entry of a run whose files may have other content now."""

ENTRY = re.compile(rf"[\w.-]+/\w+/\d+-\w+(?:{MAY_CHANGE})?")
"""A complete entry: a folder `<setting>/<method>/<seed>-<hash>`."""


def options(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each option of a command line.

    Args:
        arguments: Words after the command; values may be attached to their options or follow them.

    >>> list(options(["-c", "mine.yaml", "--threads=1"]))
    [('--config', 'mine.yaml'), ('--threads', '1')]
    """
    for argument in attached(arguments):
        name, _, value = argument.partition("=")
        yield "--config" if name == "-c" else name, value


def command_key(arguments: list[str]) -> str:
    """Return the key of a `fit` command line.

    Args:
        arguments: Words after `fit`.

    Raises:
        UserError: A config does not exist.
    """
    key = hashlib.sha256(_source() + _hardware())
    for name, value in options(arguments):
        if name not in WITHOUT_EFFECT:
            key.update(f"{name}={_meaning(name, value)}\n".encode())
    return key.hexdigest()[:16]


def _meaning(name: str, value: str) -> str:
    """Return a file's content for its name, and a number in one spelling where 1, 1.0 and 1e0 are the same."""
    is_part = value.endswith(SUFFIXES) and _is_file(value)  # as in `--procedure mine.yaml`
    if name == "--config" or is_part:
        return _expand_parts(config_text(value), _config_path(value).parent)
    if name.startswith(NUMBERED):
        with suppress(ValueError):
            return repr(float(value))
    return value


def _expand_parts(text: str, folder: Path, outer: tuple[Path, ...] = ()) -> str:
    """Return a config's text, followed by those of the files that it names, and so on.

    Args:
        text: Content of the config.
        folder: Folder of the config; names are relative to it or to the current folder.
        outer: Files that are being expanded, which are not expanded within themselves.
    """
    named = [place / name for name in _named_configs(text) for place in (folder, Path())]
    parts = [part for part in named if _is_file(part) and part.resolve() not in outer]
    return text + "".join(_expand_parts(_read(part), part.parent, (*outer, part.resolve())) for part in parts)


@cache
def _named_configs(text: str) -> tuple[str, ...]:
    """Return the values of a config, at any depth, that look like names of configs."""
    try:
        return tuple(value for value in _texts(parse_yaml(text)) if value.endswith(SUFFIXES))
    except (yaml.YAMLError, UserError):  # the parser refuses it
        return ()


def _texts(content: Any) -> Iterator[str]:
    """Yield all texts in nested mappings and lists."""
    if isinstance(content, str):
        yield content
    for value in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
        yield from _texts(value)


def config_text(config: str) -> str:
    """Return the content of a config; inline YAML is its own content.

    Args:
        config: Value of `--config`.

    Raises:
        UserError: The config does not exist.
    """
    path = _config_path(config)
    return _read(path) if _is_file(path) else config


def _is_file(path: str | Path) -> bool:
    """Return whether a path is a file; inline YAML can be longer than any name of one."""
    try:
        return Path(path).is_file()
    except OSError:
        return False


@cache
def _config_path(config: str) -> Path:
    return Path(find_configs([f"--config={config}"])[0].partition("=")[2])


def _read(path: Path) -> str:
    """Return a file's content, read once unless the file changes: a sweep's points share a few configs."""
    state = path.stat()
    return _read_version(path, state.st_mtime_ns, state.st_size)


@cache
def _read_version(path: Path, modified: int, size: int) -> str:
    return path.read_text(errors="replace")


@cache
def _source() -> bytes:
    """Return a digest of the code that `fit` may run."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in OTHER_COMMANDS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


@cache
def _hardware() -> bytes:
    """Return the GPUs' properties that decide the default precision."""
    return bytes([bool(gpus()), has_bf16()])


def record_run(key: str, run: Run, may_change: bool = False) -> None:
    """Enter into the ledger which run a command line leads to.

    Args:
        key: Key of the command line, of the configs as they were when it was parsed.
        run: Run that the command line leads to.
        may_change: Whether the same command line may lead elsewhere once files have changed.
    """
    entry = str(run.folder.relative_to(run.runs_dir)) + MAY_CHANGE * may_change
    if _read_entry(key, run.runs_dir) != entry:
        with suppress(OSError):  # another process writes the same
            write_atomically(_path(key, run.runs_dir), entry)


def find_folder(key: str, runs_dir: Path) -> Path | None:
    """Return the folder of the run that a command line leads to; None if none was started.

    Args:
        key: Key of the command line.
        runs_dir: Runs folder.
    """
    entry = _read_entry(key, runs_dir)
    return None if entry is None else runs_dir / entry.removesuffix(MAY_CHANGE)


def is_finished(key: str, runs_dir: Path) -> bool:
    """Return whether the run that a command line leads to is known to have finished.

    Args:
        key: Key of the command line.
        runs_dir: Runs folder.
    """
    entry = _read_entry(key, runs_dir)
    try:
        return entry is not None and not entry.endswith(MAY_CHANGE) and read_metrics(runs_dir / entry) is not None
    except UserError:  # damaged results, which `fit` names
        return False


def _path(key: str, runs_dir: Path) -> Path:
    return runs_dir / ".sweep" / "asked" / key


def _read_entry(key: str, runs_dir: Path) -> str | None:
    """Return an entry; None if it is missing, or damaged, in which case the next `fit` writes again."""
    try:
        entry = _path(key, runs_dir).read_text()
    except (OSError, UnicodeDecodeError):
        return None
    return entry if ENTRY.fullmatch(entry) else None
