"""Command lines, YAML files and `.env`, read without importing torch."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import dotenv
import yaml

from cmu_lightning.errors import UserError

PACKAGE = Path(__file__).parent
CONFIGS = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE)
"""The project's configs: inside an installed package, next to the package in a checkout."""

PROGRAM = "python -m cmu_lightning"


class Parser(argparse.ArgumentParser):
    """The parser of a light command, one that does not go through LightningCLI.

    Args:
        command: Name of the command.
        description: What the command does, as shown by --help.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"{PROGRAM} {command}", description=description, allow_abbrev=False)
        self.command = command

    def error(self, message: str) -> NoReturn:
        """Raise a mistake of the user in place of argparse's exit.

        Args:
            message: argparse's complaint.

        Raises:
            UserError: Always.
        """
        raise UserError(f"{self.command}: {message}; see {self.command} --help")


def read_env() -> None:
    """Set the variables in the current folder's `.env` that the environment does not set itself.

    Raises:
        UserError: The file cannot be read.
    """
    try:
        dotenv.load_dotenv(".env")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the file .env cannot be read ({error}): write lines such as WANDB_MODE=offline, in UTF-8"
        ) from error


def read_mapping(path: Path, description: str, hint: str) -> dict[str, Any]:
    """Return the content of a YAML file that holds one mapping.

    Args:
        path: Path of the file.
        description: Kind of file, as error messages name it.
        hint: What to write into a file that holds no mapping.

    Raises:
        UserError: The file cannot be read, is not YAML, is no mapping, or has a key twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text())
        node = loader.get_single_node()
        content = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UserError(f"the {description} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {description} {path} is not text: give a YAML file") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise UserError(
            f"the {description} {path} is not YAML ({problem}): correct that place, without tabs and odd signs"
        ) from error
    if content is None:
        raise UserError(f"the {description} {path} is empty: {hint}")
    if not isinstance(content, dict):
        raise UserError(f"the {description} {path} holds no mapping: {hint}")
    for key, line in _repeated_keys(node):
        raise UserError(f"the {description} {path} says {key} twice, again in line {line}: leave one")
    return content


def _repeated_keys(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Yield each repeated key of any mapping with its line; YAML itself takes the last value silently."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _repeated_keys(item)
    if not isinstance(node, yaml.MappingNode):
        return
    known: set[str] = set()
    for key, value in node.value:
        if key.value in known:
            yield str(key.value), key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            known.add(key.value)
        yield from _repeated_keys(value)


def attached(arguments: list[str]) -> list[str]:
    """Return the arguments with every option and its value in one.

    Args:
        arguments: Words of a command line.

    >>> attached(["fit", "--threads", "1", "--help"])
    ['fit', '--threads=1', '--help']
    """
    joined: list[str] = []
    for argument in arguments:
        last = joined[-1] if joined else ""
        takes_value = last.startswith("--") and "=" not in last and last not in ("--help", "--print_config")
        takes_value |= last == "-c"
        if takes_value and not argument.startswith("--") and argument.partition("=")[0] != "-c":
            joined[-1] = f"{last}={argument}"
        else:
            joined.append(argument)
    return joined


def is_config(argument: str) -> bool:
    """Return whether an argument is `--config` or `-c`, with or without its value."""
    return argument.partition("=")[0] in ("--config", "-c")


def find_configs(arguments: list[str]) -> list[str]:
    """Return the arguments in the form of `attached`, with every config as a path that exists.

    A name that is no file in the current folder is looked up among the project's configs.

    Args:
        arguments: Words of a command line.

    Raises:
        UserError: A config is in neither place, or cannot be read.
    """
    found = []
    for argument in attached(arguments):
        option, equals, value = argument.partition("=")
        found.append(f"{option}={_find_config(value)}" if equals and is_config(argument) else argument)
    return found


def _find_config(name: str) -> str:
    """Return the path of a config, or the name itself where it is inline YAML."""
    path, shipped = Path(name), CONFIGS / name
    if not path.exists() and (CONFIGS / f"{name}.yaml").is_file():
        raise UserError(f"there is no config {name}: give {name}.yaml")
    if path.is_file():
        read_mapping(path, "config", "write lines such as `seed_everything: 1`")  # raises what is wrong with it
    if path.exists() or not name.endswith((".yaml", ".yml", ".json")):
        return name
    if shipped.exists():
        return str(shipped)
    known = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    raise UserError(f"there is no config {name}, neither here nor among the project's: {', '.join(known)}")
