"""The spelling of arguments: what the parser would read as something else is written as it was meant."""

import re

from cmu_lightning.parsing import attached, is_config

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
        # Later options win: a config before the class may name another one, so it must stay before it.
        begin = max((n + 1 for n, other in enumerate(ordered[:at]) if is_config(other)), default=0)
        part = option.removesuffix("class_path")
        first = next(n for n in range(begin, at + 1) if ordered[n].startswith(part))
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
