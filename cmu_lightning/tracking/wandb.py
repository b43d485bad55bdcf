"""A run on Weights & Biases, and what happens when the server does not answer."""

import os
import time
from pathlib import Path
from typing import Any, Self

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cmu_lightning.errors import UserError
from cmu_lightning.tracking.account import Mode, in_sweep, say
from cmu_lightning.tracking.run import Run

SECONDS_TO_BEGIN = 15.0
SECONDS_TO_END = 15.0
"""How long a run waits for a server that is silent, when it begins (the client adds 10 s) and when it ends."""
PATIENCE = 600.0
"""The same in a trial of a sweep, whose result must arrive, and at the end with `log_model`."""


class WandbLogger(LightningWandbLogger):
    """A run's logger that never asks, never waits for long, and goes on offline when there is no server.

    In a trial of a sweep a missing server is an error: the sweep would learn nothing.

    Args:
        run: Whose results are logged.
        job_type: `original` or `unlearn`.
        project: Default WANDB_PROJECT, else cmu_lightning.
        entity: User or team; default WANDB_ENTITY, else yours.
        group: Default the setting.
        tags: To filter by.
        mode: Default WANDB_MODE, else online if there is a key (WANDB_API_KEY, or netrc by `wandb login`).
        log_model: Whether last.ckpt is uploaded as an artifact, if it stays.
    """

    def __init__(
        self,
        run: Run,
        job_type: str,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Mode | None = None,
        log_model: bool = False,
    ) -> None:
        super().__init__(
            name=f"{run.method}/{run.folder.name}",
            project=project or os.environ.get("WANDB_PROJECT") or "cmu_lightning",
            save_dir=os.environ.get("WANDB_DIR") or run.folder,
        )
        self._wandb_init |= {
            "entity": entity or os.environ.get("WANDB_ENTITY") or None,
            "group": group or run.setting,
            "job_type": job_type,
            "tags": tags,
            "mode": mode,
        }
        self._wandb_init.pop("anonymous", None)  # it has no effect, and is warned of
        if in_sweep():
            for settled in ("project", "entity"):
                self._wandb_init.pop(settled)
        self.uploads_model = log_model
        self.stopped = False
        """Whether W&B asked the run to stop, as early termination does."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun when it is first needed.

        Raises:
            UserError: It is a sweep's trial and the server does not answer.
        """
        if self._experiment is None:
            self._begin()
        return self._experiment

    def _begin(self) -> None:
        import wandb

        begin = time.monotonic()
        Path(self._wandb_init["dir"]).mkdir(parents=True, exist_ok=True)
        end = PATIENCE if in_sweep() or self.uploads_model else SECONDS_TO_END
        self._wandb_init["settings"] = wandb.Settings(
            init_timeout=PATIENCE / 10 if in_sweep() else SECONDS_TO_BEGIN,
            finish_timeout=end,
            stop_fn=self._stop,
        )
        try:
            _ = super().experiment
        except (wandb.Error, OSError) as error:  # OSError: timeouts too
            reason = f"W&B cannot be reached ({str(error).strip().splitlines()[0]})"
            if in_sweep():
                raise UserError(
                    f"{reason}, and a sweep's trial needs it: mend that and start the agent again"
                ) from error
            wandb.teardown()
            say(f"{reason} after {time.monotonic() - begin:.0f} s: this run is logged offline, for `wandb sync` later")
            self._wandb_init["mode"] = "offline"
            _ = super().experiment

    def _stop(self) -> None:
        from wandb.sdk.lib.interrupt import interrupt_main

        self.stopped = True
        interrupt_main()  # type: ignore[no-untyped-call]

    @rank_zero_only
    def log_hyperparams(self, params: Any, *arguments: Any, **more: Any) -> None:
        """Nothing: the config is logged once, by `describe`."""

    @rank_zero_only
    def describe(self, config: dict[str, Any]) -> None:
        """Log the config; what the sweep has set stays as it is, for W&B refuses to change it."""
        own = self.experiment.config
        taken = {key.replace(".init_args", "") for key in own.keys()}  # noqa: SIM118 (it is no dict)
        own.update({key: value for key, value in config.items() if key not in taken})

    def finalize(self, status: str) -> None:
        """End the W&B run if training was broken off; else results are still to come."""
        if status != "success":
            self.finish(0 if self.stopped else 1)

    def __enter__(self) -> Self:
        """Nothing is begun yet."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Whatever happened, end the W&B run."""
        self.finish(0 if kind is None else 1)

    def finish(self, code: int) -> None:
        """End the W&B run, if there is one, and wait until all is sent, but not for long."""
        if self._experiment is not None:
            begin = time.monotonic()
            self._experiment.finish(exit_code=code)
            self._experiment = None
            if (waited := time.monotonic() - begin) > SECONDS_TO_END:
                say(f"W&B: the end of this run took {waited:.0f} s; what was not sent is in {self.save_dir}/wandb")
