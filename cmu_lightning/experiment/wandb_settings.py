"""Whether and how W&B is used, found without torch and without a request to the server; and the end of its client."""

import netrc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from cmu_lightning.console import say
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.run import is_on_demand
from cmu_lightning.files import temporary_folder

Mode = Literal["online", "offline", "disabled"]
SPELLINGS: dict[str, Mode] = {
    **{"online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "disabled"},
}
"""Values of WANDB_MODE and their meanings."""

FOLDERS = ("WANDB_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR")
"""Environment variables that name folders in which W&B's client writes."""

SILENCE = "CMU_WANDB_SILENCE"
"""Environment variable: path of a file that is touched if the server did not answer."""
SECONDS_OF_SILENCE = 600.0
"""Time for which a server that did not answer is not asked again."""
SECONDS_TO_TEAR_DOWN = 10.0
"""Longest time that the end of a process waits for W&B's client."""


def in_sweep() -> bool:
    """Return whether this process is a trial that a W&B agent started."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def destination(entity: str | None, project: str | None) -> dict[str, Any]:
    """Return where runs and reports go, as the arguments `entity` and `project` of W&B.

    Args:
        entity: User or team; default WANDB_ENTITY, else None, which leaves it to the server.
        project: Project; default WANDB_PROJECT, else cmu_lightning.

    Raises:
        UserError: W&B's client refuses one of them.
    """
    place = {
        "entity": entity or os.environ.get("WANDB_ENTITY") or None,
        "project": project or os.environ.get("WANDB_PROJECT") or "cmu_lightning",
    }
    check_options({f"the {name} {value}": {name: value} for name, value in place.items()})
    for name, value in place.items():
        # The client takes these, and its paths and addresses then lead elsewhere.
        if value is not None and (not value.isprintable() or "/" in value or value != value.strip()):
            raise UserError(
                f"the {name} {value!r} cannot be used for W&B: give its name only, as in the address of a run"
            )
    return place


def check_options(options: dict[str, dict[str, Any]]) -> None:
    """Refuse options that W&B's client would refuse once a run begins.

    Args:
        options: Settings of the client by the words that name an option and its value in a message.

    Raises:
        UserError: The client refuses one of them.
    """
    import wandb

    for said, settings in options.items():
        with _refusing(said):
            wandb.Settings(**settings)


def check_environment() -> None:
    """Refuse environment variables that W&B's client would refuse once a run begins, each by its name.

    Raises:
        UserError: The client refuses a variable, or a folder cannot be made.
    """
    import wandb

    for name in sorted(variable for variable in os.environ if variable.startswith("WANDB_") and os.environ[variable]):
        value = os.environ[name]
        is_secret = any(word in name for word in ("KEY", "TOKEN", "PASSWORD", "SECRET", "HEADERS", "PROXY"))
        if "KEY" in name and not (value.isprintable() and " " not in value):
            raise UserError(f"{name} holds a blank or an end of line: set it to the key only")
        with _refusing(name if is_secret else f"{name}={value}"):
            wandb.Settings().update_from_env_vars({name: value})
        if name in FOLDERS:
            _check_folder(name, Path(value))


@contextmanager
def _refusing(said: str) -> Iterator[None]:
    """Turn the client's exceptions for a value that it refuses into one sentence."""
    import wandb

    try:
        yield
    except (ValueError, TypeError, wandb.Error) as error:
        details: Any = getattr(error, "errors", None)  # of pydantic; its own text has several lines
        reason = details()[0]["msg"] if callable(details) else first_line(error)
        raise UserError(
            f"{said} cannot be used for W&B ({reason.removeprefix('Value error, ').rstrip('.')}): change it"
        ) from None


def _check_folder(name: str, folder: Path) -> None:
    """Refuse a folder that cannot be made or written to; nothing is made."""
    try:
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        is_writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    except OSError:  # such as a name that is too long
        is_writable = False
    if not is_writable:
        raise UserError(f"{name}={folder} is no folder that can be written to: give another one, or unset it")


def check_logging(project: str | None, entity: str | None, group: str | None, tags: list[str] | None) -> dict[str, Any]:
    """Return where a run goes, as `destination` does, if W&B's client accepts all options of the logger.

    Args:
        project: Project; None for the default.
        entity: User or team; None for the default.
        group: Group; None for the setting.
        tags: Tags.

    Raises:
        UserError: The client would refuse an option once the run begins.
    """
    check_options(
        {f"wandb.group={group}": {"run_group": group}}
        | {f"wandb.tags={tag}": {"run_tags": [tag]} for tag in tags or []}
    )
    return destination(entity, project)


def check_environment_of_runs() -> None:
    """Refuse a bad environment once for many runs, if they use W&B.

    Raises:
        UserError: WANDB_MODE is no mode, or the client refuses another variable.
    """
    mode = _mode_of_environment()
    if mode == "offline" or (mode != "disabled" and has_key()):
        check_environment()


def choose_mode(asked: Mode | None) -> Mode | None:
    """Return how W&B is used; None if nobody configured it.

    Args:
        asked: Mode on the command line or in a config.

    Raises:
        UserError: WANDB_MODE is no mode; or this is a trial of a sweep without a key, or in another mode than online.
    """
    mode = asked or _mode_of_environment()
    if mode in ("offline", "disabled"):
        if in_sweep():
            raise UserError(f"a sweep's trial has to reach W&B, and WANDB_MODE is {mode}: set it to online")
        return mode
    if has_key():
        return "online"
    # Without a key the client would ask for one, so it is never begun online.
    if in_sweep():
        raise UserError(
            "a sweep's trial needs a key for W&B: set WANDB_API_KEY, or run `wandb login`, where agents run"
        )
    if mode == "online":
        say("W&B: there is no key (WANDB_API_KEY, or `wandb login`), so this run is logged offline")
        return "offline"
    if not is_on_demand():  # else the unlearner's process has said it
        say("W&B is not configured (WANDB_API_KEY, or `wandb login`): results stay in the runs folder")
    return None


def _mode_of_environment() -> Mode | None:
    """Return the mode that WANDB_MODE names; None if it is not set."""
    variable = os.environ.get("WANDB_MODE")
    if variable and variable not in SPELLINGS:
        raise UserError(f"WANDB_MODE={variable} is no mode of W&B: set it to online, offline or disabled")
    return SPELLINGS[variable] if variable else None


def has_key() -> bool:
    """Return whether the environment or netrc holds credentials for W&B's server."""
    if any(os.environ.get(name) for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")):
        return True
    places = [os.environ["NETRC"]] if os.environ.get("NETRC") else ["~/.netrc", "~/_netrc"]
    found = [path for place in places if (path := Path(place).expanduser()).exists()]
    if not found:
        return False
    import wandb

    host = wandb.setup().settings.base_url.split("://")[-1].split("/")[0]
    try:
        return netrc.netrc(found[0]).authenticators(host) is not None
    except (netrc.NetrcParseError, OSError):
        return False


@contextmanager
def one_silence() -> Iterator[None]:
    """Share the finding that the server does not answer between all runs within, also in other processes."""
    if SILENCE in os.environ:
        yield
        return
    with temporary_folder() as folder:
        os.environ[SILENCE] = str(folder / "silence")
        try:
            yield
        finally:
            os.environ.pop(SILENCE, None)


def note_silence() -> None:
    """Record that the server has not answered."""
    if SILENCE in os.environ:
        Path(os.environ[SILENCE]).touch()


def was_silent() -> bool:
    """Return whether the server has not answered another run of this command in the last ten minutes."""
    try:
        return time.time() - Path(os.environ[SILENCE]).stat().st_mtime < SECONDS_OF_SILENCE
    except (KeyError, OSError):
        return False


def end_client() -> None:
    """Tear W&B's client down, as `wandb.teardown()` does, but wait no longer than `SECONDS_TO_TEAR_DOWN`.

    The client waits without a limit for its service to end. The service can miss the request to end: it sends the
    answer to an earlier, abandoned request to a closed connection, and does not read what follows on that connection.
    A service that is left over ends with this process.
    """
    import wandb

    def tear_down() -> None:
        with suppress(Exception):  # of a service that was killed
            wandb.teardown()

    ending = threading.Thread(target=tear_down, daemon=True)
    ending.start()
    ending.join(SECONDS_TO_TEAR_DOWN)
