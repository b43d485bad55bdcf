"""Which classes and functions a config may name.

A config may come from a stranger, and the classes and functions that it names are called with the arguments that it
states. Therefore a network must come from a network class or from a function that makes networks, other parts must come
from classes of a known kind, and nothing that belongs to Python itself is imported or called.
"""

import re
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.util import find_spec
from inspect import isclass, isfunction, ismodule
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, get_type_hints

import yaml
from jsonargparse import get_loader, set_loader, set_parsing_settings
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.pytorch import Callback, LightningDataModule
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.loggers import Logger
from lightning.pytorch.plugins import CheckpointIO, LayerSync, Precision
from lightning.pytorch.profilers import Profiler
from lightning.pytorch.strategies import Strategy
from torch import nn
from torch.optim import Optimizer

from cmu_lightning.errors import UserError
from cmu_lightning.parsing import INSTALLED
from cmu_lightning.yaml_files import UNREADABLE, check_yaml

KINDS = (
    *(nn.Module, Optimizer, LightningDataModule, Callback, Logger),
    *(Accelerator, CheckpointIO, ClusterEnvironment, LayerSync, Precision, Profiler, Strategy),
)
"""Bases of installed classes that a config may name at any place."""

OWN_PACKAGES = ("cmu_lightning", "torchvision")
"""Packages all of whose classes a config may name: manipulations and transforms have bases of their own."""

TOOLS = ("jsonargparse", "lightning", "lightning_fabric", "pytorch_lightning", "torch")
"""Packages whose functions do not count as making networks, although some return one: they read and run files."""


@cache
def standard_library() -> frozenset[str]:
    """Return the names of Python's own modules, except those that a file of the user replaces."""
    names = sys.stdlib_module_names
    folders = [Path(entry or ".") for entry in sys.path]
    # Only a file in a folder of the user can replace a module; locating all modules would be slow.
    own = [folder for folder in folders if folder.is_dir() and not _is_installed(folder)]
    doubtful = {path.name.partition(".")[0] for folder in own for path in folder.iterdir()} & names
    return frozenset(name for name in names if name not in doubtful or _is_installed(_origin(name)))


def _origin(name: str) -> Path:
    """Return the file of a module, or a file of Python's own if it has none."""
    try:
        spec = find_spec(name)
    except ValueError:  # a module that was made without one
        spec = None
    has_file = spec is not None and spec.has_location and spec.origin
    return Path(str(spec.origin)) if spec is not None and has_file else INSTALLED[-1]


def _is_installed(path: Path) -> bool:
    """Return whether a file belongs to Python or to an installed package, and not to the user."""
    return any(path.resolve().is_relative_to(folder) for folder in INSTALLED)


@cache
def protect_parser() -> None:
    """Make the parser of this process refuse harmful values of a stranger's config.

    It imports no module of the standard library that a value names, it makes no object of a class that is named where
    any value is accepted, and it reads no YAML that is endless after its aliases are expanded.
    """
    denied = standard_library()
    shadowed = sorted(sys.stdlib_module_names - denied)
    set_parsing_settings(
        import_path_denylist=sorted(denied), import_path_allowlist=shadowed, instantiate_subclass_spec_in_any=False
    )
    read = get_loader("yaml")

    def read_checked(text: str) -> Any:
        check_yaml(text)
        try:
            return read(text)
        except UNREADABLE as error:
            raise yaml.YAMLError(f"a value that cannot be read: {error}") from error

    set_loader("yaml", read_checked, (yaml.YAMLError,))


def check_names(part: Any, key: str = "") -> None:
    """Check every class and function that a part of a config names, at any depth, before it is called.

    Args:
        part: Mappings, lists and scalars.
        key: Dotted name of the part, as messages name it.

    Raises:
        UserError: One of them is not what a config may name, or is not found.
    """
    named = [*_find_names(part, key)]
    # Importing a module runs it, so all names are checked before the first one is imported.
    for place, name, _ in named:
        _refuse_standard(place, name)
    for place, name, is_function in named:
        if place.rpartition(".")[2] == "network":
            find_maker(name, place)
        elif not is_function:
            _check_class(place, name)


def _find_names(part: Any, key: str) -> Iterator[tuple[str, str, bool]]:
    """Yield each class and function with a path: its place, its name, and whether it is the argument `function`.

    The parser finds names without a path.
    """
    if isinstance(part, list):
        for value in part:
            yield from _find_names(value, key)
    if not isinstance(part, dict):
        return
    for name, value in part.items():
        place = key if name in ("class_path", "init_args") else f"{key}.{name}".removeprefix(".")
        if name in ("class_path", "function") and isinstance(value, str) and re.search("[.:]", value):
            yield place, value, name == "function"
        yield from _find_names(value, place)


def _refuse_standard(place: str, name: str) -> None:
    """Refuse a name that belongs to Python itself."""
    if re.split("[.:]", name)[0] in standard_library():
        raise UserError(
            f"{place}={name} belongs to Python itself, and a config may not call it: give a class or function of your "
            "own, of this package or of a library of networks"
        )


def _check_class(place: str, name: str) -> None:
    """Refuse anything that is not a class, and installed classes of a kind that no config needs."""
    found = _resolve(place, name)
    if not isclass(found):
        raise UserError(f"{place}={name} is no class: give the path of one")
    _refuse_standard(place, f"{found.__module__}.{found.__qualname__}")
    is_known = issubclass(found, KINDS) or found.__module__.partition(".")[0] in OWN_PACKAGES
    if not is_known and not _is_own(found):
        raise UserError(
            f"{place}={name} is neither a network nor data, callback, logger or strategy, and a config may not call "
            "it: make it inside a class of your own, and name that"
        )


def _resolve(place: str, name: str) -> Any:
    """Return the object of a dotted name."""
    try:
        return resolve_name(name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"{place} needs {name}, which is not found ({error}): be in the folder of its module, or install it"
        ) from error


def _is_own(found: Any) -> bool:
    """Return whether a class or function is in a file of the user's."""
    file = getattr(sys.modules.get(found.__module__), "__file__", None)
    return found.__module__ == "__main__" or bool(file and not _is_installed(Path(file)))


def find_maker(name: str, place: str = "network") -> Callable[..., Any]:
    """Return a class of networks, or a function that makes networks.

    The annotation of a function shows that it makes networks. A function without an annotation is accepted if it can
    hardly do anything else: in a file of the user that imports torch, or in an installed module that defines networks,
    as timm's do.

    Args:
        name: Dotted name of the class or the function.
        place: Where the config names it.

    Raises:
        UserError: It is not found, or makes something else.
    """
    _refuse_standard(place, name)
    found = _resolve(place, name)
    if isclass(found) and issubclass(found, nn.Module):
        return found
    if not isfunction(found):  # classes that are no networks, objects, methods of classes, built-in functions
        raise UserError(f"{place}={name} is neither a class of networks nor a function: give a subclass of nn.Module")
    _refuse_standard(place, f"{found.__module__}.{found.__qualname__}")
    if found.__module__.partition(".")[0] in TOOLS or not _makes_networks(found):
        raise UserError(
            f"{place}={name} is no function that makes networks: annotate a function of your own with -> nn.Module, or "
            "give another one"
        )
    return found


def _makes_networks(function: Any) -> bool:
    """Return whether a function is annotated to return a network, or could be meant to."""
    try:
        returned = get_type_hints(function).get("return", Any)
    except Exception:  # an annotation of which a part is imported for type checkers only
        returned = Any
    if returned is not Any:
        return isclass(returned) and issubclass(returned, nn.Module)
    content = vars(sys.modules[function.__module__]).values()
    if _is_own(function):
        return any(ismodule(value) and value.__name__.partition(".")[0] == "torch" for value in content) or any(
            isclass(value) and issubclass(value, nn.Module) for value in content
        )
    networks = (value for value in content if isclass(value) and issubclass(value, nn.Module))
    return any(network.__module__ == function.__module__ for network in networks)
