"""What the command line says of an error, and what it keeps from the screen."""

import errno
import logging
import re
import warnings
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import signature

from jsonargparse import ArgumentError
from lightning.fabric.utilities.exceptions import MisconfigurationException

from cmu_lightning import data, models, unlearning
from cmu_lightning.errors import UserError

NOISE = re.compile(
    r"Does not validate against|^Subtypes:|^Errors:|NoneType|^Given value|^Expected a path but|^tip:|^usage:"
)

NAMES = {"data": data.__all__, "network": models.__all__, "model": unlearning.__all__}
"""Classes that need no path, by the options that name them."""
NO_CLASS = re.compile(r"--(data|network|model)[\w.]*: there is no class (\w+), ")
NO_OPTION = re.compile(r"(\w+): there is no option '(\w+)', ")

KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}
"""What a person calls the classes of values."""

GIVEN = re.compile(r"(?:Got|Given) value: (?!NestedArg|Namespace)(.*)")
WRONG_KIND = re.compile(r"--([\w.]+): Expected (.*?)(?:\. Got value:.*)?")

SPELLED = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"(Expected a (?:<class '\w+'>|typing\.Literal\[[^]]*\])) (?=Expected)", r"\1 or "),
        (r"Not a valid subclass of (\w+) Subclass types expect.*", r"Expected a class_path of a \1"),
        (r"Parser key \"([^\"]+)\":", r"--\1:"),
        (r"Type [\w.]*Callable\[.*?\]\S* \S+ expects a function or a callable class:", ""),
        (r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:"),
        (r"--config: Path is not a file: '([^']*)'", r"the config \1 is not a file: give a YAML file"),
        (r"Got value: Namespace\(.*\)$", ""),
        *[(r"--([\w.]+): (?:\w+: )?--(\w+)", r"--\1.\2")] * 4,  # an option in an option, which is typed with a dot
        *[(rf"(?:Type )?Expected a <class '{kind}'>", f"Expected {words}") for kind, words in KINDS.items()],
        (r"Expected a typing\.Literal\[([^]]*)\]", r"Expected one of \1"),
        (r"Expected an import path or a subclass spec, but got None.*", "is missing, give a setting"),
        (
            r"Expected a dot import path string: (\S+)",
            r"there is no class \1, check its spelling or give its full path",
        ),
        (
            r"Expected an instantiatable class, but.*is abstract",
            "no class is named yet, give the options of one after the option or the --config that names it",
        ),
        (r"No module named '([\w.]+)'", r"there is no module \1, check its spelling and be in its folder"),
        (r"Subcommand '\w+' does not accept option '([\w.]+)'", r"Option '\1' is not accepted"),
        (r"(the following arguments are required: \w+(?:, \w+)*) Expected a .*", r"\1"),
        (r"(unrecognized arguments: .*)", r"\1; check their spelling with --help"),
        (r"Option '([\w.]+)' is not accepted", r"there is no option '\1', check its spelling with --help"),
        (
            r"--model: Original: there is no option '(\w+)'.*",
            r"--model.\1 is not of an original: name a method before it, such as --config unlearn/cf.yaml",
        ),
        (
            r"(--network.*there is no option '\w+', check its spelling with --help).*",
            r"\1; what a function takes as **kwargs goes under dict_kwargs",
        ),
        (r"\s+", " "),
    )
)
"""What the parser says, and what is said instead, one after the other."""


def one_sentence(message: str) -> str:
    """A parser's complaint of many lines, as one that a person reads."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    text = " ".join(line for line in lines if line and not NOISE.search(line))
    for pattern, instead in SPELLED:
        text = pattern.sub(instead, text)
    text = _suggested(text.strip().rstrip("."))
    wrong, given = WRONG_KIND.fullmatch(text), GIVEN.search(message)
    if wrong is None or given is None:
        return text
    kinds = dict.fromkeys(wrong[2].replace("Expected ", "").split(" or a"))
    return f"{wrong[1]}={given[1].rstrip('. ')} is not possible: give {' or a'.join(kinds)}"


def _suggested(text: str) -> str:
    """With the class or the option that is spelled almost so."""
    known: Iterable[str] = ()
    if missing := NO_CLASS.search(text):
        known = NAMES[missing[1]]
    elif missing := NO_OPTION.search(text):
        known = _arguments(missing[1])
    close = get_close_matches(missing[2], known, 1) if missing else []
    return text.replace("check its spelling", f"did you mean {close[0]}? check its spelling") if close else text


def _arguments(name: str) -> list[str]:
    """What a class of this project takes, and what it hands on."""
    bases = [base for home in (data, models, unlearning) for base in getattr(getattr(home, name, None), "__mro__", ())]
    makers = [vars(base)["__init__"] for base in bases if "__init__" in vars(base) and base is not object]
    return [argument for maker in makers for argument in signature(maker).parameters]


FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a disk, a quota and a limit on files say."""
NO_MEMORY = re.compile(r"can't allocate memory|out of memory")
"""What torch says on CPUs and on GPUs."""
NO_METRIC = re.compile(r"stopping conditioned on metric (\S+) which is not available.*following: (.*)")
"""What EarlyStopping says."""
ASKED = re.compile(r"[Tt]ried to allocate ([\d.]+ \w+)")


def user_mistake(error: BaseException | None) -> str | None:
    """The message of a user's mistake behind an error; None if it is another kind of error."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return f"there is no room to write ({error}): make some, and the same command goes on"
        if isinstance(error, MemoryError) or NO_MEMORY.search(str(error)):
            asked = ASKED.search(str(error))
            of = f" ({asked[1]} were asked for)" if asked else ""
            return f"memory ran out{of}: make network or procedure.batch_size smaller, or give data.memory_map"
        if unknown := NO_METRIC.search(str(error)):
            return f"EarlyStopping watches {unknown[1]}, which this stage does not log: give one of {unknown[2]}"
        if isinstance(error, ModuleNotFoundError) and error.name is None:  # a library's own words on what it needs
            return str(error).splitlines()[0]
        if isinstance(error, UserError | ArgumentError | MisconfigurationException):
            return str(error)
        error = error.__cause__ or error.__context__
    return None


def quiet() -> None:
    """Leave out what Lightning says at every start."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    for known in (
        "The '.*_dataloader' does not have many workers",  # batches are made on the device
        ".*recommended to use .*Trainer.devices=1.*",  # every sample is counted once on any number of devices
        "The number of training batches .* is smaller than the logging interval",
        "Total length of `list` across ranks is zero",  # val_size 0 leaves nothing to validate on
        ".*configure_optimizers. returned .None.",  # methods that do not train have none
        "Grad strides do not match bucket view strides",  # of one channel, whose stride says nothing
        ".*isinstance\\(treespec, LeafSpec\\).*",  # between Lightning and torch
    ):
        warnings.filterwarnings("ignore", known)
