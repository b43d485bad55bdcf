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
    "repair": "cmu_lightning.repair.command",
    "predict": "cmu_lightning.serving.predict",
    "export": "cmu_lightning.serving.export",
}
"""Commands that start at once, for they need no torch or not until it is known what for; others are LightningCLI's."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: Default those of the process.

    Returns:
        The exit code; 2 for what a user did wrong.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given and given[0] in LIGHT:
            code: int = import_module(LIGHT[given[0]]).main(given[1:])
        else:
            code = import_module("cmu_lightning.cli").main(given)
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return code


if __name__ == "__main__":
    ended = main()
    if ended == 128 + signal.SIGTERM:  # die of it: to a W&B agent this is no failure of the trial
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTERM)
    sys.exit(ended)
