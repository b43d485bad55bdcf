"""Whether and how W&B is used, found without torch and without a request to the server; and the end of its client."""

import netrc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from cmu_lightning.console import say
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.run import is_on_demand

Mode = Literal["online", "offline", "disabled"]
SPELLINGS: dict[str, Mode] = {
    **{"online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "disabled"},
}
"""Values of WANDB_MODE, and the modes that they mean."""

SILENCE = "CMU_WANDB_SILENCE"
"""Environment variable: path of a file that is touched when the server did not answer."""
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
    """
    return {
        "entity": entity or os.environ.get("WANDB_ENTITY") or None,
        "project": project or os.environ.get("WANDB_PROJECT") or "cmu_lightning",
    }


def choose_mode(asked: Mode | None) -> Mode | None:
    """Return how W&B is used; None if nobody configured it.

    Args:
        asked: Mode on the command line or in a config.

    Raises:
        UserError: WANDB_MODE is no mode; or this is a trial of a sweep without a key, or in another mode than online.
    """
    variable = os.environ.get("WANDB_MODE")
    if variable and variable not in SPELLINGS:
        raise UserError(f"WANDB_MODE={variable} is no mode of W&B: set it to online, offline or disabled")
    mode = asked or (SPELLINGS[variable] if variable else None)
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
    """Share between all runs within, also those of other processes, that the server does not answer."""
    if SILENCE in os.environ:
        yield
        return
    with TemporaryDirectory() as folder:
        os.environ[SILENCE] = f"{folder}/silence"
        try:
            yield
        finally:
            os.environ.pop(SILENCE, None)


def note_silence() -> None:
    """Note that the server has not answered."""
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

    The client waits without a limit for its service to end. The service can miss the request to end: the answer to an
    earlier request that was given up, as of a silent server, goes to a closed connection, and what follows on that
    connection is not read. A service that is left over ends with this process.
    """
    import wandb

    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(SECONDS_TO_TEAR_DOWN)
