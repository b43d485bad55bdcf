"""Whether W&B is used: its credentials and its mode, known without torch and without a word to the server."""

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
from cmu_lightning.experiment.run import ON_DEMAND

Mode = Literal["online", "offline", "disabled"]
SPELLINGS: dict[str, Mode] = {
    **{"online": "online", "run": "online", "shared": "online"},
    **{"offline": "offline", "dryrun": "offline", "disabled": "disabled"},
}
"""Of WANDB_MODE."""

SILENCE = "CMU_WANDB_SILENCE"
"""Environment variable: a file that is touched when the server was silent."""
SECONDS_OF_SILENCE = 600.0
"""How long a server that was silent is not asked again."""


def in_sweep() -> bool:
    """Whether a W&B agent started this process."""
    return bool(os.environ.get("WANDB_SWEEP_ID"))


def destination(entity: str | None, project: str | None) -> dict[str, Any]:
    """Where runs and reports go: as given, else as the environment says; the entity's default is the server's."""
    return {
        "entity": entity or os.environ.get("WANDB_ENTITY") or None,
        "project": project or os.environ.get("WANDB_PROJECT") or "cmu_lightning",
    }


def choose_mode(asked: Mode | None) -> Mode | None:
    """How W&B is used; None if nobody configured it.

    Args:
        asked: On the command line or in a config.

    Raises:
        UserError: WANDB_MODE is no mode; or it is a sweep's trial, and there is no key or the mode is not online.
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
    if in_sweep():
        raise UserError(
            "a sweep's trial needs a key for W&B: set WANDB_API_KEY, or run `wandb login`, where agents run"
        )
    if mode == "online":
        say("W&B: there is no key (WANDB_API_KEY, or `wandb login`), so this run is logged offline")
        return "offline"
    if ON_DEMAND not in os.environ:  # else it was said already
        say("W&B is not configured (WANDB_API_KEY, or `wandb login`): results stay in the runs folder")
    return None


def has_key() -> bool:
    """Whether credentials are in the environment or in netrc; nothing is asked and nothing is sent."""
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
    """What one run learns of a silent server, all others know: those within, and those of processes that they start."""
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
    """The server has not answered."""
    if SILENCE in os.environ:
        Path(os.environ[SILENCE]).touch()


def was_silent() -> bool:
    """Whether the server has not answered another run of this command, not long ago."""
    try:
        return time.time() - Path(os.environ[SILENCE]).stat().st_mtime < SECONDS_OF_SILENCE
    except (KeyError, OSError):
        return False


SECONDS = 10.0


def end_client() -> None:
    """As `wandb.teardown()`, but it does not wait for ever.

    The client waits for its service to end, and that can miss that it should: a request that was given up, as of a
    silent server, is answered to a connection that is closed by then, and the word behind it is not read. A service
    that is left over ends with this process.
    """
    import wandb

    ending = threading.Thread(target=wandb.teardown, daemon=True)
    ending.start()
    ending.join(SECONDS)
