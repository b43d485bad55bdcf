"""The commands `fit` and `test`."""

import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LambdaCallback, ProgressBar
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.cli.messages import silence_notices, user_mistake
from cmu_lightning.cli.options import Options
from cmu_lightning.console import NOTES, say
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint, WriteConfig
from cmu_lightning.experiment.execute import Job
from cmu_lightning.experiment.identity import digest, digest_sources, identity, warn_of_edited_sources
from cmu_lightning.experiment.ledger import record_run
from cmu_lightning.experiment.originals import original_at, original_of_config
from cmu_lightning.experiment.processes import EndOnSigterm, prepare_processes
from cmu_lightning.experiment.results import (
    describe_sizes,
    describe_source,
    find_differences,
    measure_discovery,
    print_columns,
    splits_statistics,
)
from cmu_lightning.experiment.run import ROWS, Run, choose_runs_dir, is_on_demand, read_metrics
from cmu_lightning.experiment.wandb_logger import WandbLogger, report_refusal
from cmu_lightning.experiment.wandb_publish import Publish, publish_results
from cmu_lightning.experiment.wandb_settings import choose_mode, one_silence
from cmu_lightning.parsing import find_configs, name_config, read_env
from cmu_lightning.unlearning import Stage, Unlearner
from cmu_lightning.unlearning.checkpoint import load_network, read_checkpoint
from cmu_lightning.unlearning.progress import progress
from cmu_lightning.unlearning.stage import RECORD


class CLI(Options):
    """LightningCLI whose `fit` runs a stage in its own run folder, and whose `test` measures a checkpoint again.

    Args:
        arguments: Words of the command line, beginning with the command, configs as paths that exist.
    """

    code = 0
    """Exit code of a command that ran to its end."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Return the Trainer; for `fit` it logs and keeps its checkpoints in the run's folder.

        Args:
            kwargs: Ignored, as the options of `trainer` are read from the config.

        Raises:
            UserError: The options of `trainer` do not fit together or do not fit this machine.
        """
        config = self.config_init[self.subcommand].trainer
        asked = config.callbacks or []
        callbacks = list(asked) if isinstance(asked, list) else [asked]
        is_shown = any(isinstance(callback, ProgressBar) for callback in callbacks)  # by one that a user asks for
        if config.enable_progress_bar is not False and not is_shown:
            callbacks.append(progress())
        loggers: Any = False
        if self.subcommand == "fit":
            self._identify()
            callbacks += self._own_callbacks()
            loggers = self._all_loggers(config.logger)
        callbacks.append(EndOnSigterm())
        try:
            trainer = super().instantiate_trainer(
                logger=loggers,
                callbacks=callbacks,
                enable_checkpointing=self.subcommand == "fit",
                gradient_clip_val=config.gradient_clip_val if self.model.trains else None,
            )
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            options = ", ".join(f"{name}={config[name]}" for name in ("accelerator", "devices", "strategy"))
            raise UserError(
                f"the Trainer cannot be made ({options}): {str(error).rstrip('.')}; change the options of trainer"
            ) from error
        prepare_processes(trainer)
        return trainer

    def _identify(self) -> None:
        """Find out which run this is, which original it starts from, and whether W&B logs it."""
        config = self.config[self.subcommand]
        self.resolved = self._resolve()
        digest_sources(self.resolved)  # of the current files, before a user edits them
        runs_dir = choose_runs_dir(config.runs_dir)
        deletion, content = self.datamodule.deletion_arguments, self.datamodule.content()
        splits = splits_statistics(self.resolved["trainer"], self.model.network)
        self.original: Run | None = None
        if isinstance(self.model, Unlearner) and self.model.original:
            self.original = original_at(self.model.original, runs_dir, self.model.original_key)
        elif isinstance(self.model, Unlearner):
            self.original = original_of_config(self.resolved, deletion, runs_dir, content, splits)
        original = self.original.hash if self.original else None
        splits = splits and self.model.trains
        run_hash = digest(identity(self.resolved, self.model.uses, deletion, original, content, splits))
        # A folder's name begins with the seed by which a run is asked for.
        seed = config.seed_everything if self.original else config.original_seed
        self.run = Run.at(runs_dir, config.setting, type(self.model).__name__, seed, run_hash)
        options = config.wandb.as_dict() | {"mode": choose_mode(config.wandb.mode)}
        is_logged = options["mode"] in ("online", "offline")
        job_type = "unlearn" if self.original else "original"
        # The fraction that a list or a detector finds is known only after the data have been read.
        is_known = self.original is not None and self.datamodule.discovery is None
        identified = self.datamodule.identified if is_known else None
        self.wandb = WandbLogger(self.run, job_type, identified, **options) if is_logged else None

    def _resolve(self) -> dict[str, Any]:
        """Return the resolved config, which gives the same numbers when it is run again, as plain data."""
        resolved: dict[str, Any] = deepcopy(self.config_dump)
        for key in ("config", "ckpt_path"):
            resolved.pop(key, None)
        # The parser links the setting's network and procedure into the stage; they are stored once.
        for key in ("network", "procedure"):
            resolved["model"]["init_args"].pop(key, None)
        return resolved

    def _own_callbacks(self) -> list[Callback]:
        """Return the callbacks that keep a run's files, its entry in the ledger and its page on W&B."""
        callbacks: list[Callback] = [
            WriteConfig(self.run.config, self.resolved),
            LastCheckpoint(self.run.checkpoint),
            LambdaCallback(on_fit_start=lambda *_: self._record()),
            LambdaCallback(on_fit_start=lambda *_: say(describe_sizes(self.model))),
        ]
        if self.wandb is not None:
            callbacks.append(Publish(self.wandb, self.resolved, self.run, self.original))
        return callbacks

    def _all_loggers(self, asked: Any) -> list[Logger]:
        """Return the run's CSV files, the loggers that the config asks for, and W&B's."""
        rows = CSVLogger(self.run.folder, name=ROWS, flush_logs_every_n_steps=1)  # a sweep reads them during the run
        # `true` is Lightning's own choice of a logger, which would be such rows again.
        given = [each for each in (asked if isinstance(asked, list) else [asked]) if isinstance(each, Logger)]
        return [rows, *given, *([] if self.wandb is None else [self.wandb])]

    def fit(self, model: Stage, datamodule: CorruptedDataModule, ckpt_path: str | None = None) -> None:
        """Execute the remaining part of the run, and print its results next to the original's.

        Args:
            model: Stage to run.
            datamodule: Data of the stage.
            ckpt_path: Checkpoint to resume; default the run's last one.
        """
        model.compiles = self.config[self.subcommand].compile
        if self.run.metrics is None:
            say(describe_source(datamodule))
        job = Job(self.trainer, model, datamodule, self.run, self.original, self.resolved)
        try:
            with one_silence(), self.wandb or nullcontext():
                was_finished = job.execute(ckpt_path)
                is_published = was_finished and is_on_demand()  # by the process that made it
                if self.wandb and self.trainer.is_global_zero and not is_published:
                    publish_results(self.wandb, self.resolved, self.run)
        except SystemExit as ended:
            if self.wandb and self.wandb.stopped:
                say(f"W&B stopped this run: run the same command again to continue with {self.run.folder}")
                return
            if isinstance(ended, SIGTERMException) or not self.trainer.interrupted:
                raise
            say("interrupted: run the same command again to continue")
            raise SystemExit(128 + signal.SIGINT) from None
        self._record()
        if self.trainer.is_global_zero:
            self._print_results(was_finished)

    def _record(self) -> None:
        """Record in the ledger which run belongs to this command line, before training and after it."""
        if self.trainer.is_global_zero:
            data, original = self.datamodule, self.resolved["model"]["init_args"].get("original")
            # The files that a user names may have other content when the command is given again.
            may_change = bool(original or data.content() or not data.is_vouched_for)
            record_run(self.key, self.run, may_change)

    def _print_results(self, was_finished: bool) -> None:
        """Print the results, and warn of surprises: edited classes, an S_f that has no effect."""
        columns = {} if self.original is None else {"Original": self.original.metrics or {}}
        columns[self.run.method] = self.run.metrics or {}
        if was_finished:
            warn_of_edited_sources(self.run, self.resolved)
        note = " (was finished before)" if was_finished else ""
        print_columns(f"{self.run.setting}: {self.run.folder}{note}", columns)
        data = self.resolved["data"]["init_args"]
        if self.original is None and not is_on_demand() and (data.get("identified", 1) != 1 or data.get("discovery")):
            say("this is the original, of which no S_f is a part: to unlearn, add a method, such as unlearn/cf.yaml")

    def test(self, model: Stage, datamodule: CorruptedDataModule, ckpt_path: str | None = None) -> None:
        """Measure a checkpoint again, print the numbers next to those in its folder, and write nothing.

        Args:
            model: Stage of the run.
            datamodule: Data of the run.
            ckpt_path: The run's `last.ckpt`.

        Raises:
            UserError: There is no checkpoint, or it belongs to another run than the config.
        """
        if ckpt_path is None:
            raise UserError("test needs a checkpoint: give --ckpt_path RUN/last.ckpt")
        content = read_checkpoint(ckpt_path)
        if RECORD not in content:
            raise UserError(f"{ckpt_path} belongs to no run of this project: give the last.ckpt of a run")
        if content[RECORD]["method"] != type(model).__name__ or type(datamodule).__qualname__ not in content:
            raise UserError(f"{ckpt_path} belongs to another run than the config: give the config.yaml in its folder")
        load_network(model.network, content, ckpt_path)
        self.trainer.test(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)
        if not self.trainer.is_global_zero:
            return
        stored = read_metrics(Path(ckpt_path).parent)
        now = model.results | (measure_discovery(datamodule) if model.unlearns else {})
        print_columns(ckpt_path, {"now": now} if stored is None else {"metrics.json": stored, "now": now})
        if stored is not None and (names := find_differences(now, stored)):
            sys.stderr.write(f"not the stored numbers: {', '.join(names)}\n")
            self.code = 1


def main(arguments: Sequence[str], kind: type[CLI] = CLI) -> int:
    """Run `fit` or `test`.

    Args:
        arguments: Words of the command line, beginning with the command.
        kind: Class that runs the command.

    Returns:
        The exit code: 0, 2 for a mistake of the user, which one sentence describes, 1 for numbers that `test` does
        not find again, or 143 if SIGTERM ended a run that can be continued.
    """
    silence_notices()
    NOTES.clear()
    begun = WandbLogger.begun
    try:
        read_env()
        given = find_configs(name_config(list(arguments)))
        with _launcher_repeats(given):
            cli = kind(given)
    except SIGTERMException:
        say("stopped by SIGTERM: run the same command again to continue")
        return 128 + signal.SIGTERM
    except Exception as error:
        sentence = user_mistake(error)
        if sentence is None:
            raise
        sys.stderr.write(f"error: {sentence}\n")
        if WandbLogger.begun == begun:  # else W&B has a run of this trial, which has failed
            report_refusal(sentence)
        return 2
    return cli.code


@contextmanager
def _launcher_repeats(arguments: list[str]) -> Iterator[None]:
    """Let Lightning start the other processes of a DDP job with this command.

    Its launcher builds their command line from two globals, `__main__.__spec__` and `sys.argv`. Where `main` is called
    from Python, as in a notebook or a test, these belong to another program, so both are set here and nowhere else.

    Args:
        arguments: Words after `python -m cmu_lightning`.
    """
    main_module: Any = sys.modules["__main__"]
    before = main_module.__spec__, sys.argv
    main_module.__spec__, sys.argv = find_spec("cmu_lightning.__main__"), ["cmu_lightning", *arguments]
    try:
        yield
    finally:
        main_module.__spec__, sys.argv = before
