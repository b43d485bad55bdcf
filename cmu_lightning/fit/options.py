"""What `fit` and `test` can be told, as options of LightningCLI."""

import sys
from argparse import Action
from collections.abc import Callable
from typing import Any, Literal

import torch
import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from cmu_lightning.fit.settling import refuse_impossible, settle
from cmu_lightning.fit.spelling import as_taken
from cmu_lightning.parsing import PROGRAM
from cmu_lightning.runs.notes import note_name
from cmu_lightning.tracking.logger import WandbLogger
from cmu_lightning.unlearning import Procedure
from cmu_lightning.unlearning.checkpoint import read_checkpoint


class Help(DefaultHelpFormatter):
    """Leaves out the hundreds of torch's modules among which a network could be, and which bury a method's options."""

    def _get_help_string(self, action: Action) -> str:
        text: str = super()._get_help_string(action)
        kept, many, _ = text.partition(", known subclasses: torch.nn.Module")
        return f"{kept})" if many else text


class HelpfulParser(LightningArgumentParser):
    """Of the command and of its classes.

    Args:
        options: Of LightningArgumentParser.
    """

    def __init__(self, **options: Any) -> None:
        own: dict[str, Any] = {"formatter_class": Help, "prog": PROGRAM}
        super().__init__(**own | options)


class Options(LightningCLI):
    """Settings, and what is refused before anything is made of them."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """`fit` and `test`, without the arguments that this class fills in; the one alone that is asked for."""
        skipped = {"model", "datamodule", "weights_only"}
        known = {
            "fit": skipped | {"train_dataloaders", "val_dataloaders"},
            "test": skipped | {"dataloaders", "verbose"},
        }
        asked = sys.argv[1] if len(sys.argv) > 1 else None
        return {asked: known[asked]} if asked in known else known

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """LightningCLI's would take true for a random seed."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Of everything that has no seed of its own.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """What a setting file states beside its data, and where runs go."""
        parser.add_argument("--setting", type=str, required=True, help="Name of the setting.")
        parser.add_argument("--network", type=Callable[[], nn.Module], required=True, help="The original's network.")
        parser.add_class_arguments(Procedure, "procedure")
        parser.add_argument("--original_seed", type=int | None, help="Of the original; default seed_everything.")
        parser.add_argument("--runs_dir", type=str | None, help="Default: CMU_RUNS_DIR, else ./runs.")
        parser.add_argument(
            "--checkpoints",
            type=Literal["all", "chosen", "none", "until_chosen"],
            default="all",
            help="Whose weights stay: every run's, those of originals, none, or all until a sweep has chosen.",
        )
        parser.add_class_arguments(WandbLogger, "wandb", instantiate=False, skip={"run", "job_type"})
        parser.add_argument("--threads", type=int | None, help="CPU threads; default torch's choice.")
        parser.add_argument(
            "--compile", type=bool, default=False, nargs="?", const=True, help="Train with torch.compile: pays on GPUs."
        )
        parser.link_arguments("network", "model.init_args.network")
        parser.link_arguments("procedure", "model.init_args.procedure", apply_on="instantiate")
        parser.set_defaults({"model": "Original"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Refuse what LightningCLI would trip over."""
        self.asked = note_name(sys.argv[2:])  # before its configs are edited for the next run
        self.config = parser.parse_args(as_taken(sys.argv[1:]))
        config = self.config[self.config.subcommand]
        refuse_impossible(config)
        if config.ckpt_path is not None:
            read_checkpoint(config.ckpt_path)

    def before_instantiate_classes(self) -> None:
        """Settle what was left open, so that the saved config leaves nothing open."""
        config = self.config[self.subcommand]
        settle(config, self._plain)
        torch.set_num_threads(config.threads)

    def _plain(self) -> dict[str, Any]:
        """The config as plain data, nothing left out."""
        config = self.config[self.subcommand]
        plain: dict[str, Any] = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False))
        return plain
