"""Parse a command line of `fit` as far as a run would begin, in a worker process: this module imports torch."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch import Trainer

from cmu_lightning.cli.fit import CLI, main
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.experiment.wandb_settings import check_logging
from cmu_lightning.unlearning import Stage

PARSERS = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
"""Attributes that LightningCLI sets when it builds its parsers."""


class ParseOnly(CLI):
    """The command line of `fit` that makes all objects of a run, on any machine, and runs nothing.

    Args:
        arguments: Words of the command line, beginning with `fit`.
    """

    parsers: ClassVar[dict[str, Any]] = {}
    """The parsers of the first command line, which parse all other command lines of this process."""

    def __init__(self, arguments: Sequence[str]) -> None:
        # Support for load_from_checkpoint dumps the whole config twice, which takes as long as parsing it.
        super().__init__(arguments, load_from_checkpoint_support=False)

    def setup_parser(self, *arguments: Any) -> None:
        """Build the parsers once.

        Args:
            arguments: As LightningCLI passes them; equal for all command lines of `fit`.
        """
        if not self.parsers:
            super().setup_parser(*arguments)
            self.parsers.update({name: getattr(self, name) for name in PARSERS})
        vars(self).update(self.parsers)

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Return a trainer that needs none of the run's devices, if W&B takes the run's options for it.

        Args:
            options: Of the run's own trainer; not used.

        Raises:
            UserError: W&B's client would refuse an option.
        """
        given = self.config[self.subcommand].wandb
        # Without any option its client need not be imported.
        if given.mode != "disabled" and (given.project or given.entity or given.group or given.tags):
            check_logging(given.project, given.entity, given.group, given.tags)
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)

    def fit(self, model: Stage, datamodule: CorruptedDataModule, ckpt_path: str | None = None) -> None:
        """Run nothing.

        Args:
            model: Made from the command line.
            datamodule: Made from the command line.
            ckpt_path: From the command line.
        """


def find_mistake(arguments: list[str]) -> str | None:
    """Return the sentence with which `fit` refuses a command line, or None if it accepts it.

    Args:
        arguments: After `python -m cmu_lightning`.
    """
    errors = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
        code = main(arguments, ParseOnly)
    last = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")][-1:]
    return "".join(last).removeprefix("error: ") if code else None
