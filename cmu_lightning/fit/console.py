"""What the command line says of an error, and what it keeps from the screen."""

import errno
import logging
import re
import warnings

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from cmu_lightning.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota and a limit on files say."""
NO_MEMORY = re.compile(r"can't allocate memory|out of memory")
"""What torch says on CPUs and on GPUs."""
NO_METRIC = re.compile(r"stopping conditioned on metric (\S+) which is not available.*following: (.*)")
"""What EarlyStopping says."""
ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")


def user_mistake(error: BaseException | None) -> str | None:
    """The message of a user's mistake behind an error; None if it is another kind of error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return f"there is no room to write ({error}): make some, and the same command goes on"
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            asked = ASKED.search(str(error))
            of = f" ({asked[1]} were asked for)" if asked else ""
            return f"memory ran out{of}: make network or procedure.batch_size smaller, or give data.memory_map"
        if unknown := NO_METRIC.search(str(error)):
            return f"EarlyStopping watches {unknown[1]}, which this stage does not log: give one of {unknown[2]}"
        if isinstance(error, ModuleNotFoundError) and error.name is None:  # a library's own words on what it needs
            return str(error).splitlines()[0]
        if isinstance(error, UserError | ArgumentError | MisconfigurationException):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def quiet() -> None:
    """Leave out what Lightning says at every start."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    for known in (
        "The '.*_dataloader' does not have many workers",  # batches are made on the device
        ".*recommended to use .*Trainer.devices=1.*",  # every sample is counted once on any number of devices
        "The number of training batches .* is smaller than the logging interval",
        "Total length of `list` across ranks is zero",  # val_size 0 leaves nothing to validate on
        ".*configure_optimizers. returned .None.",  # methods that do not train have none
        "Grad strides do not match bucket view strides",  # of one channel, whose stride says nothing
        ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
    ):
        warnings.filterwarnings("ignore", known)
