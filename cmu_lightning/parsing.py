"""Command lines and `.env`, read without importing torch."""

import argparse
import sysconfig
from difflib import get_close_matches
from pathlib import Path
from typing import NoReturn

import dotenv

from cmu_lightning.errors import UserError

PACKAGE = Path(__file__).parent
CONFIGS = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE)
"""The project's configs: inside an installed package, next to the package in a checkout."""

INSTALLED = [
    PACKAGE.resolve(),
    *(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")),
]
"""Folders whose files a user does not edit."""

PROGRAM = "python -m cmu_lightning"

EXAMPLE = "runs/poison_digits/SSD/0-0123456789"
"""A run folder, as messages show one."""


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
        """Raise a mistake of the user instead of argparse's exit.

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


def name_config(arguments: list[str]) -> list[str]:
    """Return the words of `fit` or `test` in the form of `attached`, `test RUN` with what it is short for.

    Args:
        arguments: Words of the command line; options may precede the command.

    Raises:
        UserError: A word is no option, the command names no setting, or the run has no config.

    >>> name_config(["fit", "--threads", "1", "-c", "poison_digits.yaml"])
    ['fit', '--threads=1', '-c=poison_digits.yaml']
    """
    words = attached(arguments)
    command, *others = [word for word in words if not word.startswith("-")] or [""]
    options = [word for word in words if word.startswith("-")]
    if any(option in ("--help", "-h") or option.partition("=")[0].endswith(".help") for option in options):
        return words
    names = {word.partition("=")[0].partition(".")[0] for word in options}
    if command == "test" and len(others) == 1 and not any(map(is_config, options)):
        run = Path(others[0])
        if not (run / "config.yaml").is_file():
            raise UserError(f"{run} is not a run: it has no config.yaml; give one such as {EXAMPLE}")
        return [command, f"--config={run / 'config.yaml'}", f"--ckpt_path={run / 'last.ckpt'}", *options]
    if others:
        raise UserError(f"{command} takes options, and {others[0]} is none: {_meant(others[0])}")
    if command == "fit" and not names & {"--config", "-c", "--setting", "--data", "--model"}:
        raise UserError(f"fit needs a setting: give --config and one of {', '.join(_settings())}")
    if command == "test" and not names & {"--config", "-c", "--setting", "--data"}:
        raise UserError(f"test needs a run: give the folder of one, such as test {EXAMPLE}")
    return words


def _meant(word: str) -> str:
    """Return what to write instead of a word that is not an option."""
    known = _known_configs()
    if Path(word).is_file() or word in known:
        return f"write --config {word}"
    stem = word.removesuffix(".yaml")
    names = {Path(name).stem: name for name in known}
    similar = [names[name] for name in get_close_matches(Path(stem).name, names, 1, cutoff=0.75)]
    near = [f"{stem}.yaml", f"unlearn/{stem.lower()}.yaml", *similar]
    found = [name for name in near if name in known]
    return f"did you mean --config {found[0]}?" if found else "write --config before a config, --NAME before a value"


def _settings() -> list[str]:
    """Return the names of the project's configs that state a setting."""
    return [path.name for path in sorted(CONFIGS.glob("*.yaml")) if "setting:" in path.read_text()]


def _known_configs() -> list[str]:
    """Return the names of the project's configs."""
    return sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))


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
    from cmu_lightning.yaml_files import TooLargeYAML, check_yaml  # reports need no YAML

    found = []
    for argument in attached(arguments):
        option, equals, value = argument.partition("=")
        try:
            check_yaml(value)  # a value may be YAML, too
        except TooLargeYAML as error:
            raise UserError(f"the value of {option} {error}: write fewer, or none") from error
        found.append(f"{option}={_find_config(value)}" if equals and is_config(argument) else argument)
    return found


def _find_config(name: str) -> str:
    """Return the path of a config, or the name itself where it is inline YAML."""
    if "\n" in name or ": " in name:
        return name
    path, shipped = Path(name), CONFIGS / name
    if not path.exists() and (CONFIGS / f"{name}.yaml").is_file():
        raise UserError(f"there is no config {name}: give {name}.yaml")
    if path.is_file():
        from cmu_lightning.yaml_files import read_mapping

        read_mapping(path, "config", "write lines such as `seed_everything: 1`")  # raises what is wrong with it
    if path.exists() or not name.endswith((".yaml", ".yml", ".json")):
        return name
    if shipped.exists():
        return str(shipped)
    known = _known_configs()
    close = "".join(f" (did you mean {near}?)" for near in get_close_matches(name, known, 1))
    raise UserError(f"there is no config {name}, neither here nor among the project's{close}: {', '.join(known)}")
