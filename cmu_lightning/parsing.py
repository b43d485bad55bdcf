"""From what was typed to what the parser takes, and from its complaints to one sentence."""

import argparse
import re
from pathlib import Path
from typing import NoReturn

import dotenv

from cmu_lightning.errors import UserError

PACKAGE = Path(__file__).parent
CONFIGS = next((folder for folder in (PACKAGE / "configs", PACKAGE.parent / "configs") if folder.is_dir()), PACKAGE)
"""The project's configs: inside an installed package, or beside it in a checkout."""

NOISE = re.compile(
    r"Does not validate against|^Subtypes:|^Errors:|NoneType|^Given value|^Expected a path but|^tip:|^usage:"
)
DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


class Parser(argparse.ArgumentParser):
    """Of a command that is not LightningCLI's.

    Args:
        command: Its name.
        description: What it does.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(f"python -m cmu_lightning {command}", description=description, allow_abbrev=False)
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


def find_configs(arguments: list[str]) -> list[str]:
    """Arguments, with the names of configs that do not exist as given looked up among the project's.

    Raises:
        UserError: A config is neither here nor there.
    """
    found = list(arguments)
    for at, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if equals and option in ("--config", "-c"):
            found[at] = f"{option}={_find(value)}"
        elif at and arguments[at - 1] in ("--config", "-c"):
            found[at] = _find(argument)
    return found


def _find(name: str) -> str:
    shipped = CONFIGS / name
    if Path(name).is_file():
        _refuse_unreadable(Path(name))
    if Path(name).exists() or not name.endswith((".yaml", ".yml", ".json")):
        return name
    if shipped.exists():
        return str(shipped)
    known = sorted(str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob("*.yaml"))
    raise UserError(f"there is no config {name}, neither here nor among the project's: {', '.join(known)}")


def with_class_path(arguments: list[str]) -> list[str]:
    """Arguments, with a network's dotted name as a class_path: a bare one of a function would take no arguments."""
    spelled = list(arguments)
    for at, argument in enumerate(arguments):
        option, equals, value = argument.partition("=")
        if equals and option == "--network" and DOTTED.fullmatch(value):
            spelled[at] = f'--network={{"class_path": "{value}"}}'
        elif at and arguments[at - 1] == "--network" and DOTTED.fullmatch(argument):
            spelled[at] = f'{{"class_path": "{argument}"}}'
    return spelled


def _refuse_unreadable(path: Path) -> None:
    import yaml  # which reports do not need

    try:
        said = yaml.safe_load(path.read_text())
    except UnicodeDecodeError as error:
        raise UserError(f"the config {path} is not text: give a YAML file") from error
    except yaml.YAMLError as error:
        where = " ".join(str(error).split())
        raise UserError(f"the config {path} is not YAML ({where}): mend it, without tabs and odd signs") from error
    if said is None:
        raise UserError(f"the config {path} is empty: give one that says something")
    if not isinstance(said, dict):
        raise UserError(f"the config {path} holds no options: write lines such as `seed_everything: 1`")


SPELLED = tuple(
    (re.compile(pattern), instead)
    for pattern, instead in (
        (r"(Expected a (?:<class '\w+'>|typing\.Literal\[[^]]*\])) (?=Expected)", r"\1 or "),
        (r"Parser key \"([^\"]+)\":", r"--\1:"),
        (r"Type [\w.]*Callable\[.*?\]\S* \S+ expects a function or a callable class:", ""),
        (r"Problem with given class_path '(?:\w+\.)*(\w+)':", r"\1:"),
        (r"Got value: Namespace\(.*\)$", ""),
        *[(r"--([\w.]+): (?:\w+: )?--(\w+)", r"--\1.\2")] * 4,  # an option in an option, which is typed with a dot
        (r"(?:Type )?Expected a <class '(\w+)'>", r"expected \1"),
        (r"Expected a typing\.Literal\[([^]]*)\]", r"expected one of \1"),
        (r"Expected an import path or a subclass spec, but got None.*", "is missing, give a setting"),
        (
            r"Expected a dot import path string: (\S+)",
            r"there is no class \1, check its spelling or give its full path",
        ),
        (r"Expected an instantiatable class, but.*is abstract", "an abstract class, give one that is made of it"),
        (r"Subcommand '\w+' does not accept option '([\w.]+)'", r"Option '\1' is not accepted"),
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
    return text.strip().rstrip(".")
