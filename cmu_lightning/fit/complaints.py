"""What the parser complains of, as one sentence that names the value and the mend."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from inspect import signature

from cmu_lightning import data, models, unlearning

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
