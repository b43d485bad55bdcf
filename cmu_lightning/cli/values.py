"""The values of `fit` and `test`: which are refused, and what stands in for those that were not given."""

import re
from collections.abc import Callable
from inspect import Parameter, isclass, signature
from pkgutil import resolve_name
from typing import Any, get_args

import torch
from jsonargparse import ArgumentError, ArgumentParser, Namespace
from torch import nn

from cmu_lightning.cli.messages import TWO_WANDB_LOGGERS
from cmu_lightning.devices import PRECISIONS
from cmu_lightning.errors import UserError
from cmu_lightning.models.factory import NetworkFromFunction
from cmu_lightning.unlearning import Original
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
"""Options of the Trainer that would change the meaning of a stage; each must keep its value."""

OF_STRATEGY = ("precision_plugin", "ddp_comm_state", "ddp_comm_hook", "ddp_comm_wrapper", "model_averaging_period")
"""Arguments of a strategy object that would change numbers."""

STRICT: dict[str, Any] = {"exit_on_error": False, "allow_abbrev": False}
"""Options of every parser: raise errors, and take no abbreviated names."""


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
    _check_trainer(config.trainer)


def _check_trainer(trainer: Namespace) -> None:
    """Refuse options of the Trainer with which a run could not be what its identity says."""
    strategy = trainer.strategy
    for name in OF_STRATEGY if isinstance(strategy, Namespace) else ():
        if (strategy.get("init_args") or {}).get(name) is not None:
            raise UserError(
                f"trainer.strategy.init_args.{name} changes a run's numbers without being a part of its identity: "
                "leave it out, and give trainer.precision"
            )
    loggers = trainer.logger
    for logger in loggers if isinstance(loggers, list) else [loggers]:
        if isinstance(logger, Namespace) and logger.class_path.endswith(".WandbLogger"):
            raise UserError(TWO_WANDB_LOGGERS)
    interval = trainer.val_check_interval
    if interval is not None and (not isinstance(interval, int | float) or interval <= 0):
        raise UserError(f"trainer.val_check_interval={interval} is not possible: give a number of steps above 0")
    clip = trainer.gradient_clip_val
    if clip is not None and not clip > 0:  # also nan
        raise UserError(f"trainer.gradient_clip_val={clip} is not positive: give a norm, or leave it out")
    if trainer.limit_test_batches == 0:
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
        arguments = config[key.replace(".", ".init_args.")].get("init_args")
        if arguments is None:  # of a class that takes none
            continue
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
