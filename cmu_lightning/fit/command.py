"""The command line of `fit` and `test`."""

import signal
import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.fit.cli import CLI
from cmu_lightning.fit.complaints import one_sentence
from cmu_lightning.fit.console import quiet, user_mistake
from cmu_lightning.fit.options import HelpfulParser
from cmu_lightning.parsing import PROGRAM, find_configs, read_env
from cmu_lightning.screen import say
from cmu_lightning.tracking.logger import WandbLogger
from cmu_lightning.tracking.refusal import report_refusal
from cmu_lightning.unlearning import Stage

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
