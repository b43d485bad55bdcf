"""From what was typed to what the parser takes."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

import dotenv

from cmu_lightning.errors import UserError

PACKAGE = Path(__file__).parent
CONFIGS = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE)
"""The project's configs: inside an installed package, or beside it in a checkout."""

PROGRAM = "python -m cmu_lightning"

DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")
TIGHT = re.compile(r"\{\s*\d+:\d+(\s*,\s*\d+:\d+)*\s*\}")
"""A mapping of numbers to which YAML needs blanks."""


class Parser(argparse.ArgumentParser):
    """Of a command that is not LightningCLI's.

    Args:
        command: Its name.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"{PROGRAM} {command}", description=description, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        """One sentence, as for every other mistake."""
        raise UserError(f"{self.command}: {message}; see {self.command} --help")


def read_env() -> None:
    """Take over what the file .env in the current folder says, unless the environment says it.

    Raises:
        UserError: It cannot be read.
    """
    try:
        dotenv.load_dotenv(".env")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file .env cannot be read ({error}): write lines such as WANDB_MODE=offline, in UTF-8"
        ) from error


def attached(arguments: list[str]) -> list[str]:
    """Arguments, every option's value in one with it: `--threads 1` is `--threads=1`."""
    joined: list[str] = []
    for argument in arguments:
        last = joined[-1] if joined else ""
        takes = "=" not in last and (last.startswith("--") or last == "-c")
        if takes and not argument.startswith("--") and argument.partition("=")[0] != "-c":
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def is_config(argument: str) -> bool:
    """Whether it names a config."""
    return argument.partition("=")[0] in ("--config", "-c")


def find_configs(arguments: list[str]) -> list[str]:
    """Arguments as `attached`, with the names of configs that do not exist as given looked up among the project's.

    Raises:
        UserError: A config is neither here nor there.
    """
    found = []
    for argument in attached(arguments):
        option, equals, value = argument.partition("=")
        found.append(f"{option}={_find(value)}" if equals and is_config(argument) else argument)
    return found


def _find(name: str) -> str:
    if not Path(name).exists() and (CONFIGS / f"{name}.yaml").is_file():
        raise UserError(f"there is no config {name}: give {name}.yaml")
    shipped = CONFIGS / name
    if Path(name).is_file():
        _refuse_unreadable(Path(name))
    if Path(name).exists() or not name.endswith((".yaml", ".yml", ".json")):
        return name
    if shipped.exists():
        return str(shipped)
    known = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    raise UserError(f"there is no config {name}, neither here nor among the project's: {', '.join(known)}")


def as_taken(arguments: list[str]) -> list[str]:
    """Arguments as `attached`, with what the parser would take for something else spelled so that it does not.

    A class comes before its options, for a sweep has them sorted by name. A network's dotted name is a class_path, for
    a function named alone would take no arguments. null of an option two classes deep is a config, for there the
    parser reads the text "None". {3:5} is a mapping, without the blank that YAML wants, too.
    """
    return [_as_taken(argument) for argument in _classes_first(attached(arguments))]


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


def _refuse_unreadable(path: Path) -> None:
    from cmu_lightning.yaml_file import read_mapping  # reports need no YAML

    read_mapping(path, "config", "write lines such as `seed_everything: 1`")
