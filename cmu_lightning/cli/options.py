"""The options of `fit` and `test`: their parser, its work-arounds, refused values, and defaults."""

import re
import sys
from argparse import SUPPRESS, Action
from collections.abc import Callable, Sequence
from inspect import Parameter, isabstract, isclass, signature
from pkgutil import resolve_name
from typing import Any, get_args

import torch
import yaml
from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from torch import nn

from cmu_lightning import data, models, unlearning
from cmu_lightning.cli.messages import SHORT_NAMES, TWO_WANDB_LOGGERS
from cmu_lightning.data import CorruptedDataModule
from cmu_lightning.devices import PRECISIONS
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.ledger import command_key
from cmu_lightning.experiment.wandb_logger import WandbLogger
from cmu_lightning.models.admitted import check_names, protect_parser
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.parsing import PROGRAM, attached, is_config
from cmu_lightning.unlearning import Original, Procedure, Stage, Unlearner
from cmu_lightning.unlearning.checkpoint import read_checkpoint
from cmu_lightning.unlearning.trainer_checks import check_callback, check_precision

TRAINER_DEFAULTS = {
    "max_epochs": 1,
    "use_distributed_sampler": False,
    "num_sanity_val_steps": 0,
    "check_val_every_n_epoch": None,
    "val_check_interval": 100,
    "enable_model_summary": False,
}

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
"""Options of the Trainer that would change the meaning of a stage; each must keep its value."""

STRICT: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
"""Options of every parser: raise errors, and take no abbreviated names."""


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


# --- Spelling: arguments that the parser would read as something else. ---

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
NUMBERS = re.compile(r"\{\s*\d+:\d+(\s*,\s*\d+:\d+)*\s*\}")
"""A mapping of numbers as it is typed, in which YAML needs a blank after each colon."""


def normalize(arguments: list[str]) -> list[str]:
    """Return the arguments in the form of `attached`, spelled so that the parser reads what was meant.

    - A class comes before its options; W&B sorts the options of a sweep by name.
    - `--model.rewind` is `--model.rewind=true`, as W&B's `${args_no_boolean_flags}` writes it.
    - A network's dotted name is a class_path; a function that is only named would take no arguments.
    - `null` for an option two classes deep is a config; there the parser reads the text "None".
    - `{3:5}` is a mapping, also without the blank that YAML needs.

    Args:
        arguments: Words of a command line.

    >>> normalize(["--model.augment", "true", "--model.class_path", "SSD"])
    ['--model.class_path=SSD', '--model.augment=true']
    """
    valued = [f"{argument}=true" if _is_flag(argument) else argument for argument in attached(arguments)]
    return [_normalize_value(argument) for argument in _sort_classes_first(valued)]


def _is_flag(argument: str) -> bool:
    """Return whether an argument is an option of a class, without a value."""
    name = argument.removeprefix("--")
    return name != argument and "=" not in name and "." in name and not name.endswith(".help")


def _sort_classes_first(arguments: list[str]) -> list[str]:
    """Move each `--PART.class_path=` in front of the options of its part, but never across a config."""
    named = {option: at for at, argument in enumerate(arguments) if (option := _class_option(argument))}
    ordered = [argument for at, argument in enumerate(arguments) if not _is_overruled(arguments, at, named)]
    for option, last in named.items():
        at = len(ordered) - 1 - ordered[::-1].index(arguments[last])
        first = next(n for n, other in enumerate(ordered) if other.startswith(option.removesuffix("class_path")))
        # Later options win: a config in between may name another class, so it must stay in between.
        if not any(map(is_config, ordered[first:at])):
            ordered.insert(first, ordered.pop(at))
    return ordered


def _is_overruled(arguments: list[str], at: int, named: dict[str, int]) -> bool:
    """Return whether the class that an argument names is named again, with no config in between."""
    option = _class_option(arguments[at])
    between = arguments[at : named[option]] if option else []
    return bool(between) and not any(map(is_config, between))


def _class_option(argument: str) -> str | None:
    """Return `--PART.class_path` if an argument gives its value."""
    option, equals, _ = argument.partition("=")
    return option if equals and option.endswith(".class_path") else None


def _normalize_value(argument: str) -> str:
    """Return an argument with its value spelled as the parser needs it."""
    option, equals, value = argument.partition("=")
    if not (equals and option.startswith("--")):
        return argument
    if option == "--network" and DOTTED.fullmatch(value):
        return f'--network={{"class_path": "{value}"}}'
    if NUMBERS.fullmatch(value):
        return f"{option}={value.replace(':', ': ')}"
    keys = option.removeprefix("--").split(".")
    if value == "null" and len(keys) > 2:
        return "--config=" + "".join(f'{{"{key}": ' for key in keys) + "null" + "}" * len(keys)
    return argument


# --- Refusals: values that would fail later or silently have another effect. ---


def check_values(config: Namespace) -> None:
    """Check the values whose types the parser cannot check.

    Args:
        config: Parsed config of a command.

    Raises:
        UserError: A value is out of its range, or null where null has no meaning.
    """
    _check_seed("seed_everything", config.seed_everything)
    _check_annotations(config.model.class_path)
    for name in ("network", "data", "model"):
        _check_nulls(name, config[name])
    if not re.fullmatch(r"\w[\w.-]*", config.setting or ""):
        raise UserError(f"setting={config.setting} names a folder: give only letters, digits, '_', '.' and '-'")
    if config.threads is not None and not 1 <= config.threads <= 1024:
        raise UserError(f"threads={config.threads} is not possible: give a number from 1 to 1024")
    loggers = config.trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace) and logger.class_path.endswith(".WandbLogger"):
            raise UserError(TWO_WANDB_LOGGERS)
    interval = config.trainer.val_check_interval
    if interval is not None and not isinstance(interval, str) and interval <= 0:
        raise UserError(f"trainer.val_check_interval={interval} is not positive: give a number of steps")
    clip = config.trainer.gradient_clip_val
    if clip is not None and not clip > 0:  # also nan
        raise UserError(f"trainer.gradient_clip_val={clip} is not positive: give a norm, or leave it out")
    if config.trainer.limit_test_batches == 0:
        raise UserError("trainer.limit_test_batches=0 leaves nothing to measure: give at least 1, or leave it out")


def _check_seed(name: str, seed: Any) -> None:
    if isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise UserError(f"{name}={seed} is not a seed: give a number from 0 to {2**32 - 1}")


def _check_annotations(stage: str) -> None:
    """Refuse a custom stage without types, whose network the parser would make too early."""
    parameters = _parameters(resolve_name(stage))
    for name, annotation in {"network": "Callable[[], nn.Module]", "procedure": "Procedure"}.items():
        if name in parameters and parameters[name].annotation is Parameter.empty:
            raise UserError(
                f"{stage} takes {name} without a type, by which the command line reads it: write {name}: {annotation}"
            )


def _check_nulls(name: str, part: Any) -> None:
    """Refuse null for an argument that is never None; the parser takes null for any argument of a class."""
    if not isinstance(part, Namespace) or "class_path" not in part:
        return
    parameters = _parameters(resolve_name(part.class_path))
    for argument, value in vars(part.get("init_args") or Namespace()).items():  # type: ignore[no-untyped-call]
        _check_nulls(f"{name}.{argument}", value)
        if _is_untyped_class(part.class_path, parameters.get(argument), value):
            raise UserError(
                f"{name}.{argument} names the class {value['class_path']}, and {part.class_path} does not say what it "
                f"takes there: write a type, such as {argument}: nn.Module"
            )
        if value is None and argument in parameters and _is_never_none(parameters[argument]):
            raise UserError(f"{name}.{argument}=null is not possible: leave it out for its default")


def _is_untyped_class(owner: str, parameter: Parameter | None, value: Any) -> bool:
    """Return whether an argument of any type names a class, which the parser would not instantiate."""
    is_named = isinstance(value, dict | Namespace) and "class_path" in value
    is_plain = owner.endswith(f".{NetworkFromFunction.__name__}")
    return is_named and parameter is not None and not is_plain and parameter.annotation in (Any, Parameter.empty)


def _parameters(source: Any) -> dict[str, Parameter]:
    """Return the parameters of a class, those that it passes to its bases as `**kwargs` included, or of a function.

    Args:
        source: The class or the function.
    """
    bases = reversed(getattr(source, "__mro__", ()))
    initialisers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base)] or [source]
    return {name: each for initialiser in initialisers for name, each in signature(initialiser).parameters.items()}


def _is_never_none(parameter: Parameter) -> bool:
    """Return whether neither the type nor the default of a parameter allows None."""
    kind = parameter.annotation
    is_typed = kind not in (Any, Parameter.empty) and not isinstance(kind, str)
    return is_typed and parameter.default not in (None, Parameter.empty) and type(None) not in get_args(kind)


# --- Defaults: open values are decided before the config is stored. ---


def fill_defaults(config: Namespace, as_plain_data: Callable[[], dict[str, Any]]) -> None:
    """Fill in seeds, precision, threads and the factory of the network, in place.

    Args:
        config: Parsed config of a command.
        as_plain_data: Returns the config as mappings, lists and scalars.

    Raises:
        UserError: The config would change a stage, its weights or its seeds in a way that is not possible.
    """
    for option, needed in REQUIRED_TRAINER.items():
        if config.trainer[option] != needed:
            raise UserError(
                f"trainer.{option}={config.trainer[option]} would change the stage, which procedure defines: "
                f"leave it at {needed} and set procedure.steps or procedure.unlearn_steps"
            )
    callbacks: Any = config.trainer.callbacks or []
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        check_callback(resolve_name(callback.class_path))
    _fill_seeds(config)
    _fill_hardware(config.trainer)
    _wrap_network_function(config, as_plain_data)
    if config.threads is None:
        config.threads = torch.get_num_threads()


def _fill_seeds(config: Any) -> None:
    """Resolve every seed that is null: an original's and the data's from `seed_everything`."""
    seed = config.seed_everything
    if config.original_seed is None:
        config.original_seed = seed
    _check_seed("original_seed", config.original_seed)
    # An original has one seed; as the original of an unlearner it is looked up by --original_seed.
    is_original = config.model.class_path.rpartition(".")[2] == Original.__name__
    stage = config.model.init_args
    if is_original and stage.seed not in (None, config.original_seed):
        raise UserError(f"model.seed={stage.seed} applies only to unlearners: seed an original by --original_seed")
    defaults = {
        "model": config.original_seed if is_original else seed,
        "data": seed,
        "data.manipulation": seed,
    }
    for key, default in defaults.items():
        arguments = config[key.replace(".", ".init_args.")].init_args
        if "seed" in arguments and arguments.seed is None:
            arguments.seed = default
        if "seed" in arguments:
            _check_seed(f"{key}.seed", arguments.seed)


def _fill_hardware(trainer: Any) -> None:
    """Choose mixed precision and the fastest convolutions on GPUs, as in the released code; 32 bits elsewhere."""
    if trainer.precision is None:
        trainer.precision = precision(trainer.accelerator)
    check_precision(trainer.precision)
    trainer.precision = PRECISIONS.get(str(trainer.precision), trainer.precision)
    if trainer.benchmark is None:
        trainer.benchmark = not trainer.deterministic


def precision(accelerator: Any) -> str:
    """Return the default precision: bf16 on GPUs that have it, fp16 on other GPUs, 32 bits elsewhere.

    Args:
        accelerator: Value of `--trainer.accelerator`.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"


def _drop_defaults_that_are_code(network: Any) -> None:
    """Remove, in place, arguments of a function whose values are classes or functions, if they are its defaults.

    torchvision's transformers have such arguments, as `norm_layer=partial(LayerNorm, eps=1e-6)`. The function uses its
    defaults; a config, which holds plain values, cannot pass them.

    Args:
        network: Parsed `network` that names a function.

    Raises:
        UserError: One of them is not the default.
    """
    arguments = vars(network.get("init_args") or Namespace())  # type: ignore[no-untyped-call]
    code = {name: value for name, value in arguments.items() if isinstance(value, Namespace) or callable(value)}
    if not code:
        return
    plain = {name: value for name, value in arguments.items() if name not in code}
    parser = ArgumentParser(**STRICT)
    parser.add_argument("--network", type=Callable[[], nn.Module])
    try:
        parsed = parser.parse_object({"network": {"class_path": network.class_path, "init_args": plain}})
    except ArgumentError:  # it has no defaults
        parsed = Namespace(network=Namespace(init_args=Namespace()))  # type: ignore[no-untyped-call]
    defaults = vars(parsed.network.init_args)
    for name, value in code.items():
        if value != defaults.get(name):
            raise UserError(
                f"network.{name} is a class or a function, which a config cannot pass to a function: write your own "
                "function that makes the network, and name that as network"
            )
        del network.init_args[name]


def _wrap_network_function(config: Any, as_plain_data: Callable[[], dict[str, Any]]) -> None:
    """Replace a function that makes networks by a class: the parser would call the function, and only once."""
    network = config.network
    if not isinstance(network, Namespace) or isclass(resolve_name(network.class_path)):
        return
    for part in (config, config.model.init_args):
        _drop_defaults_that_are_code(part.network)
    given = as_plain_data()["network"]
    arguments = given.get("init_args", {}) | given.get("dict_kwargs", {})
    path = f"{NetworkFromFunction.__module__}.{NetworkFromFunction.__name__}"
    for part in (config, config.model.init_args):
        init_args = Namespace(function=network.class_path, arguments=arguments)  # type: ignore[no-untyped-call]
        part.network = Namespace(class_path=path, init_args=init_args)  # type: ignore[no-untyped-call]
