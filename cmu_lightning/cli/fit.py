"""The commands `fit` and `test`."""

import os
import signal
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LambdaCallback
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.cli.messages import one_sentence, quiet, user_mistake
from cmu_lightning.cli.options import HelpfulParser, Options
from cmu_lightning.console import say
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.callbacks import LastCheckpoint, WriteConfig
from cmu_lightning.experiment.execute import Job
from cmu_lightning.experiment.identity import digest, identity, own_sources, say_what_changed
from cmu_lightning.experiment.ledger import remember
from cmu_lightning.experiment.originals import original_at, original_of_config
from cmu_lightning.experiment.results import differences, of_discovery, show
from cmu_lightning.experiment.run import ON_DEMAND, ROWS, Run, choose_runs_dir, read_metrics
from cmu_lightning.experiment.wandb_logger import WandbLogger, report_refusal
from cmu_lightning.experiment.wandb_publish import Publish, publish_results
from cmu_lightning.experiment.wandb_settings import choose_mode, one_silence
from cmu_lightning.parsing import PROGRAM, find_configs, read_env
from cmu_lightning.unlearning import Stage, Unlearner
from cmu_lightning.unlearning.checkpoint import load_network, read_checkpoint
from cmu_lightning.unlearning.progress import progress
from cmu_lightning.unlearning.stage import RECORD


class CLI(Options):
    """LightningCLI with settings, run folders and originals on demand."""

    code = 0
    """Exit code of a command that ran."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """A trainer that logs and keeps checkpoints in the run's folder."""
        config = self.config_init[self.subcommand].trainer
        asked = config.callbacks or []
        callbacks = list(asked) if isinstance(asked, list) else [asked]
        if config.enable_progress_bar is not False:
            callbacks.append(progress())
        logger: Any = False
        if self.subcommand == "fit":
            self._identify()
            given = config.logger if isinstance(config.logger, list) else [config.logger]
            rows = CSVLogger(self.run.folder, name=ROWS, flush_logs_every_n_steps=1)  # a sweep looks at the curves
            logger = [rows, *(one for one in given if one)]
            callbacks += [WriteConfig(self.run.config, self.resolved), LastCheckpoint(self.run.checkpoint)]
            callbacks.append(LambdaCallback(on_fit_start=lambda *_: self._remember()))
            if self.wandb is not None:
                logger.append(self.wandb)
                callbacks.append(Publish(self.wandb, self.resolved, self.run, self.original))
        try:
            return super().instantiate_trainer(
                logger=logger,
                callbacks=callbacks,
                enable_checkpointing=self.subcommand == "fit",
                gradient_clip_val=config.gradient_clip_val if self.model.trains else None,
            )
        except (ValueError, TypeError, RuntimeError, MisconfigurationException) as error:
            asked_for = ", ".join(f"{name}={config[name]}" for name in ("accelerator", "devices", "strategy"))
            raise UserError(
                f"the Trainer cannot be made ({asked_for}): {str(error).rstrip('.')}; change the options of trainer"
            ) from error

    def _identify(self) -> None:
        """Which run this is, and which its original."""
        config = self.config[self.subcommand]
        self.resolved = deepcopy(self.config_dump)
        for key in ("config", "ckpt_path"):
            self.resolved.pop(key, None)
        for key in ("network", "procedure"):  # which are the setting's
            self.resolved["model"]["init_args"].pop(key, None)
        own_sources(self.resolved)  # as they are now, and not when the run has ended
        runs_dir = choose_runs_dir(config.runs_dir)
        deletion, content = self.datamodule.deletion_arguments, self.datamodule.content()
        self.original: Run | None = None
        if isinstance(self.model, Unlearner):
            given = self.model.original
            self.original = (
                original_at(given, runs_dir)
                if given
                else original_of_config(self.resolved, deletion, runs_dir, content)
            )
        original = self.original.hash if self.original else None
        named = digest(identity(self.resolved, self.model.uses, deletion, original, content))
        seed = config.seed_everything if self.original else config.original_seed
        self.run = Run.at(runs_dir, config.setting, type(self.model).__name__, seed, named)
        job_type = "unlearn" if self.original else "original"
        options = config.wandb.as_dict() | {"mode": choose_mode(config.wandb.mode)}
        on = options["mode"] in ("online", "offline")
        self.wandb = WandbLogger(self.run, job_type, **options) if on else None

    def fit(self, model: Stage, datamodule: CorruptedDataModule, ckpt_path: str | None = None) -> None:
        """Train, unless that is done; measure, unless that is done; and show the results beside the original's."""
        model.compiles = self.config[self.subcommand].compile
        job = Job(self.trainer, model, datamodule, self.run, self.original, self.resolved)
        try:
            with one_silence(), self.wandb or nullcontext():
                was_finished = job.do(ckpt_path)
                told = was_finished and ON_DEMAND in os.environ  # by the process that made it
                if self.wandb and self.trainer.is_global_zero and not told:
                    publish_results(self.wandb, self.resolved, self.run)
        except SystemExit as ended:
            if self.wandb and self.wandb.stopped:
                say(f"W&B stopped this run: the same command again goes on with {self.run.folder}")
                return
            if isinstance(ended, SIGTERMException) or not self.trainer.interrupted:
                raise
            say("interrupted: the same command again goes on")
            raise SystemExit(128 + signal.SIGINT) from None
        self._remember()
        if self.trainer.is_global_zero:
            columns = {} if self.original is None else {"Original": self.original.metrics or {}}
            columns[self.run.method] = self.run.metrics or {}
            note = " (was finished before)" if was_finished else ""
            if was_finished:
                say_what_changed(self.run, self.resolved)
            show(f"{self.run.setting}: {self.run.folder}{note}", columns)
            self._say_what_is_unused()

    def _say_what_is_unused(self) -> None:
        """An original that somebody asked for with an S_f: they may have left the method out."""
        data = self.resolved["data"]["init_args"]
        if self.original is None and ON_DEMAND not in os.environ and (data["identified"] != 1 or data["discovery"]):
            say("this is the original, of which no S_f is a part: to unlearn, add a method, such as unlearn/cf.yaml")

    def _remember(self) -> None:
        """Note which run this command line leads to, even before it has finished."""
        if self.trainer.is_global_zero:
            data, given = self.datamodule, self.resolved["model"]["init_args"].get("original")
            remember(self.asked, self.run, bool(given or data.content() or not data.is_vouched_for))

    def test(self, model: Stage, datamodule: CorruptedDataModule, ckpt_path: str | None = None) -> None:
        """Measure a checkpoint again, beside the metrics.json in its folder; write nothing."""
        if ckpt_path is None:
            raise UserError("test needs a checkpoint: give --ckpt_path RUN/last.ckpt")
        content = read_checkpoint(ckpt_path)
        if RECORD not in content:
            raise UserError(f"{ckpt_path} is of no run of this project: give the last.ckpt of a run")
        if content[RECORD]["method"] != type(model).__name__ or type(datamodule).__qualname__ not in content:
            raise UserError(f"{ckpt_path} is of another run than the config: give the config.yaml beside it")
        load_network(model.network, content, ckpt_path)
        self.trainer.test(model, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True, verbose=False)
        if not self.trainer.is_global_zero:
            return
        stored = read_metrics(Path(ckpt_path).parent)
        now = model.results | (of_discovery(datamodule) if model.unlearns else {})
        show(ckpt_path, {"now": now} if stored is None else {"metrics.json": stored, "now": now})
        if stored is not None and (names := differences(now, stored)):
            sys.stderr.write(f"not the stored numbers: {', '.join(names)}\n")
            self.code = 1


STRICT: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
TRAINER_DEFAULTS = {
    "max_epochs": 1,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "val_check_interval": 100,
    "enable_model_summary": False,
}


def main(arguments: Sequence[str] | None = None, kind: type[CLI] = CLI) -> int:
    """Run the command line.

    Args:
        arguments: Default those of the process.
        kind: Decides what is done with them.

    Returns:
        The exit code: 0, 2 for what a user did wrong, which is said in one sentence, 1 for numbers that `test` does
        not find again, or 143 if SIGTERM ended a run that can go on.
    """
    quiet()
    begun = WandbLogger.begun
    try:
        read_env()
        given = find_configs(sys.argv[1:] if arguments is None else list(arguments))
        sys.argv[1:] = given  # Lightning starts further processes with it
        cli = kind(
            Stage,
            CorruptedDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_class=HelpfulParser,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs=STRICT | {"prog": PROGRAM} | {name: STRICT.copy() for name in kind.subcommands()},
        )
    except SIGTERMException:
        say("stopped by SIGTERM: the same command again goes on")
        return 128 + signal.SIGTERM
    except Exception as error:
        said = user_mistake(error)
        if said is None:
            raise
        _refuse(one_sentence(said), WandbLogger.begun == begun)
        return 2
    return cli.code


def _refuse(sentence: str, unlogged: bool) -> None:
    """Say what a user did wrong; on W&B too, where a sweep waits for a trial that has logged nothing."""
    sys.stderr.write(f"error: {sentence}\n")
    if unlogged:
        report_refusal(sentence)
