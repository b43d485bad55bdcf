"""`python -m cmu_lightning`."""

import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from cmu_lightning.errors import UserError

LIGHT = {
    "sweep": "cmu_lightning.sweep.command",
    "report": "cmu_lightning.report.command",
    "dashboard": "cmu_lightning.dashboard.command",
    "repair": "cmu_lightning.deploy.repair",
    "predict": "cmu_lightning.deploy.predict",
    "export": "cmu_lightning.deploy.export",
}
"""Commands that start at once, for they need no torch or not until it is known what for; others are LightningCLI's."""

HELP = """usage: python -m cmu_lightning COMMAND ...

corrective machine unlearning of image classifiers

  fit        train an original, or unlearn from one
  test       measure a run again, and compare
  sweep      run W&B sweep files without an account
  report     figures, tables and one page from a folder of runs
  repair     try the methods that fit a model and a list of flagged samples, and choose
  predict    a run's predictions beside its original's
  export     a run's weights as safetensors and ONNX, with a model card
  dashboard  workspace and report on W&B

COMMAND --help says more; so does the README.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Default those of the process.

    Returns:
        The exit code; 2 for what a user did wrong, 130 if it was interrupted.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given in (["--help"], ["-h"]):
        sys.stdout.write(HELP)
        return 0
    try:
        _refuse_unknown(given)
        if given and given[0] in LIGHT:
            code: int = import_module(LIGHT[given[0]]).main(given[1:])
        else:
            code = import_module("cmu_lightning.cli.fit").main(given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:  # before a command sees to it, as while it imports torch
        sys.stderr.write("interrupted: the same command again goes on\n")
        return 128 + signal.SIGINT
    return code


def _end_client() -> None:
    """If there is one, which waits without a limit when the process ends."""
    if "wandb" in sys.modules:
        from cmu_lightning.experiment.wandb_settings import end_client

        end_client()


def _refuse_unknown(given: list[str]) -> None:
    """A first word has to be a command; options may precede LightningCLI's."""
    known = ["fit", "test", *LIGHT]
    if not given:
        raise UserError(f"there is no command: give one of {', '.join(known)}; --help says what they do")
    if not given[0].startswith("-") and given[0] not in known:
        raise UserError(f"there is no command {given[0]}: give one of {', '.join(known)}")


if __name__ == "__main__":
    try:
        ended = main()
    finally:
        _end_client()
    if ended == 128 + signal.SIGTERM:  # die of it: to a W&B agent this is no failure of the trial
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    sys.exit(ended)
