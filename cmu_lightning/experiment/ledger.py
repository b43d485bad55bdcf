"""Which run a command line led to, so that a sweep knows finished runs without asking torch.

`fit` leaves a note in `RUNS_DIR/.sweep/asked`, named after its arguments, the content of the configs among them, and
the program's own source: whatever could lead elsewhere makes another name. Of data in a user's own files a note tells
where the last run is, but not that the same command would lead there again.
"""

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from cmu_lightning.devices import gpus, has_bf16
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import Run, read_metrics
from cmu_lightning.files import write_atomically
from cmu_lightning.parsing import PACKAGE, attached, find_configs

NO_IDENTITY = ("--runs_dir", "--checkpoints")
"""Options that say where a run goes and what it keeps, not what it is."""

NAMED = re.compile(r":[ \t]*['\"]?([\w./-]+\.ya?ml)\b")
"""In a config, the file that holds a part of it."""

OTHER_COMMANDS = ("sweep", "report", "deploy", "dashboard")
"""Folders that `fit` imports nothing from."""


def options(arguments: list[str]) -> Iterator[tuple[str, str]]:
    """The options of a command line, whether their values follow or are attached."""
    for argument in attached(arguments):
        name, _, value = argument.partition("=")
        yield "--config" if name == "-c" else name, value


def note_name(arguments: list[str]) -> str:
    """A name for what a `fit` command line asks for.

    Raises:
        UserError: It names a config that is not there.
    """
    named = hashlib.sha256(_source() + _precision())
    for name, value in options(arguments):
        if name not in NO_IDENTITY:
            meant = _meaning(value) if name == "--config" or _is_part(value) else _one_spelling(value)
            named.update(f"{name}={meant}\n".encode())
    return named.hexdigest()[:16]


def config_text(config: str) -> str:
    """What a config says; what is no file is its own content.

    Raises:
        UserError: It is not there.
    """
    path = _path(config)
    return _text(path) if path.is_file() else config


def _text(path: Path) -> str:
    """Of a file, read again when it has changed."""
    state = path.stat()
    return _read(path, state.st_mtime_ns, state.st_size)


@cache
def _read(path: Path, modified: int, size: int) -> str:
    return path.read_text(errors="replace")


@cache
def _path(config: str) -> Path:
    return Path(find_configs([f"--config={config}"])[0].partition("=")[2])


def _is_part(value: str) -> bool:
    """Whether a value is a file that holds the option's own options, as in `--procedure mine.yaml`."""
    return value.endswith((".yaml", ".yml", ".json")) and Path(value).is_file()


def _meaning(config: str) -> str:
    return _with_parts(config_text(config), _path(config).parent)


def _with_parts(text: str, folder: Path, outer: tuple[Path, ...] = ()) -> str:
    """What a config says, and the YAML files that it names as values, such as `data: mine/data.yaml`."""
    named = [place / name for name in NAMED.findall(text) for place in (folder, Path())]
    parts = [part for part in named if part.is_file() and part.resolve() not in outer]
    return text + "".join(_with_parts(_text(part), part.parent, (*outer, part.resolve())) for part in parts)


def _one_spelling(value: str) -> str:
    """1, 1.0 and 1e0 are one number."""
    with suppress(ValueError):
        return repr(float(value))
    return value


@cache
def _precision() -> bytes:
    """What the machine's GPUs decide where nobody else does."""
    return bytes([bool(gpus()), has_bf16()])


@cache
def _source() -> bytes:
    """A digest of what `fit` runs."""
    files = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in OTHER_COMMANDS]
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).digest()


LAST = "\nlast time"
"""Ends the note of a run whose files may be other ones by now."""


def remember(name: str, run: Run, may_change: bool = False) -> None:
    """Note which run a command line leads to.

    Args:
        name: Of the command line, by the configs as it read them.
        run: Where it led.
        may_change: Whether the same arguments may lead elsewhere once files have changed.
    """
    note = run.runs_dir / ".sweep" / "asked" / name
    if may_change or not note.exists():
        with suppress(OSError):  # another process writes the same
            write_atomically(note, str(run.folder.relative_to(run.runs_dir)) + LAST * may_change)


def noted_folder(name: str, runs_dir: Path) -> Path | None:
    """The folder of the run that a command line of this key leads to, if one was started."""
    noted = _note(name, runs_dir)
    return None if noted is None else runs_dir / noted.removesuffix(LAST)


def _note(name: str, runs_dir: Path) -> str | None:
    try:
        return (runs_dir / ".sweep" / "asked" / name).read_text()
    except OSError:
        return None


def is_finished(name: str, runs_dir: Path) -> bool:
    """Whether the run of this key is known to have its results."""
    noted = _note(name, runs_dir)
    try:
        return noted is not None and not noted.endswith(LAST) and read_metrics(runs_dir / noted) is not None
    except UserError:  # damaged results, which `fit` will name
        return False
