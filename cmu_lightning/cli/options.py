"""The options of `fit` and `test`: how they are spelled, their defaults, what is refused."""

import re
import sys
from argparse import Action
from collections.abc import Callable
from inspect import Parameter, isclass, signature
from pkgutil import resolve_name
from typing import Any, Literal, get_args

import torch
import yaml
from jsonargparse import DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from cmu_lightning.devices import PRECISIONS
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.ledger import note_name
from cmu_lightning.experiment.wandb_logger import WandbLogger
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.parsing import PROGRAM, attached, is_config
from cmu_lightning.unlearning import Original, Procedure
from cmu_lightning.unlearning.checkpoint import read_checkpoint
from cmu_lightning.unlearning.trainer_checks import check_callback, check_precision

REQUIRED_TRAINER = {
    "accumulate_grad_batches": 1,
    "check_val_every_n_epoch": None,
    "fast_dev_run": False,
    "limit_train_batches": None,
    "max_epochs": 1,
    "max_steps": -1,
    "max_time": None,
    "min_epochs": None,
    "min_steps": None,
    "overfit_batches": 0.0,
    "use_distributed_sampler": False,
}
"""The trainer's options that a stage needs as they are."""


def refuse_impossible(config: Namespace) -> None:
    """Say what LightningCLI would trip over.

    Raises:
        UserError: A value is out of its range.
    """
    _check_seed("seed_everything", config.seed_everything)
    _refuse_untyped(config.model.class_path)
    for name in ("network", "data", "model"):
        _refuse_null(name, config[name])
    if not re.fullmatch(r"\w[\w.-]*", config.setting or ""):
        raise UserError(f"setting={config.setting} names a folder: give letters, digits, '_', '.' and '-' alone")
    if config.threads is not None and not 1 <= config.threads <= 1024:
        raise UserError(f"threads={config.threads} is not possible: give a number from 1 to 1024")
    interval = config.trainer.val_check_interval
    if interval is not None and not isinstance(interval, str) and interval <= 0:
        raise UserError(f"trainer.val_check_interval={interval} is not positive: give a number of steps")
    clip = config.trainer.gradient_clip_val
    if clip is not None and not clip > 0:
        raise UserError(f"trainer.gradient_clip_val={clip} is not positive: give a norm, or leave it out")
    if config.trainer.limit_test_batches == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to measure: give at least 1, or leave it out")


def _refuse_untyped(stage: str) -> None:
    """A class of one's own whose network would be made too early."""
    taken = signature(resolve_name(stage)).parameters
    for name, kind in {"network": "Callable[[], nn.Module]", "procedure": "Procedure"}.items():
        if name in taken and taken[name].annotation is Parameter.empty:
            raise UserError(
                f"{stage} takes {name} without a type, by which the command line reads it: write {name}: {kind}"
            )


def _refuse_null(name: str, part: Any) -> None:
    """Where it is neither the default nor what the type allows; the parser takes it for any argument of a class."""
    if not isinstance(part, Namespace) or "class_path" not in part:
        return
    known = signature(resolve_name(part.class_path)).parameters
    for argument, value in vars(part.get("init_args") or Namespace()).items():  # type: ignore[no-untyped-call]
        _refuse_null(f"{name}.{argument}", value)
        if value is None and argument in known and _is_never_none(known[argument]):
            raise UserError(f"{name}.{argument}=null is not possible: leave it out for its default")


def _is_never_none(parameter: Parameter) -> bool:
    kind = parameter.annotation
    told = kind not in (Any, Parameter.empty) and not isinstance(kind, str)
    return told and parameter.default not in (None, Parameter.empty) and type(None) not in get_args(kind)


def settle(config: Namespace, plain: Callable[[], dict[str, Any]]) -> None:
    """Fill in seeds, precision, threads, and what makes the network.

    Args:
        config: Parsed; is changed.
        plain: Gives it as plain data.

    Raises:
        UserError: It asks for what would change a stage, its weights or its seeds in a way that is not possible.
    """
    for option, needed in REQUIRED_TRAINER.items():
        if config.trainer[option] != needed:
            raise UserError(
                f"trainer.{option}={config.trainer[option]} would change what a stage is, which is procedure's to say: "
                f"leave it at {needed} and set procedure.steps or procedure.unlearn_steps"
            )
    _check_callbacks(config.trainer.callbacks)
    _settle_seeds(config)
    _settle_hardware(config.trainer)
    _wrap_function(config, plain)
    if config.threads is None:
        config.threads = torch.get_num_threads()


def _check_callbacks(given: Any) -> None:
    for callback in given if isinstance(given, list) else [given] if given else []:
        check_callback(resolve_name(callback.class_path))


def _check_seed(name: str, seed: Any) -> None:
    if isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"{name}={seed} is not a seed: give a number from 0 to {2**32 - 1}")


def _settle_seeds(config: Any) -> None:
    seed = config.seed_everything
    if config.original_seed is None:
        config.original_seed = seed
    _check_seed("original_seed", config.original_seed)
    is_original = config.model.class_path.rpartition(".")[2] == Original.__name__
    stage = config.model.init_args
    if is_original and stage.seed not in (None, config.original_seed):
        raise UserError(f"model.seed={stage.seed} is of unlearners: seed an original by --original_seed")
    defaults = {
        "model": config.original_seed if is_original else seed,
        "data": seed,
        "data.manipulation": seed,
    }
    for key, default in defaults.items():
        part = config[key.replace(".", ".init_args.")].init_args
        if "seed" in part and part.seed is None:
            part.seed = default
        if "seed" in part:
            _check_seed(f"{key}.seed", part.seed)


def _settle_hardware(trainer: Any) -> None:
    """Mixed precision on GPUs, as in the released code, and the fastest convolutions; full precision elsewhere."""
    if trainer.precision is None:
        trainer.precision = precision(trainer.accelerator)
    check_precision(trainer.precision)
    trainer.precision = PRECISIONS.get(str(trainer.precision), trainer.precision)
    if trainer.benchmark is None:
        trainer.benchmark = not trainer.deterministic


def precision(accelerator: Any) -> str:
    """What a run is made in that says nothing of it: bf16 on GPUs that have it, else fp16; 32 bits elsewhere."""
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _wrap_function(config: Any, plain: Callable[[], dict[str, Any]]) -> None:
    """Of a function the parser would call it once, and what makes networks is needed."""
    network = config.network
    if not isinstance(network, Namespace) or isclass(resolve_name(network.class_path)):
        return
    given = plain()["network"]
    arguments = given.get("init_args", {}) | given.get("dict_kwargs", {})
    own = Namespace(function=network.class_path, arguments=arguments)  # type: ignore[no-untyped-call]
    for part in (config, config.model.init_args):
        made = Namespace(class_path=f"{NetworkFromFunction.__module__}.{NetworkFromFunction.__name__}", init_args=own)  # type: ignore[no-untyped-call]
        part.network = made


DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
TIGHT = re.compile(r"\{\s*\d+:\d+(\s*,\s*\d+:\d+)*\s*\}")
"""A mapping of numbers to which YAML needs blanks."""


def as_taken(arguments: list[str]) -> list[str]:
    """Arguments as `attached`, with what the parser would take for something else spelled so that it does not.

    A class comes before its options, for a sweep has them sorted by name. A network's dotted name is a class_path, for
    a function named alone would take no arguments. null of an option two classes deep is a config, for there the
    parser reads the text "None". {3:5} is a mapping, without the blank that YAML wants, too. An option without a value
    is true, as W&B's ${args_no_boolean_flags} writes it.
    """
    valued = [f"{argument}=true" if _is_flag(argument) else argument for argument in attached(arguments)]
    return [_as_taken(argument) for argument in _classes_first(valued)]


def _is_flag(argument: str) -> bool:
    """Whether it is an option without a value that could have one, of a class."""
    name = argument.removeprefix("--")
    return name != argument and "=" not in name and "." in name and not name.endswith(".help")


def _classes_first(arguments: list[str]) -> list[str]:
    named = {option: at for at, argument in enumerate(arguments) if (option := _class_option(argument))}
    ordered = [argument for at, argument in enumerate(arguments) if not _is_overruled(arguments, at, named)]
    for option, last in named.items():  # what comes later wins
        at = len(ordered) - 1 - ordered[::-1].index(arguments[last])
        first = next(n for n, other in enumerate(ordered) if other.startswith(option.removesuffix("class_path")))
        if not any(map(is_config, ordered[first:at])):
            ordered.insert(first, ordered.pop(at))
    return ordered


def _is_overruled(arguments: list[str], at: int, named: dict[str, int]) -> bool:
    """Whether a class is named again with nothing but options in between."""
    option = _class_option(arguments[at])
    between = arguments[at : named[option]] if option else []
    return bool(between) and not any(map(is_config, between))


def _class_option(argument: str) -> str | None:
    option, equals, _ = argument.partition("=")
    return option if equals and option.endswith(".class_path") else None


def _as_taken(argument: str) -> str:
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("--")):
        return argument
    if option == "--network" and DOTTED.fullmatch(value):
        return f'--network={{"class_path": "{value}"}}'
    if TIGHT.fullmatch(value):
        return f"{option}={value.replace(':', ': ')}"
    keys = option.removeprefix("--").split(".")
    if value == "null" and len(keys) > 2:
        return "--config=" + "".join(f'{{"{key}": ' for key in keys) + "null" + "}" * len(keys)
    return argument


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
