"""The logger of a run on Weights & Biases, also where the server does not answer."""

import os
import shutil
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Self

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cmu_lightning.console import say
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.run import Run
from cmu_lightning.experiment.wandb_settings import (
    SPELLINGS,
    Mode,
    destination,
    end_client,
    has_key,
    in_sweep,
    note_silence,
    was_silent,
)

SECONDS_TO_BEGIN = 15.0
"""Longest time that a run waits for the server when it begins; the client adds 10 s of its own."""
SECONDS_TO_END = 15.0
"""Longest time that a run waits for the server when it ends."""
SECONDS_OF_TRIAL = 60.0
"""In place of SECONDS_TO_BEGIN for a trial of a sweep, which has to reach the server."""
PATIENCE = 600.0
"""In place of SECONDS_TO_END for a trial of a sweep, whose result must arrive, and with `log_model`."""


class WandbLogger(LightningWandbLogger):
    """A logger that asks for no key, waits for a server only briefly, and continues offline where there is none.

    In a trial of a sweep a missing server is an error: the sweep would learn nothing.

    Args:
        run: Run whose results are logged.
        job_type: `original` or `unlearn`.
        project: Default WANDB_PROJECT, else cmu_lightning.
        entity: User or team; default WANDB_ENTITY, else yours.
        group: Default the setting.
        tags: To filter by.
        mode: Default WANDB_MODE, else online if there is a key (WANDB_API_KEY, or netrc by `wandb login`).
        log_model: Whether last.ckpt is uploaded as an artifact, if it stays.
    """

    begun: ClassVar[int] = 0
    """Number of W&B runs that this process has begun or tried to begin."""

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
            save_dir=os.environ.get("WANDB_DIR") or run.folder,
            **destination(entity, project),
        )
        self._wandb_init |= {
            "group": group or run.setting,
            "job_type": job_type,
            "tags": tags,
            "mode": mode,
        }
        self._wandb_init.pop("anonymous", None)  # it has no effect but a warning
        if in_sweep():  # the agent has decided where its trials go
            for name in ("project", "entity"):
                self._wandb_init.pop(name)
        self.uploads_model = log_model
        self.stopped = False
        """Whether W&B asked the run to stop, as early termination does."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun when it is first needed.

        Raises:
            UserError: This is a trial of a sweep and the server does not answer.
        """
        if self._experiment is None:
            self._begin()
        return self._experiment

    def _begin(self) -> None:
        """Begin the W&B run online; where that fails, offline."""
        import wandb

        WandbLogger.begun += 1
        place = Path(self._wandb_init["dir"])
        place.mkdir(parents=True, exist_ok=True)
        self._wandb_init["settings"] = wandb.Settings(
            init_timeout=SECONDS_OF_TRIAL if in_sweep() else SECONDS_TO_BEGIN,
            finish_timeout=PATIENCE if in_sweep() or self.uploads_model else SECONDS_TO_END,
            finish_timeout_raises=in_sweep(),
            stop_fn=lambda: self._stop(),  # the client copies its settings; a bound method would copy the logger
        )
        if was_silent() and self._wandb_init["mode"] == "online":
            say("W&B did not answer before: this run is logged offline, too")
            self._wandb_init["mode"] = "offline"
        before, begin = set(place.glob("wandb/run-*")), time.monotonic()
        try:
            _ = super().experiment
        except (wandb.Error, OSError) as error:  # OSError: timeouts
            reason = f"W&B cannot be reached ({first_line(error)})"
            end_client()
            # Remove what the failed attempt left, but not from a folder that other runs may share.
            if not os.environ.get("WANDB_DIR"):
                for dead in set(place.glob("wandb/run-*")) - before:
                    shutil.rmtree(dead, ignore_errors=True)
            if in_sweep():
                raise UserError(
                    f"{reason}, and a sweep's trial needs it: restore the connection and start the agent again"
                ) from error
            note_silence()
            say(f"{reason} after {time.monotonic() - begin:.0f} s: this run is logged offline, for `wandb sync` later")
            self._wandb_init["mode"] = "offline"
            _ = super().experiment

    def _stop(self) -> None:
        """Interrupt the training; W&B's client calls this in a thread of its own."""
        from wandb.sdk.lib.interrupt import interrupt_main

        self.stopped = True
        interrupt_main()  # type: ignore[no-untyped-call]

    @rank_zero_only
    def log_hyperparams(self, params: Any, *arguments: Any, **more: Any) -> None:
        """Do nothing: `describe` logs the config, once.

        Args:
            params: Ignored.
            arguments: Ignored.
            more: Ignored.
        """

    @rank_zero_only
    def describe(self, config: dict[str, Any]) -> None:
        """Log the config; what the sweep has set stays as it is, as W&B refuses to change it.

        Args:
            config: Values by their names.
        """
        own = self.experiment.config
        taken = {key.replace(".init_args", "") for key in own.keys()}  # noqa: SIM118 (it is no dict)
        own.update({key: value for key, value in config.items() if key not in taken})

    def finalize(self, status: str) -> None:
        """End the W&B run if training failed; after a success results are still to come.

        Args:
            status: Lightning's word for how training ended.
        """
        if status != "success":
            self.finish(0 if self.stopped else 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self.finish(0 if kind is None else 1)

    def finish(self, code: int) -> None:
        """End the W&B run, if there is one, and wait a limited time until everything is sent.

        Args:
            code: Exit code of the run.

        Raises:
            UserError: This is a trial of a sweep that did not fail, and the server did not take its results.
        """
        if self._experiment is None:
            return
        experiment, self._experiment, begin = self._experiment, None, time.monotonic()
        try:
            experiment.finish(exit_code=code)
        except TimeoutError as error:
            end_client()
            if code == 0:
                raise UserError(
                    f"W&B did not take the results of this trial within {time.monotonic() - begin:.0f} s; they are in "
                    f"{self.save_dir}: start the agent again, and the trial logs them"
                ) from error
        if (waited := time.monotonic() - begin) > SECONDS_TO_END:
            say(f"W&B: the end of this run took {waited:.0f} s; what was not sent is in {self.save_dir}/wandb")


def report_refusal(reason: str) -> None:
    """Begin the W&B run of a trial and end it as failed, with the reason as `refused` in its summary.

    Do nothing outside of a sweep, or where the server cannot be used.

    Args:
        reason: Why the trial was refused before it began.
    """
    is_online = SPELLINGS.get(os.environ.get("WANDB_MODE") or "online") == "online"
    is_reachable = in_sweep() and has_key() and is_online
    if not is_reachable or getattr(rank_zero_only, "rank", None):
        return
    import wandb

    with TemporaryDirectory() as place, suppress(wandb.Error, OSError):
        settings = wandb.Settings(init_timeout=SECONDS_OF_TRIAL, finish_timeout=SECONDS_OF_TRIAL)
        run = wandb.init(dir=place, settings=settings)
        run.summary["refused"] = reason
        run.finish(exit_code=2)
