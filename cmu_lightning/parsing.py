"""Command lines and YAML files, before torch is imported."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import dotenv
import yaml

from cmu_lightning.errors import UserError


def read_mapping(path: Path, what: str, needs: str) -> dict[str, Any]:
    """What a file says.

    Args:
        path: Path of the file.
        what: Is in it.
        needs: What to write into one that says nothing.

    Raises:
        UserError: It cannot be read, is no YAML, no mapping, or says something twice.
    """
    try:
        loader = yaml.SafeLoader(path.read_text())
        node = loader.get_single_node()
        said = None if node is None else loader.construct_document(node)
    except OSError as error:
        raise UserError(f"the {what} {path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the {what} {path} is not text: give a YAML file") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"the {what} {path} is not YAML ({where}): mend it, without tabs and odd signs") from error
    if said is None:
        raise UserError(f"the {what} {path} is empty: {needs}")
    if not isinstance(said, dict):
        raise UserError(f"the {what} {path} holds no mapping: {needs}")
    for key, line in _twice(node):
        raise UserError(f"the {what} {path} says {key} twice, again in line {line}: leave one")
    return said


def _twice(node: yaml.Node | None) -> Iterator[tuple[str, int]]:
    """Keys that a mapping has more than once, of which YAML takes the last without a word; and their lines."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _twice(item)
    if not isinstance(node, yaml.MappingNode):
        return
    known: set[str] = set()
    for key, value in node.value:
        if key.value in known:
            yield str(key.value), key.start_mark.line + 1
        if isinstance(key, yaml.ScalarNode):
            known.add(key.value)
        yield from _twice(value)


PACKAGE = Path(__file__).parent
CONFIGS = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE)
"""The project's configs: inside an installed package, or beside it in a checkout."""

PROGRAM = "python -m cmu_lightning"


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
        takes = last.startswith("--") and "=" not in last and last not in ("--help", "--print_config")
        takes |= last == "-c"
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


def _refuse_unreadable(path: Path) -> None:

    read_mapping(path, "config", "write lines such as `seed_everything: 1`")
