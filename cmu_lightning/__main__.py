"""`python -m cmu_lightning`: the commands, and the end of the process."""

import errno
import os
import signal
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from cmu_lightning import __version__
from cmu_lightning.errors import UserError

LIGHT = {
    "sweep": "cmu_lightning.sweep.command",
    "report": "cmu_lightning.report.command",
    "list": "cmu_lightning.report.command:list_runs",
    "dashboard": "cmu_lightning.report.wandb_dashboard",
    "repair": "cmu_lightning.deploy.repair",
    "predict": "cmu_lightning.deploy.predict",
    "export": "cmu_lightning.deploy.export",
}
"""Commands that start without torch, by the module whose `main` or named function runs them.

LightningCLI runs `fit` and `test`.
"""

UNREADABLE = {
    errno.ENAMETOOLONG: "is longer than any name of a file: check what the command line gives",
    errno.EACCES: "cannot be read or written (permission denied): change its permissions, or give another path",
    errno.EPERM: "cannot be read or written (not permitted): give another path",
}
"""What is wrong with a path that the system refuses, by its error."""

HELP = """usage: python -m cmu_lightning COMMAND ...   (or cmu-lightning COMMAND ...)

corrective machine unlearning of image classifiers

  fit        train an original, or unlearn from one
  test       measure a run again, and compare
  sweep      run W&B sweep files without an account
  report     figures, tables and one page from a folder of runs
  list       all finished runs, one line each, or as CSV
  repair     try the methods that fit a model and a list of flagged samples, and choose
  predict    a run's predictions next to its original's
  export     a run's weights as safetensors and ONNX, with a model card
  dashboard  workspace and report on W&B

COMMAND --help says more; so does the README. --version says which version this is.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Words after the program's name; default those of the process. `sys.argv` is read nowhere else.

    Returns:
        The exit code: 0, 1 or 2 as the command says, 2 for a mistake of the user, 130 for an interruption.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--help"], ["-h"]):
        sys.stdout.write(HELP)
        return 0
    if given == ["--version"]:
        sys.stdout.write(f"cmu-lightning {__version__}\n")
        return 0
    try:
        _check_command(given)
        # Import only what the command needs: `report --help` must not wait for torch.
        module, _, function = LIGHT.get(given[0], "").partition(":")
        if module:
            code: int = getattr(import_module(module), function or "main")(given[1:])
        else:
            code = import_module("cmu_lightning.cli.fit").main(given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except OSError as error:
        if error.errno not in UNREADABLE:
            raise
        # Every check whether a file exists fails with these errors.
        from cmu_lightning.console import visible

        shown = visible(str(error.filename))
        shown = f"{shown[:40]}...{shown[-10:]}" if len(shown) > 60 else shown
        sys.stderr.write(f"error: {shown} {UNREADABLE[error.errno]}\n")
        return 2
    except KeyboardInterrupt:  # outside of what a command handles itself, as while torch is imported
        sys.stderr.write("interrupted: run the same command again to continue\n")
        return 128 + signal.SIGINT
    return code


def _check_command(given: list[str]) -> None:
    """Raise unless the first word is a command; an option may precede `fit` and `test`."""
    known = ["fit", "test", *LIGHT]
    if not given:
        raise UserError(f"there is no command: give one of {', '.join(known)}; --help says what they do")
    if not given[0].startswith("-") and given[0] not in known:
        close = "".join(f" (did you mean {name}?)" for name in get_close_matches(given[0], known, 1))
        raise UserError(f"there is no command {given[0]}: give one of {', '.join(known)}{close}")


def _tear_down_wandb() -> None:
    """End W&B's client if it was used; without this it may keep the process from ending."""
    if "wandb" in sys.modules:
        from cmu_lightning.experiment.wandb_settings import end_client

        end_client()


def run() -> NoReturn:
    """Run the command of this process, and end the process: the script `cmu-lightning`."""
    try:
        ended = main()
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of the output has ended, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        ended = 128 + signal.SIGPIPE
    finally:
        _tear_down_wandb()
    # Die of SIGTERM itself: a W&B agent would count an exit code as a failed trial.
    if ended == 128 + signal.SIGTERM:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    sys.exit(ended)


if __name__ == "__main__":
    run()
