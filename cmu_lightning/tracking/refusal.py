"""A trial of a sweep that is refused before it begins is one that the server should know of."""

import os
from contextlib import suppress
from tempfile import TemporaryDirectory

from lightning_utilities.core.rank_zero import rank_zero_only

from cmu_lightning.tracking.account import SPELLINGS, has_key, in_sweep
from cmu_lightning.tracking.logger import SECONDS_OF_TRIAL


def report_refusal(reason: str) -> None:
    """Begin the trial's run on W&B and end it as failed, with the reason in its summary.

    Nothing is done outside a sweep, and a server that is silent is not waited for twice.

    Args:
        reason: Reason of the refusal.
    """
    online = SPELLINGS.get(os.environ.get("WANDB_MODE") or "online") == "online"
    reachable = in_sweep() and has_key() and online
    if not reachable or getattr(rank_zero_only, "rank", None):
        return
    import wandb

    with TemporaryDirectory() as place, suppress(wandb.Error, OSError):
        settings = wandb.Settings(init_timeout=SECONDS_OF_TRIAL, finish_timeout=SECONDS_OF_TRIAL)
        run = wandb.init(dir=place, settings=settings)
        run.summary["refused"] = reason
        run.finish(exit_code=2)
