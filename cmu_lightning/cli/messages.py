"""Rewrite errors as one readable sentence, and hide notices of Lightning."""

import errno
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import signature

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer, callbacks, loggers

from cmu_lightning import data, models, unlearning
from cmu_lightning.errors import UserError
from cmu_lightning.experiment.processes import describe_deaths
from cmu_lightning.parsing import CONFIGS

NOISE = re.compile(
    r"Does not validate against|^Subtypes:|^Errors:|NoneType|^Given value|^Expected a path but|^tip:|^usage:"
)
"""Lines of the parser's complaints that only repeat other lines."""

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
"""Plain words for the types of values."""

KIND = re.compile(r"(?:a )?<class '([\w.]+)'>")
"""A type as Python writes it."""

NESTED = 4
"""Depth up to which an option of an option is written with dots."""

TWO_WANDB_LOGGERS = (
    "trainer.logger=WandbLogger would log to W&B a second time: leave it out, log in by `wandb login` or give "
    "--wandb.mode offline, and set --wandb.project, --wandb.tags and others"
)

REWRITES: tuple[tuple[str, str], ...] = (
    # Alternatives, one line each.
    (r"(Expected a (?:<class '\w+'>|typing\.Literal\[[^]]*\])) (?=Expected)", r"\1 or "),
    (r"Not a valid subclass of (\w+) Subclass types expect.*", r"Expected a class_path of a \1"),
    # Where: `--data` in place of `"data"`, then `--data.size` in place of `--data: DigitsDataModule: --size`.
    (r"Parser key \"([^\"]+)\":", r"--\1:"),
    (r"Type [\w.]*Callable\[.*?\]\S* \S+ expects a function or a callable class:", ""),
    (r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:"),
    (r"Got value: Namespace\(.*\)$", ""),
    *((r"--([\w.]+): (?:\w+: )?--(\w+)", r"--\1.\2"),) * NESTED,
    # Values of the wrong kind.
    (r"<class '(\w+)'> (?=<class)", r"<class '\1'> or Expected a "),
    *((rf"(?:Type )?Expected a <class '{kind}'>", f"Expected {words}") for kind, words in KINDS.items()),
    (r"Expected a typing\.Literal\[([^]]*)\]", r"Expected one of \1"),
    (r"argument --([\w.]+): invalid choice: '(.*)' \(choose from (.*)\)", r"\1=\2 is not possible: give one of \3"),
    # Values that are missing.
    (r"Expected an import path or a subclass spec, but got None.*", "is missing, give a setting"),
    (r"(the following arguments are required: \w+(?:, \w+)*) Expected a .*", r"\1"),
    (
        r"Expected an instantiatable class, but.*is abstract",
        "no class is named yet, give the options of one after the option or the --config that names it",
    ),
    # Files, classes and modules that do not exist.
    (r"--config: Path is not a file: '([^']*)'", r"the config \1 is not a file: give a YAML file"),
    (r"Expected a dot import path string: (\S+)", r"there is no class \1, check its spelling or give its full path"),
    (r"No module named '([\w.]+)'", r"there is no module \1, check its spelling and be in its folder"),
    (r"(?:\w+: )?module '([\w.]+)' has no attribute '(\w+)'", r"there is no \1.\2, check its spelling"),
    (r"(there is no class \w+, check its spelling or give its full path).*", r"\1"),
    (r"--trainer\.logger: Multiple subclasses with name WandbLogger.*", TWO_WANDB_LOGGERS),
    (r"Multiple subclasses with name (\w+)\. Give the full class path to avoid ambiguity: (.*)", r"\1 is one of \2"),
    (
        r"(?:\w+: )?Importing '([\w.]+)' is not allowed, denied by.*",
        r"\1 belongs to Python itself, and a config may not call it: give a class of your own or of a library",
    ),
    # Options that do not exist.
    (r"(unrecognized arguments: .*)", r"\1; check their spelling with --help"),
    (r"Subcommand '\w+' does not accept option '([\w.]+)'", r"Option '\1' is not accepted"),
    (r"Option '([\w.]+)' is not accepted", r"there is no option '\1', check its spelling with --help"),
    (
        r"--model: Original: there is no option '(\w+)'.*",
        r"--model.\1 is not of an original: name a method before it, such as --config unlearn/cf.yaml",
    ),
    (
        r"(--network.*there is no option '\w+', check its spelling with --help).*",
        r"\1; what a function takes as **kwargs goes under dict_kwargs",
    ),
    (r"Spaces not allowed in keys: \"([^\"]*)\"", r"the key '\1' contains a space, write NAME: VALUE with a colon"),
    # The whole complaint is noise, for example when nothing follows `init_args:`.
    (r"^(--[\w.]+: \w+): *$", r"\1 cannot be read, check the lines below it and their indentation"),
    (r"\s+", " "),
)
"""The parser's words and their replacements; each row is applied to the result of the rows above it."""

GIVEN_VALUE = re.compile(r"(?:Got|Given) value: (?!NestedArg|Namespace)(.*)")
WRONG_KIND = re.compile(r"--([\w.]+): Expected (.*?)(?:\. Got value:.*)?")
NO_CLASS = re.compile(r"--(data|network|model|trainer\.callbacks|trainer\.logger)[\w.]*: there is no class (\w+), ")
NO_OPTION = re.compile(r"(\w+): there is no option '(\w+)', ")
NO_NAME = re.compile(r"there is no ([\w.]+)\.(\w+), ")
NO_MODULE = re.compile(r"there is no (module) ([\w.]+), ")
NO_ARGUMENT = re.compile(r"(unrecognized) arguments: --([\w.]+)")
NO_METHOD = re.compile(r"--model\.(\w+) is not of an original: ")
"""Rewritten complaints that get the given value or the likely spelling added."""

SHORT_NAMES = {
    "data": data.__all__,
    "network": models.__all__,
    "model": unlearning.__all__,
    "trainer.callbacks": callbacks.__all__,
    "trainer.logger": loggers.__all__,
}
"""Classes that need no path, by the option that names them."""

LIBRARIES = ["cmu_lightning", "lightning", "timm", "torch", "torchvision"]
"""Modules of which a config may name classes."""

OPTIONS = [
    *(f"trainer.{name}" for name in signature(Trainer).parameters),
    *(f"procedure.{name}" for name in signature(unlearning.Procedure).parameters),
    *("checkpoints", "ckpt_path", "compile", "config", "data", "model", "network", "original_seed", "runs_dir"),
    *("seed_everything", "setting", "threads", "wandb.mode", "wandb.project", "wandb.tags", "wandb.group"),
]
"""Options that do not depend on a class chosen on the command line."""


def one_sentence(message: str) -> str:
    r"""Return a complaint of the parser as one sentence.

    Args:
        message: Complaint, often of many lines.

    >>> one_sentence('Parser key "threads":\n  Expected a <class \'int\'>. Got value: many')
    'threads=many is not possible: give a whole number'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    # Alternatives that fail for the same reason give the same line.
    text = " ".join(dict.fromkeys(line for line in lines if line and not NOISE.search(line)))
    for pattern, replacement in REWRITES:
        text = re.sub(pattern, replacement, text)
    text = _suggest_spelling(text.strip().rstrip(".")) or " ".join(message.split())
    wrong, given = WRONG_KIND.fullmatch(text), GIVEN_VALUE.search(message)
    if wrong is None or given is None:
        return text
    kinds = dict.fromkeys(wrong[2].replace("Expected ", "").split(" or a"))
    asked = KIND.sub(lambda kind: KINDS.get(kind[1], kind[1]), " or a".join(kinds))
    return f"{wrong[1]}={given[1].rstrip('. ')} is not possible: give {asked}"


def _suggest_spelling(text: str) -> str:
    """Suggest a class or an option with a similar name for one that does not exist."""
    known: Iterable[str] = ()
    if missing := NO_METHOD.search(text):
        return _name_methods(text, missing[1])
    if missing := NO_CLASS.search(text):
        known = SHORT_NAMES[missing[1]]
    elif missing := NO_OPTION.search(text):
        owners = models.__all__ if missing[1] == "network" else [missing[1]]
        known = [argument for owner in owners for argument in _arguments_of(owner)]
    elif missing := NO_MODULE.search(text):
        known = LIBRARIES
    elif missing := NO_NAME.search(text):
        known = dir(sys.modules.get(missing[1]))
    elif missing := NO_ARGUMENT.search(text):
        known = OPTIONS
    # An option that a base class has and this class fixes is spelled correctly: no suggestion.
    meant = missing[2] if missing else ""
    close = [name for name in get_close_matches(meant, known, 1) if name != meant]
    return re.sub("check (its|their) spelling", rf"did you mean {close[0]}? \g<0>", text) if close else text


def _name_methods(text: str, option: str) -> str:
    """Name a method that has the option, instead of an arbitrary method."""
    having = sorted((name for name in unlearning.__all__ if option in _arguments_of(name)), key=len)
    overlays = [f"unlearn/{re.sub('(?<=[a-z])(?=[A-Z])', '_', name).lower()}.yaml" for name in having]
    shipped = [overlay for overlay in overlays if (CONFIGS / overlay).exists()]
    return text.replace("unlearn/cf.yaml", shipped[0]) if shipped and "unlearn/cf.yaml" not in shipped else text


def _arguments_of(name: str) -> list[str]:
    """Return the arguments of a class of this project and of its base classes."""
    bases = [base for home in (data, models, unlearning) for base in getattr(getattr(home, name, None), "__mro__", ())]
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base) and base is not object]
    return [argument for maker in makers for argument in signature(maker).parameters]


NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk, a used-up quota and a limit on the size of files."""
NO_MEMORY = re.compile(r"can't allocate memory|out of memory")
"""torch's words on CPUs and on GPUs."""
NO_METRIC = re.compile(r"stopping conditioned on metric (\S+) which is not available.*following: (.*)")
"""EarlyStopping's words."""
LOST = re.compile(
    r"Connection (?:closed by peer|reset by peer|refused)|Broken pipe|failed to recv|remote process exited"
)
"""Words of gloo and NCCL in the processes that are left when another one has died."""
TAKEN = re.compile(r"EADDRINUSE|[Aa]ddress already in use")
"""torch's words if another program listens at the port through which processes meet."""
UNUSED = re.compile(r"Expected to have finished reduction in the prior|not used in producing the loss")
"""torch's and Lightning's words if weights have no gradient while other processes wait for it."""
ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")


def user_mistake(error: BaseException | None) -> str | None:
    """Return the message of the user's mistake behind an error; None if the error is no mistake of the user.

    Args:
        error: Error, whose causes are searched.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return f"there is no room to write ({error}): make some, and run the same command again to continue"
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            asked = ASKED.search(str(error))
            amount = f" ({asked[1]} were asked for)" if asked else ""
            return f"memory ran out{amount}: make network or procedure.batch_size smaller, or give data.memory_map"
        if unknown := NO_METRIC.search(str(error)):
            return f"EarlyStopping watches {unknown[1]}, which this stage does not log: give one of {unknown[2]}"
        if isinstance(error, RuntimeError) and (sentence := _job_mistake(str(error))):
            return sentence
        if isinstance(error, ModuleNotFoundError) and error.name is None:  # a library's own words on what it needs
            return str(error).splitlines()[0]
        if isinstance(error, UserError):
            return " ".join(str(error).split())
        if isinstance(error, ArgumentError | MisconfigurationException):
            return one_sentence(str(error))
        error = error.__cause__ or error.__context__
    return None


def _job_mistake(words: str) -> str | None:
    """Return the sentence for what torch says when processes cannot work together; None for anything else."""
    if TAKEN.search(words):
        port = os.environ.get("MASTER_PORT")
        return f"port {port}, at which the processes meet, is taken: set MASTER_PORT to a free one, or leave it out"
    if LOST.search(words):
        lost = describe_deaths(seconds=1) or "another process of this run has ended"
        return f"{lost}: run the same command again to continue"
    if UNUSED.search(words):
        return (
            "the network has a layer that no loss depends on, for whose gradients the processes wait: leave it out, or "
            "give --trainer.strategy ddp_find_unused_parameters_true"
        )
    return None


def silence_notices() -> None:
    """Silence Lightning's start messages, and warnings about things done on purpose."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    for known in (
        "The '.*_dataloader' does not have many workers",  # batches are made on the device
        ".*recommended to use .*Trainer.devices=1.*",  # every sample is counted once on any number of devices
        "The number of training batches .* is smaller than the logging interval",
        "Total length of `list` across ranks is zero",  # val_size 0 leaves nothing to validate on
        ".*configure_optimizers. returned .None.",  # methods that do not train have none
        "Grad strides do not match bucket view strides",  # of one channel, whose stride has no meaning
        ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
    ):
        warnings.filterwarnings("ignore", known)
