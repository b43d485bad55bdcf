"""What ends a command on a runs folder before its time."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from cmu_lightning.errors import UserError


def guarded(work: Callable[[], int], runs_dir: Path) -> int:
    """Do work on a runs folder that can be interrupted, by Ctrl-C or by SIGTERM.

    Returns:
        Its exit code, or 130.

    Raises:
        UserError: The folder cannot be written.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return work()
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted: the same command goes on where this one was")
        return 130
    except OSError as error:
        raise UserError(f"runs cannot be written to {runs_dir} ({error}): give another --runs_dir") from error
