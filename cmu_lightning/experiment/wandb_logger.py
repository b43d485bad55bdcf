"""The logger of a run on Weights & Biases, which also works if the server does not answer."""

import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self

from lightning.fabric.loggers.logger import _DummyExperiment, rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger as LightningWandbLogger
from lightning.pytorch.utilities import rank_zero_only

from cmu_lightning.console import say
from cmu_lightning.errors import UserError, first_line
from cmu_lightning.experiment.run import Run
from cmu_lightning.experiment.wandb_settings import (
    SPELLINGS,
    Mode,
    check_environment,
    check_logging,
    end_client,
    has_key,
    in_sweep,
    note_silence,
    was_silent,
)
from cmu_lightning.files import temporary_folder

SECONDS_TO_BEGIN = 15.0
"""Longest time that a run waits for the server when it begins; the client adds another 10 s."""
SECONDS_TO_END = 15.0
"""Longest time that a run waits for the server when it ends."""
SECONDS_OF_TRIAL = 60.0
"""Replaces SECONDS_TO_BEGIN for a trial of a sweep, which must reach the server."""
PATIENCE = 600.0
"""Replaces SECONDS_TO_END for a trial of a sweep, whose result must arrive, and with `log_model`."""


class WandbLogger(LightningWandbLogger):
    """A logger that asks for no key, waits only briefly for a server, and continues offline without one.

    The run continues without W&B's client if it fails later: `attempt` is the only way to the client. In a trial of
    a sweep a missing server is an error, at the end of the run if not before: the sweep would learn nothing.

    Args:
        run: Run whose results are logged.
        job_type: `original` or `unlearn`.
        identified: Fraction of S_m, as far as it is known before the data are read.
        project: Default WANDB_PROJECT, else cmu_lightning.
        entity: User or team; default WANDB_ENTITY, else yours.
        group: Default the setting.
        tags: To filter by.
        mode: Default WANDB_MODE, else online if there is a key (WANDB_API_KEY, or netrc by `wandb login`).
        log_model: Whether last.ckpt is uploaded as an artifact, if it stays.

    Raises:
        UserError: W&B's client would refuse an option or an environment variable.
    """

    begun: ClassVar[int] = 0
    """Number of W&B runs that this process has begun or tried to begin."""

    def __init__(
        self,
        run: Run,
        job_type: str,
        identified: float | None = None,
        project: str | None = None,
        entity: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        mode: Mode | None = None,
        log_model: bool = False,
    ) -> None:
        check_environment()
        place = check_logging(project, entity, group, tags)
        self.run, self.name_at_start = run, run_name(run, identified)
        super().__init__(
            name=self.name_at_start,
            save_dir=os.environ.get("WANDB_DIR") or run.folder,
            **place,
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
        self.failure: str | None = None
        """Why W&B's client is no longer used; None while it is used."""

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, begun when it is first needed.

        Raises:
            UserError: This is a trial of a sweep and the server does not answer.
        """
        if self._experiment is None and self.failure is None:
            self._begin()
        return _DummyExperiment() if self.failure is not None else self._experiment

    def attempt(self, action: Callable[[], object]) -> None:
        """Call the client; if that fails, stop using the client in this run.

        Args:
            action: What is done. It may use `experiment`.

        Raises:
            UserError: This is a trial of a sweep and the server does not answer.
        """
        if self.failure is not None:
            return
        try:
            action()
        except UserError:
            raise
        except Exception as error:  # the client raises anything when its service is gone or the server sends nonsense
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Continue without the client, and say so."""
        if self.failure is not None:
            return
        import wandb
        from wandb.sdk.lib.module import unset_globals

        self.failure = first_line(error) or type(error).__name__
        dead: Any = self._experiment
        self._experiment = None
        # Ending the run at least restores standard output; a new run must not mistake the old one for its own.
        with suppress(Exception):
            dead.finish(exit_code=1)
        if wandb.run is dead:
            unset_globals()  # type: ignore[no-untyped-call]
        end_client()
        if not in_sweep():
            say(
                f"W&B's client has failed ({self.failure}): this run continues without it; run the same command again "
                "after its end to log its results"
            )

    @rank_zero_only
    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log numbers.

        Args:
            metrics: Numbers by their names.
            step: Step of the numbers.
        """
        self.attempt(lambda: super(WandbLogger, self).log_metrics(metrics, step))

    def _begin(self) -> None:
        """Begin the W&B run online or, if that fails, offline."""
        import wandb

        WandbLogger.begun += 1
        place = Path(self._wandb_init["dir"])
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
            place.mkdir(parents=True, exist_ok=True)
            _ = super().experiment
        except Exception as error:  # of W&B's own; timeouts; and anything where the server's answer is nonsense
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
            try:
                _ = super().experiment
            except Exception as again:
                self._give_up(again)

    def _stop(self) -> None:
        """Interrupt the training; W&B's client calls this in a separate thread."""
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
        """Log the config, and name the run after the fraction that a list or a detector has found.

        Values that the sweep has set stay unchanged because W&B refuses to change them.

        Args:
            config: Values by their names.
        """

        def update() -> None:
            own = self.experiment.config
            taken = {key.replace(".init_args", "") for key in own.keys()}  # noqa: SIM118 (it is no dict)
            own.update({key: value for key, value in config.items() if key not in taken})
            if (name := run_name(self.run, config.get("identified"))) != self.name_at_start:
                self.experiment.name = name

        self.attempt(update)

    def finalize(self, status: str) -> None:
        """End the W&B run if training failed; after a success results are still to come.

        Args:
            status: Lightning's name for how training ended.
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
        if self.failure is not None and in_sweep() and code == 0:
            reason, self.failure = self.failure, None
            raise UserError(
                f"W&B's client has failed ({reason}) and did not take the results of this trial; they are in "
                f"{self.save_dir}: start the agent again, and the trial logs them"
            )
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
        except Exception as error:
            self._give_up(error)
            self.finish(code)
        if (waited := time.monotonic() - begin) > SECONDS_TO_END:
            say(f"W&B: the end of this run took {waited:.0f} s; what was not sent is in {self.save_dir}/wandb")


def run_name(run: Run, identified: float | None) -> str:
    """Return the name by which W&B lists a run.

    Args:
        run: The run.
        identified: Fraction of S_m; None where there is none, or it is not known yet.

    >>> run_name(Run.at(Path("runs"), "mine", "SSD", 0, "0123456789"), 0.1)
    'SSD 0.1 seed 0'
    """
    seed = run.folder.name.partition("-")[0]
    return " ".join([run.method, *([] if identified is None else [f"{identified:.3g}"]), f"seed {seed}"])


def report_refusal(reason: str) -> None:
    """Begin the W&B run of a trial and end it as failed, with the reason as `refused` in its summary.

    Do nothing outside a sweep, or if the server cannot be used.

    Args:
        reason: Why the trial was refused before it began.
    """
    is_online = SPELLINGS.get(os.environ.get("WANDB_MODE") or "online") == "online"
    is_reachable = in_sweep() and has_key() and is_online
    if not is_reachable or getattr(rank_zero_only, "rank", None):
        return
    import wandb

    with temporary_folder() as place, suppress(Exception):
        settings = wandb.Settings(init_timeout=SECONDS_OF_TRIAL, finish_timeout=SECONDS_OF_TRIAL)
        run = wandb.init(dir=str(place), settings=settings)
        run.summary["refused"] = reason
        run.finish(exit_code=2)
