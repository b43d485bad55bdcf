"""From what was typed to what the parser takes."""

import re

from cmu_lightning.parsing import attached, is_config

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
