"""Settles what a command line leaves open, so that the saved config leaves nothing open; refuses what cannot be."""

import re
from collections.abc import Callable
from inspect import Parameter, isclass, signature
from pkgutil import resolve_name
from typing import Any, get_args

import torch
from jsonargparse import Namespace

from cmu_lightning.devices import PRECISIONS
from cmu_lightning.errors import UserError
from cmu_lightning.models.made import Made  # and makes short class names known to configs
from cmu_lightning.unlearning import Original
from cmu_lightning.unlearning.trainers import check_callback, check_precision

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
        made = Namespace(class_path=f"{Made.__module__}.{Made.__name__}", init_args=own)  # type: ignore[no-untyped-call]
        part.network = made
