"""The options of `fit` and `test`, and their parser."""

import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable, Sequence
from inspect import isabstract, isclass
from typing import Any

import torch
import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from cmu_lightning import data, models, unlearning
from cmu_lightning.cli.messages import SHORT_NAMES
from cmu_lightning.cli.spelling import normalize
from cmu_lightning.cli.values import STRICT, check_values, fill_defaults
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.experiment.ledger import command_key
from cmu_lightning.experiment.wandb_logger import WandbLogger
from cmu_lightning.models.admitted import check_names, protect_parser
from cmu_lightning.parsing import PROGRAM, attached
from cmu_lightning.unlearning import Procedure, Stage, Unlearner
from cmu_lightning.unlearning.checkpoint import read_checkpoint

TRAINER_DEFAULTS = {
    "max_epochs": 1,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "val_check_interval": 100,
    "enable_model_summary": False,
}


class Help(DefaultHelpFormatter):
    """The formatter of `--help`, without the lists that would bury a method's options."""

    def _get_help_string(self, action: Action) -> str:
        text: str = super()._get_help_string(action)
        # A network may be any of torch's hundreds of modules.
        kept, is_cut, _ = text.partition(", known subclasses: torch.nn.Module")
        # The name of the option is followed by its choices, which say more than their type.
        return f"{kept})" if is_cut else text.replace("type: %(type)s, ", "") if action.choices else text


class HelpfulParser(LightningArgumentParser):
    """The parser of a command, and of each class that its options name.

    Args:
        options: Arguments of LightningArgumentParser.
    """

    def __init__(self, **options: Any) -> None:
        own: dict[str, Any] = {"formatter_class": Help, "prog": PROGRAM}
        super().__init__(**own | options)


def _show_one_half(parser: LightningArgumentParser, is_trainer: bool) -> None:
    """Show either only the Trainer's options in the help, or all others: together they fill ten screens.

    Args:
        parser: Parser of a command.
        is_trainer: Whether the Trainer's options are shown.
    """
    for action in parser._actions:
        if (action.dest.partition(".")[0] == "trainer") != is_trainer:
            action.help = SUPPRESS
    if not is_trainer:
        parser.epilog = "Options of Lightning's Trainer, --trainer.NAME: --help trainer lists them."


class Options(LightningCLI):
    """LightningCLI with this project's options; values that cannot work are refused before any class is made.

    Args:
        arguments: Words of the command line, beginning with the command, configs as paths that exist.
        options: Further arguments of LightningCLI.
    """

    def __init__(self, arguments: Sequence[str], **options: Any) -> None:
        self.arguments = list(arguments)
        super().__init__(
            Stage,
            CorruptedDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            parser_class=HelpfulParser,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs=STRICT | {"prog": PROGRAM} | {name: STRICT.copy() for name in self.subcommands()},
            args=self.arguments,
            **options,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]  # static there, and always called on self
        """Return `fit` and `test`, each with the arguments of the Trainer's method that this class fills in.

        Only the command that is asked for has a parser made, which takes a good part of the start.
        """
        filled_in = {"model", "datamodule", "weights_only"}
        known = {
            "fit": filled_in | {"train_dataloaders", "val_dataloaders"},
            "test": filled_in | {"dataloaders", "verbose"},
        }
        asked = self.arguments[0] if self.arguments else ""
        return {asked: known[asked]} if asked in known else known

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed; LightningCLI's own option would take `true` for a random one.

        Args:
            parser: Parser of a command.
        """
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of all that has no separate seed.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what a setting file states apart from its data, where runs are stored, and how they are logged.

        Args:
            parser: Parser of a command.
        """
        parser.add_argument("--setting", type=str, required=True, help="Name of the setting.")
        parser.add_argument("--network", type=Callable[[], nn.Module], required=True, help="The original's network.")
        parser.add_class_arguments(Procedure, "procedure")
        parser.add_argument("--original_seed", type=int | None, help="Of the original; default seed_everything.")
        parser.add_argument("--runs_dir", type=str | None, help="Default: CMU_RUNS_DIR, else ./runs.")
        parser.add_argument(
            "--checkpoints",
            type=read_policy,
            choices=["all", "chosen", "none"],
            default="all",
            help="Which runs keep weights: all, originals and a sweep's best runs, or none.",
        )
        parser.add_class_arguments(WandbLogger, "wandb", instantiate=False, skip={"run", "job_type", "identified"})
        parser.add_argument("--threads", type=int | None, help="CPU threads; default torch's choice.")
        parser.add_argument(
            "--compile", type=bool, default=False, nargs="?", const=True, help="Train with torch.compile: pays on GPUs."
        )
        parser.link_arguments("network", "model.init_args.network")
        parser.link_arguments("procedure", "model.init_args.procedure", apply_on="instantiate")
        parser.set_defaults({"model": "Original"})
        if {"--help", "-h"} & set(self.arguments):
            _show_one_half(parser, "trainer" in self.arguments)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the command line, and refuse values that LightningCLI would fail on later.

        Args:
            parser: Parser of all commands.
            args: Words of the command line.

        Raises:
            UserError: A value is out of its range, or the checkpoint cannot be read.
        """
        # The ledger's key refers to the current configs; a user may edit them while the run trains.
        self.key = command_key(args[1:])
        protect_parser()
        for option, base in LISTED.items():
            if option in attached(args):  # without the name of a class, whose options it would list
                sys.stdout.write(list_classes(option, base))
                raise SystemExit(0)
        self.config = parser.parse_args(normalize(args))
        config = self.config[self.config.subcommand]
        named = config.as_dict()
        named["model"].get("init_args", {}).pop("network", None)  # a link to the other one
        check_names(named)
        check_values(config)
        if config.ckpt_path is not None:
            read_checkpoint(config.ckpt_path)

    def before_instantiate_classes(self) -> None:
        """Fill in everything that the command line leaves open, so that the stored config is complete."""
        config = self.config[self.subcommand]
        if self.subcommand == "test":  # writes nothing, so no logger is made
            config.trainer.logger = False
        fill_defaults(config, self._as_plain_data)
        torch.set_num_threads(config.threads)

    def _as_plain_data(self) -> dict[str, Any]:
        """Return the whole config as mappings, lists and scalars."""
        config = self.config[self.subcommand]
        plain: dict[str, Any] = yaml.safe_load(self._parser(self.subcommand).dump(config, skip_none=False))
        return plain


LISTED = {"--model.help": Stage, "--data.help": CorruptedDataModule, "--network.help": nn.Module}
"""Options that list classes, and the base of these."""


def list_classes(option: str, base: type) -> str:
    """Return the classes of this project that a config may name, one per line.

    Args:
        option: `--PART.help`.
        base: Base of the classes.
    """
    named = SHORT_NAMES[option.removeprefix("--").removesuffix(".help")]
    found = {name: getattr(home, name, None) for home in (data, models, unlearning) for name in home.__all__}
    classes = {name: found[name] for name in sorted(named, key=str.lower)}
    lines = [
        f"  {name:{max(map(len, named))}}  {(kind.__doc__ or '').strip().splitlines()[0]}"
        for name, kind in classes.items()
        if isclass(kind) and issubclass(kind, base) and kind.__name__ == name and not _is_base(kind)
    ]
    return "\n".join([f"{option} NAME lists the options of one of these, or of a class of your own:", *lines, ""])


def _is_base(kind: type) -> bool:
    """Return whether a class is there for others to build on."""
    return isabstract(kind) or kind in (*LISTED.values(), Unlearner) or (kind.__doc__ or "").startswith("Base of")


def read_policy(value: str) -> str:
    """Return which weights stay; configs that older sweeps have stored say `until_chosen` for `chosen`."""
    return "chosen" if value == "until_chosen" else value
