"""`python -m cmu_lightning.experiment.on_demand`: a command that ends with the process that has started it.

That process holds the other end of this one's standard input, which the operating system closes however it ends.
"""

import os
import runpy
import signal
import threading
import time

SECONDS_TO_END = 10.0
"""Longest time that the command may take to end after a request to end."""


def end_with_starter() -> None:
    """End this process once its standard input is closed: as by SIGTERM, and at once if that takes too long."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(SECONDS_TO_END)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    end_with_starter()
    runpy.run_module("cmu_lightning", run_name="__main__", alter_sys=True)
